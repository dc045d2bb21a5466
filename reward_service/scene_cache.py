"""Scenes remembered by how many bytes they take: 848 x 480 pixels take 3.7 MB, 64 x 48 little."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Generic, TypeVar

import mujoco
import numpy as np

Value = TypeVar("Value")


class SceneCache(Generic[Value]):
    """The values used last, of `max_bytes` together; the latest one also if it alone takes more."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._values: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value under a key, made if it is not remembered."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][0]
        value = make()
        size = num_bytes(value)
        with self._lock:
            self.held_bytes -= self._values.pop(key, (None, 0))[1]
            self._values[key] = value, size
            self.held_bytes += size
            while self.held_bytes > self.max_bytes and len(self._values) > 1:
                self.held_bytes -= self._values.popitem(last=False)[1][1]
        return value


def num_bytes(value: Any) -> int:
    """Bytes of the arrays and models in a value, each counted once."""
    seen: dict[int, int] = {}

    def visit(part: Any) -> None:
        if id(part) in seen:
            return
        if isinstance(part, np.ndarray):
            seen[id(part)] = part.nbytes
        elif isinstance(part, mujoco.MjModel):
            seen[id(part)] = mujoco.mj_sizeModel(part)
        else:
            seen[id(part)] = 0
            if is_dataclass(part):
                inner = [getattr(part, field.name) for field in fields(part)]
            elif isinstance(part, Mapping):
                inner = list(part.values())
            else:
                inner = part if isinstance(part, tuple | list) else ()
            for each in inner:
                visit(each)

    visit(value)
    return sum(seen.values())
