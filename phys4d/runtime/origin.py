"""What a training goes out from, so that it is not continued from something else."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from phys4d.runtime.errors import UserError

WHOLE_BYTES, END_BYTES = 64 << 20, 1 << 20


def digests(sources: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of files, and of all safetensors files in folders, by the names given.

    Of files over 64 MiB their size, first and last MiB count: weights that were trained on differ there too.

    Raises:
        FileNotFoundError: a source is not there.
    """
    return {name: _digest(path) for name, path in sources.items()}


def check_same(checkpoint: Path, before: Mapping[str, str], now: Mapping[str, str], stage: Path) -> None:
    """Refuse to go on from a checkpoint that was trained from something else.

    Raises:
        UserError: names what differs, and the way out.
    """
    changed = [name for name, digest in now.items() if before.get(name) != digest]
    if changed:
        raise UserError(
            f"{checkpoint} was trained from something else ({', '.join(changed)} differ); remove {stage} to "
            "train anew, or name another run"
        )


def _weights(folder: Path) -> list[Path]:
    """All safetensors files below, also in the linked folders of a published model."""
    walk = os.walk(folder, followlinks=True)
    found = sorted(Path(place, name) for place, _, names in walk for name in names)
    if not (found := [path for path in found if path.suffix == ".safetensors"]):
        raise FileNotFoundError(
            f"no safetensors file in {folder}; the stage that writes them has to be run again"
        )
    return found


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in _weights(path) if path.is_dir() else [path]:
        size = file.stat().st_size
        digest.update(f"{file.name} {size}".encode())
        with file.open("rb") as content:
            if size <= WHOLE_BYTES:
                digest.update(content.read())
            else:
                digest.update(content.read(END_BYTES))
                content.seek(-END_BYTES, 2)
                digest.update(content.read())
    return digest.hexdigest()
