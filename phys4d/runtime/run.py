"""The run folder: one per stage, holds what was run, with what, and what came out.

runs/<name>/<stage>/  config.toml  provenance.json  metrics.jsonl  tb/  lock
"""

import datetime
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import platform
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any, Self

from phys4d.runtime.errors import UserError
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.metrics import MetricsFile, read_metrics
from phys4d.runtime.wandb_log import WandbLog

__all__ = ["RunFolder", "provenance", "read_metrics"]

PACKAGES = (
    "diffusers",
    "grpcio",
    "mujoco-core",
    "mujoco-warp",
    "numpy",
    "peft",
    "phys4d",
    "protobuf",
    "ray",
    "torch",
    "transformers",
    "warp-lang",
)


class RunFolder:
    """A run's folder, held by one process at a time. Use as a context manager or call `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        self._metrics = MetricsFile(path / "metrics.jsonl")
        self._tensorboard: Any = None
        self._wandb: WandbLog | None = None
        earlier = read_metrics(path / "metrics.jsonl")
        self._start = time.monotonic() - max((row.get("elapsed_s", 0.0) for row in earlier), default=0.0)

    @classmethod
    def open(
        cls,
        path: Path | str,
        config_toml: str,
        *,
        resume: bool = False,
        restart: bool = False,
        may_change: Collection[str] = (),
        wandb_project: str = "",
    ) -> "RunFolder":
        """Take the folder and write `config.toml` and `provenance.json`.

        Args:
            path: the folder; made if missing.
            config_toml: the whole configuration, from `config.to_toml`.
            resume: go on in a folder that already holds a run. An empty folder is always accepted.
            restart: begin anew in a folder that already holds a run, whose metrics are forgotten. For stages
                that are repeated whole after an interruption.
            may_change: dotted keys that a resumed run may set anew, e.g. `num_iterations`.
            wandb_project: of Weights & Biases to log to as well; empty logs to files only.

        Raises:
            UserError: another process holds the folder, it holds a run and `resume` is false, or it holds a
                run with another configuration.
        """
        path = Path(path)
        path.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(path)
        try:
            old = path / "config.toml"
            if old.exists() and not restart:
                if not resume:
                    raise UserError(f"{path} already holds a run; pass --resume, another name, or remove it")
                _refuse_changes(path, tomllib.loads(old.read_text()), tomllib.loads(config_toml), may_change)
            atomic_write_text(old, config_toml)
            _write_provenance(path / "provenance.json")
            run = cls(path, lock)
            if wandb_project:
                run._wandb = WandbLog(wandb_project, path, tomllib.loads(config_toml), new=not resume)
            if restart:
                run.rewind(-1)
            return run
        except BaseException:
            os.close(lock)
            raise

    def log(self, step: int, **scalars: float) -> None:
        """Append scalars of one step to `metrics.jsonl` and, where torch and tensorboard are there, to `tb/`.

        `elapsed_s` is added: seconds the run has taken, over all its sessions.
        """
        elapsed_s = round(time.monotonic() - self._start, 3)
        self._metrics.append(
            {"step": int(step), "elapsed_s": elapsed_s, **{k: float(v) for k, v in scalars.items()}}
        )
        writer = self._summary_writer()
        if writer is not None:
            for key, value in scalars.items():
                writer.add_scalar(key, float(value), int(step))
        if self._wandb is not None:
            self._wandb.log(int(step), {key: float(value) for key, value in scalars.items()})

    def rewind(self, step: int) -> None:
        """Forget metrics after `step`, which a run resumed from that step writes anew."""
        self._metrics.rewind(step)

    def metrics_bytes(self) -> int:
        """How long the metrics are, for `rewind_to`."""
        return self._metrics.size()

    def rewind_to(self, metrics_bytes: int) -> None:
        """Forget metrics logged since `metrics_bytes` was asked for."""
        self._metrics.truncate(metrics_bytes)

    def close(self) -> None:
        """Let go of the folder."""
        self._metrics.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _summary_writer(self) -> Any:
        if self._tensorboard is None and "torch" in sys.modules and importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(str(self.path / "tb"))
        return self._tensorboard


def provenance() -> dict[str, Any]:
    """What ran: command, commit, packages and machine."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "argv": sys.argv,
        "started_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **_git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "packages": versions,
    }


def _git_state() -> dict[str, Any]:
    """Commit of the source tree, and whether it was changed; None outside a git checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"git_commit": None, "git_dirty": None}
    try:
        commit = _git(root, "rev-parse", "HEAD")
        dirty = bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return {"git_commit": None, "git_dirty": None}
    return {"git_commit": commit, "git_dirty": dirty}


def _git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=root, check=True, capture_output=True, text=True, timeout=10)
    return done.stdout.strip()


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _take_lock(path: Path) -> int:
    """Lock the folder. The kernel drops the lock when its holder dies, so no lock is ever stale."""
    descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 200).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise UserError(f"{path} is in use by another run ({holder}); stop it or take another name") from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    return descriptor


def _refuse_changes(
    path: Path, old: dict[str, Any], new: dict[str, Any], may_change: Collection[str]
) -> None:
    before, after = _flatten(old), _flatten(new)
    # The names in a table are keys of their own here: `reward.token_files` may change, whatever it names.
    allowed = tuple(f"{name}." for name in may_change)
    keys = {key for key in before.keys() | after.keys() if not f"{key}.".startswith(allowed)}
    changed = sorted(key for key in keys if before.get(key) != after.get(key))
    if changed:
        shown = ", ".join(f"{k}: {before.get(k)!r} -> {after.get(k)!r}" for k in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise UserError(
            f"{path} was started with another configuration ({shown}{more}); "
            "choose another name or remove the folder"
        )


def _flatten(values: dict[str, Any], start: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{start}{key}.")
        else:
            flat[start + key] = value
    return flat


def _write_provenance(path: Path) -> None:
    """Write this session's provenance; earlier sessions of the run stay under `earlier_sessions`."""
    now = provenance()
    if path.exists():
        before = json.loads(path.read_text())
        now["earlier_sessions"] = [*before.pop("earlier_sessions", []), before]
    atomic_write_text(path, json.dumps(now, indent=2) + "\n")
