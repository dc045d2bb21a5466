"""Rewards with packages of their own: `package.module:Class @ requirements.txt`.

What the file lists is installed by `pip install --target` into a folder named after the file's content, once,
and comes first in the search path of that reward's scorers; other rewards and the service do not see it.
(Ray's own `pip` runtime environment copies the whole virtual environment for each such list, gigabytes here.)
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from reward_service.config import ServiceConfig


def split_requirements(entry: str) -> tuple[str, Path | None]:
    """The target of an entry of `rewards`, and the requirements file after ` @ `, if any."""
    target, separator, file = entry.rpartition(" @ ")
    return (target.strip(), Path(file.strip())) if separator else (entry, None)


def scorer_groups(config: ServiceConfig) -> list[tuple[ServiceConfig, Path | None]]:
    """Rewards that share processes: the built-in ones with those without requirements, then one by one.

    Raises:
        ValueError: a requirements file does not exist.
    """
    entries = [split_requirements(entry) for entry in config.rewards]
    shared = tuple(target for target, file in entries if file is None)
    groups: list[tuple[ServiceConfig, Path | None]] = []
    if config.scene_chamfer or shared:
        groups.append((replace(config, rewards=shared), None))
    for target, file in entries:
        if file is None:
            continue
        if not file.is_file():
            raise ValueError(f"reward {target!r} asks for the packages of {file}, which is no file")
        alone = replace(config, rewards=(target,), scene_chamfer=False)
        groups.append((alone, file.resolve()))
    return groups


def install(requirements: Path) -> str:
    """The folder with the packages that a file lists, installed now if they are not yet.

    Raises:
        ValueError: pip fails; with its last line.
    """
    text = requirements.read_bytes()
    name = hashlib.sha256(sys.version.encode() + str(requirements.parent).encode() + text).hexdigest()[:24]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "phys4d" / "packages"
    folder = cache / name
    if folder.is_dir():
        return str(folder)
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
    try:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-input", "--target", str(unfinished), "-r", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=requirements.parent)
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if line.strip()]
            raise ValueError(f"cannot install {requirements}: {lines[-1] if lines else 'pip failed'}")
        try:
            unfinished.rename(folder)
        except OSError:
            # Another scorer was first.
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return str(folder)
