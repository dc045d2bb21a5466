"""Our programs as processes, and what runs below a process."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def program(module: str, flags: str, folder: Path, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """A program in `folder` from its start to its end, which is a good one if that is checked."""
    done = subprocess.run(
        _command(module, flags), cwd=folder, env=_environment(), capture_output=True, text=True, timeout=300
    )
    if check:
        assert done.returncode == 0, f"{module}: {done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done


def started(
    module: str, flags: str, folder: Path, environment: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    """A program that can be stopped; what it prints can be read."""
    return subprocess.Popen(
        _command(module, flags),
        cwd=folder,
        env=_environment() | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def rank_environments(number: int) -> list[dict[str, str]]:
    """What `accelerate launch` tells each of so many processes of one run, on a CPU."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    whole = {"ACCELERATE_USE_CPU": "true", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        whole | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(number)}
        for rank in range(number)
    ]


def _command(module: str, flags: str) -> list[str]:
    threads = [] if module.startswith("phys4d") else ["--num-threads", "1"]
    return [sys.executable, "-m", module, *flags.split(), *threads]


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def wait_for(child: "subprocess.Popen[str]", text: str) -> None:
    """Until a process has printed something."""
    seen = []
    assert child.stdout is not None
    for line in child.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}: {''.join(seen)[-3000:]}")


def command_line(pid: int) -> bytes:
    """Of a process; empty if it has ended, waited for or not."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def children(pid: int) -> set[int]:
    """Process ids right below a process, from /proc; it may end meanwhile."""
    found: set[int] = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def descendants(pid: int) -> set[int]:
    """Process ids below a process."""
    below = children(pid)
    return below.union(*(descendants(child) for child in below))
