"""Names and shapes of the dataset on disk, shared by its writer and its reader.

    DIR/SPLIT/index.json         what is there: samples, shards with their SHA-256 and keys, settings
    DIR/SPLIT/shard-000000.tar   WebDataset layout, 32 samples; of each sample two files:
        000017.json              key, caption, spec, camera, objects, engine
        000017.npz               the arrays below

T frames of H x W pixels, O objects. Units and frames as in `phys4d.types`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT_VERSION = 1
SAMPLES_PER_SHARD = 32
INDEX_NAME = "index.json"

ARRAYS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "rgb": ("uint8", ("T", "H", "W", 3)),
    "depth": ("float32", ("T", "H", "W")),
    "motion": ("float32", ("T-1", "H", "W", 3)),
    "object_ids": ("uint8", ("T", "H", "W")),
    "visible": ("bool", ("T-1", "H", "W")),
    "position": ("float64", ("T", "O", 3)),
    "rotation": ("float64", ("T", "O", 3, 3)),
}
METADATA = ("key", "caption", "spec", "camera", "objects", "engine")


def shard_name(index: int) -> str:
    """`shard-000003.tar`."""
    return f"shard-{index:06d}.tar"


def check_arrays(key: str, arrays: Mapping[str, np.ndarray], num_objects: int) -> None:
    """Refuse a sample whose arrays are missing, of the wrong shape or type, or not finite.

    Raises:
        ValueError: names the sample, the array and the rule.
    """
    missing = sorted(set(ARRAYS) - set(arrays))
    if missing:
        raise ValueError(f"sample {key} lacks {missing}")
    if arrays["rgb"].ndim != 4:
        raise ValueError(f"sample {key}: rgb must be frames x height x width x 3, got {arrays['rgb'].shape}")
    frames, height, width = arrays["rgb"].shape[:3]
    sizes: dict[Any, int] = {"T": frames, "T-1": frames - 1, "H": height, "W": width, "O": num_objects}
    for name, (dtype, axes) in ARRAYS.items():
        array = arrays[name]
        shape = tuple(sizes.get(axis, axis) for axis in axes)
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise ValueError(f"sample {key}: {name} must be {dtype} {shape}, got {array.dtype} {array.shape}")
        # Depth alone may be NaN: a pixel without a surface.
        bad = np.isinf(array) if name == "depth" else ~np.isfinite(array)
        if dtype.startswith("float") and bad.any():
            raise ValueError(f"sample {key}: {name} holds {int(bad.sum())} values that are not finite")
    if arrays["object_ids"].max(initial=0) > num_objects:
        raise ValueError(
            f"sample {key}: object_ids up to {arrays['object_ids'].max()} for {num_objects} objects"
        )
