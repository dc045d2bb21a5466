"""What NumPy and torch spell differently."""

import sys
from types import ModuleType
from typing import Any

import numpy as np


def namespace(array: Any) -> ModuleType:
    """`numpy` for a NumPy array, `torch` for a tensor; both have floor, stack, where, isfinite, einsum."""
    if isinstance(array, np.ndarray | np.generic):
        return np
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return torch
    raise ValueError(f"expected a NumPy array or a torch tensor, got {type(array).__name__}")


def like(values: Any, array: Any) -> Any:
    """`values` as an array of the library, type and device of `array`."""
    if namespace(array) is np:
        return np.asarray(values, dtype=array.dtype)
    return sys.modules["torch"].as_tensor(values, dtype=array.dtype, device=array.device)


def whole(array: Any) -> Any:
    """As 64-bit integers, for indexing."""
    return array.astype(np.int64) if namespace(array) is np else array.long()


def host(array: Any) -> np.ndarray:
    """As a NumPy array in main memory, without its graph."""
    return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
