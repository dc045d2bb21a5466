"""Write shards: each is complete on disk under its name, or absent."""

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from phys4d.data.format import (
    CHECKSUMS_NAME,
    FORMAT_VERSION,
    INDEX_NAME,
    METADATA,
    check_arrays,
    shard_name,
)
from phys4d.runtime.files import atomic_write_bytes, atomic_write_text, sha256

Members = list[tuple[str, bytes]]
"""Names and contents of the files of a sample."""


def pack(key: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> Members:
    """The files of a sample; a broken one is refused.

    Raises:
        ValueError: an array or a metadata field is missing or malformed.
    """
    missing = sorted(set(METADATA) - {"key"} - set(metadata))
    if missing:
        raise ValueError(f"sample {key} lacks metadata {missing}")
    check_arrays(key, arrays, len(metadata["objects"]))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    text = json.dumps({"key": key, **metadata}, sort_keys=True, allow_nan=False)
    return [(f"{key}.json", text.encode()), (f"{key}.npz", buffer.getvalue())]


class ShardWriter:
    """Collects samples and writes them as one shard."""

    def __init__(self, folder: Path, index: int) -> None:
        self.path = folder / shard_name(index)
        self._members: Members = []
        self.keys: list[str] = []

    def add(self, key: str, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, Any]) -> None:
        """`pack` a sample and add it."""
        self.add_packed(key, pack(key, arrays, metadata))

    def add_packed(self, key: str, members: Members) -> None:
        """Add the files of a sample.

        Raises:
            ValueError: the key is taken.
        """
        if key in self.keys:
            raise ValueError(f"sample {key} is already in {self.path.name}")
        self._members += members
        self.keys.append(key)

    def close(self) -> dict[str, Any]:
        """Write the shard, whole or not at all; returns its note for the index: name, SHA-256 and keys.

        The same samples make the same bytes.
        """
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in self._members:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        atomic_write_bytes(self.path, buffer.getvalue())
        return {"name": self.path.name, "sha256": sha256(self.path), "keys": self.keys}


def write_index(folder: Path, shards: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> None:
    """Write the split's checksums and index, last: a split without an index is unfinished."""
    sums = "".join(f"{shard['sha256']}  {shard['name']}\n" for shard in shards)
    atomic_write_text(folder / CHECKSUMS_NAME, sums)
    index = {
        "format_version": FORMAT_VERSION,
        "num_samples": sum(len(shard["keys"]) for shard in shards),
        "shards": list(shards),
        **settings,
    }
    atomic_write_text(folder / INDEX_NAME, json.dumps(index, indent=1, sort_keys=True) + "\n")


def inspect_shard(path: Path) -> dict[str, Any] | None:
    """The note of a finished shard, or None where there is no such file or it is broken."""
    if not path.is_file():
        return None
    try:
        with tarfile.open(path) as tar:
            names = tar.getnames()
            for name in names:
                member = tar.extractfile(name)
                # testzip reads all arrays and compares their checksums.
                if member is None or (name.endswith(".npz") and zipfile.ZipFile(member).testzip()):
                    return None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error):
        return None
    return {
        "name": path.name,
        "sha256": sha256(path),
        "keys": [name.removesuffix(".json") for name in names if name.endswith(".json")],
    }
