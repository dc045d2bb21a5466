"""Checkpoints of a run: directories `step-000040/`, of which the last few are kept.

A checkpoint is written under a hidden name and renamed when whole, with a manifest of its files' sizes,
so that a copy that was cut short is told from a whole one.
"""

import contextlib
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from phys4d.runtime.files import atomic_directory

MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d{6,})")


@contextlib.contextmanager
def new_checkpoint(folder: Path | str, step: int, *, keep: int = 2) -> Iterator[Path]:
    """Yield an empty directory to write into; it becomes `folder/step-<step>` when the block ends well.

    Afterwards all but the `keep` checkpoints with the highest steps are removed.
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1 checkpoint, got {keep}")
    folder = Path(folder)
    with atomic_directory(folder / f"step-{step:06d}", replace=True) as partial:
        yield partial
        files = [path for path in sorted(partial.rglob("*")) if path.is_file()]
        manifest = {str(path.relative_to(partial)): path.stat().st_size for path in files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in checkpoints(folder)[:-keep]:
        shutil.rmtree(path)


def checkpoints(folder: Path | str) -> list[Path]:
    """Whole checkpoints, the oldest step first; incomplete ones are named on stderr and left out."""
    whole = []
    folder = Path(folder)
    entries = [path for path in folder.iterdir() if NAME.fullmatch(path.name)] if folder.is_dir() else []
    for path in sorted(entries, key=step_of):
        fault = _fault(path)
        if fault:
            print(f"warning: ignoring checkpoint {path}: {fault}", file=sys.stderr)
        else:
            whole.append(path)
    return whole


def latest(folder: Path | str) -> Path | None:
    """The whole checkpoint with the highest step, or None."""
    found = checkpoints(folder)
    return found[-1] if found else None


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    match = NAME.fullmatch(path.name)
    if match is None:
        raise ValueError(f"a checkpoint is named step-<6 digits>, got {path.name!r}")
    return int(match[1])


def _fault(path: Path) -> str:
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):
        return f"no {MANIFEST}"
    except json.JSONDecodeError:
        return f"{MANIFEST} is cut short"
    for name, size in manifest.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return ""
