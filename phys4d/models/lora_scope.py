"""Where an adapter works: in which blocks, and at which noise levels."""

from __future__ import annotations

import inspect
import json
import threading
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from phys4d.models.protocol import VideoModel
from phys4d.runtime.files import atomic_write_text

SCOPE_FILE = "scope.json"


def chosen_blocks(layers: str, num_blocks: int) -> list[int]:
    """Block numbers of `all`, or of numbers and ranges such as `0-2,5`; the last of a range counts.

    Raises:
        ValueError: no such block, or no such notation.
    """
    if layers == "all":
        return list(range(num_blocks))
    chosen: set[int] = set()
    for part in layers.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise ValueError(f"LoRA layers must be 'all' or such as '0-2,5', got {layers!r}")
        chosen |= set(range(int(first), int(last or first) + 1))
    outside = sorted(chosen - set(range(num_blocks)))
    if outside or not chosen:
        raise ValueError(f"LoRA layers {layers!r} name block {outside}, the model has 0 to {num_blocks - 1}")
    return sorted(chosen)


def targets_in_blocks(model: VideoModel, layers: str) -> tuple[str, ...]:
    """`model.lora_targets`, or the full names of those in the chosen blocks only."""
    if layers == "all":
        return model.lora_targets
    inside = {
        id(m) for block in chosen_blocks(layers, len(model.blocks)) for m in model.blocks[block].modules()
    }
    return tuple(
        name
        for name, module in model.transformer.named_modules()
        if id(module) in inside and any(name == t or name.endswith(f".{t}") for t in model.lora_targets)
    )


class _Gate:
    """Which videos of a call an adapter works on; calls run beside each other in threads."""

    def __init__(self, transformer: nn.Module, min_level: float) -> None:
        self.min_level = min_level
        names = list(inspect.signature(transformer.forward).parameters)
        self._place, self._name = next((i, n) for i, n in enumerate(names) if n.startswith("timestep"))
        self._of_thread: dict[int, Tensor] = {}
        self._newest = torch.zeros(0)

    def look(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before a call of the transformer: note which videos are noisy enough."""
        batch = next(iter([*args, *kwargs.values()])).shape[0]
        timestep = kwargs[self._name] if self._name in kwargs else args[self._place]
        # One timestep per video, or one per token that is 0 where the first frame is given. The grid of
        # v-prediction counts from 0.
        newest = timestep.reshape(batch, -1).amax(1) >= 1000 * self.min_level - 1
        self._newest = self._of_thread[threading.get_ident()] = newest

    def scale(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """After an adapter's layer: nothing where the video is not noisy enough."""
        # A block computed anew in the backward pass may run in a thread of autograd.
        works = self._of_thread.get(threading.get_ident(), self._newest)
        rows = works.repeat_interleave(output.shape[0] // len(works))
        return output * rows.view(-1, *[1] * (output.ndim - 1)).to(output.dtype)


def limit_to_levels(transformer: Any, name: str, min_level: float) -> None:
    """Let adapter `name` work only on videos at noise level `min_level` or above, in [0, 1]."""
    if not 0 <= min_level <= 1:
        raise ValueError(f"the least noise level of an adapter must be in [0, 1], got {min_level}")
    if min_level == 0:
        return
    gate = _Gate(transformer, min_level)
    transformer.register_forward_pre_hook(gate.look, with_kwargs=True)
    for module in transformer.modules():
        if name in getattr(module, "lora_B", ()):
            module.lora_B[name].register_forward_hook(gate.scale)
    transformer.least_levels = {**getattr(transformer, "least_levels", {}), name: min_level}


def least_level(transformer: Any, name: str) -> float:
    """The noise level from which an adapter works; 0 for all."""
    return getattr(transformer, "least_levels", {}).get(name, 0.0)


def save_scope(directory: Path, min_level: float) -> None:
    """Say beside an adapter's weights from which noise level it works."""
    atomic_write_text(directory / SCOPE_FILE, json.dumps({"min_level": min_level}) + "\n")


def load_scope(directory: Path) -> float:
    """What `save_scope` wrote; 0 where there is nothing."""
    path = directory / SCOPE_FILE
    return float(json.loads(path.read_text())["min_level"]) if path.is_file() else 0.0
