"""Read a dataset: samples by number, arrays stacked over all samples."""

import difflib
import io
import json
import tarfile
import zipfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from phys4d.data.format import (
    ARRAYS,
    CATEGORY_NAMES,
    FORMAT_VERSION,
    INDEX_NAME,
    MORE_ARRAYS,
    check_arrays,
)
from phys4d.runtime.files import sha256
from phys4d.runtime.progress import progress
from phys4d.types import Camera, SceneSpec

STACKED_AXES = {"T", "T-1", "H", "W", 3}
"""Axes that all samples of a split have alike."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """One annotated video. Units and frames as in `phys4d.types`."""

    key: str
    spec: SceneSpec
    camera: Camera
    caption: str
    objects: list[dict[str, Any]]
    """Of each object its name, shape, size_m, color_rgb, material, mass_kg; instance id is the index + 1."""
    engine: str
    rgb: UInt8[np.ndarray, "frames height width 3"]
    depth: Float32[np.ndarray, "frames height width"]
    motion: Float32[np.ndarray, "frames-1 height width 3"]
    object_ids: UInt8[np.ndarray, "frames height width"]
    visible: Bool[np.ndarray, "frames-1 height width"]
    position: Float64[np.ndarray, "frames objects 3"]
    rotation: Float64[np.ndarray, "frames objects 3 3"]
    more: dict[str, np.ndarray] = field(default_factory=dict)
    """Those of `format.MORE_ARRAYS` that the sample has, by name: normals, tracks, particles and so on."""
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each field in `more` its unit, origin_m and spacing_m."""
    spec_take2: SceneSpec | None = None
    """Of the second take."""

    @property
    def category_ids(self) -> UInt8[np.ndarray, "frames height width"]:
        """Category mask: 1 + the category's place in `format.CATEGORY_NAMES`, 0 where nothing moves."""
        return (self.object_ids > 0) * np.uint8(1 + CATEGORY_NAMES.index(self.spec.category))


class Dataset:
    """A split of a dataset. Samples are read when asked for; a shard's checksum is checked at first use."""

    def __init__(self, folder: Path, index: dict[str, Any]) -> None:
        self.folder = folder
        self.index = index
        self.keys: list[str] = [key for shard in index["shards"] for key in shard["keys"]]
        self._shard_of_key = {key: shard for shard in index["shards"] for key in shard["keys"]}
        self._members: dict[str, dict[str, tuple[int, int]]] = {}

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> Sample:
        key = self.keys[number]
        metadata = self._metadata(key)
        arrays = self._arrays(key)
        check_arrays(key, arrays, len(metadata["objects"]))
        return Sample(
            key=key,
            spec=SceneSpec(**metadata["spec"]),
            camera=Camera.from_dict(metadata["camera"]),
            caption=metadata["caption"],
            objects=metadata["objects"],
            engine=metadata["engine"],
            more={name: array for name, array in arrays.items() if name in MORE_ARRAYS},
            fields=metadata.get("fields", {}),
            spec_take2=SceneSpec(**metadata["spec_take2"]) if "spec_take2" in metadata else None,
            **{name: arrays[name] for name in ARRAYS},
        )

    def captions(self) -> list[str]:
        """The captions of all samples."""
        return list(self._captions)

    def cameras(self) -> list[Camera]:
        """The cameras of all samples."""
        return [Camera.from_dict(self._metadata(key)["camera"]) for key in self.keys]

    @cached_property
    def _captions(self) -> list[str]:
        return [self._metadata(key)["caption"] for key in self.keys]

    def stack(self, name: str) -> np.ndarray:
        """One array of all samples, e.g. `rgb` as uint8 (N, T, H, W, 3); needs equal shapes."""
        known = [n for n, (_, axes) in {**ARRAYS, **MORE_ARRAYS}.items() if set(axes) <= STACKED_AXES]
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"no array {name!r} to stack; {hint}")
        if not self.keys:
            raise ValueError(f"{self.folder} holds no samples")
        first = self._arrays(self.keys[0], (name,))[name]
        stacked = np.empty((len(self), *first.shape), first.dtype)
        for number, key in enumerate(progress(self.keys, desc=f"reading {name}", unit="video")):
            array = self._arrays(key, (name,))[name]
            if array.shape != first.shape:
                raise ValueError(
                    f"sample {key}: {name} is {array.shape}, the first sample's is {first.shape}"
                )
            stacked[number] = array
        return stacked

    def _metadata(self, key: str) -> dict[str, Any]:
        return json.loads(self._read(key, "json"))

    def _arrays(self, key: str, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
        """The named arrays of a sample, or all that it has."""
        try:
            with np.load(io.BytesIO(self._read(key, "npz"))) as arrays:
                return {name: arrays[name] for name in (arrays.files if names is None else names)}
        except KeyError as error:
            raise ValueError(
                f"sample {key} in {self.folder} has no array {error}; "
                "--annotations full and --second-take make more"
            ) from None
        except zipfile.BadZipFile as error:
            raise ValueError(f"sample {key} in {self.folder} is broken: {error}") from None

    def _read(self, key: str, ending: str) -> bytes:
        shard = self._shard_of_key[key]
        path = self.folder / shard["name"]
        if shard["name"] not in self._members:
            self._members[shard["name"]] = _open_shard(path, shard["sha256"])
        start, size = self._members[shard["name"]][f"{key}.{ending}"]
        with open(path, "rb") as stream:
            stream.seek(start)
            return stream.read(size)


def open_dataset(path: Path | str, split: str) -> Dataset:
    """Open one split of a dataset.

    Raises:
        FileNotFoundError: there is no finished split; tells how to make it.
        ValueError: the index is of another format.
    """
    folder = Path(path) / split
    index_path = folder / INDEX_NAME
    if not index_path.is_file():
        what = "is unfinished" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(
            f"dataset {folder} {what} (no {INDEX_NAME}); "
            f"make it with: {_command(path, split)} --num-samples N"
        )
    return Dataset(folder, load_index(index_path))


def load_index(path: Path) -> dict[str, Any]:
    """A split's index.

    Raises:
        ValueError: it is damaged, or of another format.
    """
    try:
        index = json.loads(path.read_text())
        version = index["format_version"]
        whole = version != FORMAT_VERSION or (
            isinstance(index["settings"], dict)
            and all(
                isinstance(shard["name"], str)
                and isinstance(shard["sha256"], str)
                and all(isinstance(key, str) for key in shard["keys"])
                for shard in index["shards"]
            )
        )
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        index, whole, version = {}, False, None
    if not whole:
        command = _command(path.parent.parent, path.parent.name)
        raise ValueError(
            f"{path} is no dataset index; delete it and run {command} with the same flags as before"
        )
    if version != FORMAT_VERSION:
        raise ValueError(f"{path} is of format {version}, this program reads {FORMAT_VERSION}")
    return index


def _open_shard(path: Path, digest: str) -> dict[str, tuple[int, int]]:
    """Check a shard and find where its members lie: name to (offset, size)."""
    remedy = f"delete it and run {_command(path.parent.parent, path.parent.name)} with the same flags again"
    if not path.is_file():
        raise FileNotFoundError(f"shard {path} is missing; {remedy}")
    if sha256(path) != digest:
        raise ValueError(f"shard {path} is corrupt: its SHA-256 is not that of the index; {remedy}")
    with tarfile.open(path) as tar:
        return {member.name: (member.offset_data, member.size) for member in tar.getmembers()}


def _command(path: Path | str, split: str) -> str:
    return f"python -m phys4d.scenes.render --out {path} --split {split}"
