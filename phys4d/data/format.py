"""Names and shapes of the dataset on disk, shared by its writer and its reader.

    DIR/SPLIT/index.json         what is there: samples, shards with their SHA-256 and keys, settings
    DIR/SPLIT/shard-000000.tar   WebDataset layout, 32 samples or fewer; of each sample two files:
        000017.json              key, caption, spec, camera, objects, engine
        000017.npz               the arrays below

T frames of H x W pixels, O objects. Units and frames as in `phys4d.types`. Samples of full annotations hold
the arrays of `MORE_ARRAYS` too, those that their scene has. DIR/README.md is the data set's card, and
DIR/SPLIT/SHA256SUMS is for `sha256sum -c`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

FORMAT_VERSION = 1
SAMPLES_PER_SHARD = 32
PIXELS_PER_SHARD = 1 << 26
"""Pixels of all frames of a shard's videos at most, from two videos on: about 2 GB of arrays."""
INDEX_NAME = "index.json"
CHECKSUMS_NAME = "SHA256SUMS"
CATEGORY_NAMES = (
    "rigid",
    "articulated",
    "garments",
    "fluids",
    "thermodynamics",
    "deformable",
    "inflatables",
    "ropes",
    "granular",
)
"""The nine physical categories; the category of a pixel is 1 + the place here, and 0 where nothing moves."""

ARRAYS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "rgb": ("uint8", ("T", "H", "W", 3)),
    "depth": ("float32", ("T", "H", "W")),
    "motion": ("float32", ("T-1", "H", "W", 3)),
    "object_ids": ("uint8", ("T", "H", "W")),
    "visible": ("bool", ("T-1", "H", "W")),
    "position": ("float64", ("T", "O", 3)),
    "rotation": ("float64", ("T", "O", 3, 3)),
}
MORE_ARRAYS: dict[str, tuple[str, tuple[str | int, ...]]] = {
    # Unit normal in the camera frame, towards the camera; 0 where there is no surface.
    "normal": ("float16", ("T", "H", "W", 3)),
    # Linear (m/s, world) and angular (rad/s, body frame) of each object.
    "velocity": ("float64", ("T", "O", 6)),
    # Points on surfaces seen in frame 0: (u px, v px, z m), whether seen at each frame, and object from 0.
    "tracks": ("float32", ("T", "P", 3)),
    "tracks_visible": ("bool", ("T", "P")),
    "tracks_object": ("uint8", ("P",)),
    # (frame, instance id, instance id, x, y, z, normal x, y, z, normal force in N), world; of what MuJoCo
    # simulates alone: material points, and balls among them, have none.
    "contacts": ("float32", ("C", 10)),
    # Centres in metres, world; radius; object from 0.
    "particles": ("float32", ("T", "N", 3)),
    # m/s, world; temperature in K, and the share that has melted, in scenes of heat.
    "particles_velocity": ("float32", ("T", "N", 3)),
    "particles_temperature": ("float32", ("T", "N")),
    "particles_melted": ("float32", ("T", "N")),
    "particles_radius": ("float32", ("N",)),
    "particles_object": ("uint8", ("N",)),
    # Meshes of what bends: vertices in metres, world; triangles; object of each triangle from 0.
    "vertices": ("float32", ("T", "V", 3)),
    "faces": ("int32", ("F", 3)),
    "faces_object": ("uint8", ("F",)),
    # Scalars at cell centres; metadata `fields` says unit, origin and spacing.
    "temperature": ("float32", ("T", "X", "Y", "Z")),
    # The scene again with physics changed by about 1 %; metadata `spec_take2` is its specification.
    "rgb_take2": ("uint8", ("T", "H", "W", 3)),
    "object_ids_take2": ("uint8", ("T", "H", "W")),
    "position_take2": ("float64", ("T", "O", 3)),
}
NAN_ALLOWED = ("depth", "tracks")
"""A pixel without a surface has no depth, a point behind the camera no place in the image."""
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
    unknown = sorted(set(arrays) - set(ARRAYS) - set(MORE_ARRAYS))
    if unknown:
        raise ValueError(f"sample {key} holds unknown arrays {unknown}")
    for name, (dtype, axes) in {**ARRAYS, **MORE_ARRAYS}.items():
        if name not in arrays:
            continue
        array = arrays[name]
        if array.ndim == len(axes):
            # An axis without a size yet gets that of its first array.
            for axis, size in zip(axes, array.shape, strict=True):
                if isinstance(axis, str):
                    sizes.setdefault(axis, size)
        shape = tuple(sizes.get(axis, axis) for axis in axes)
        if array.shape != shape or array.dtype != np.dtype(dtype):
            raise ValueError(f"sample {key}: {name} must be {dtype} {shape}, got {array.dtype} {array.shape}")
        bad = np.isinf(array) if name in NAN_ALLOWED else ~np.isfinite(array)
        if dtype.startswith("float") and bad.any():
            raise ValueError(f"sample {key}: {name} holds {int(bad.sum())} values that are not finite")
    if arrays["object_ids"].max(initial=0) > num_objects:
        raise ValueError(
            f"sample {key}: object_ids up to {arrays['object_ids'].max()} for {num_objects} objects"
        )
