"""A stage's run folder with the checkpoints of its trainings, so that an interrupted stage goes on.

    runs/<name>/<stage>/checkpoints/<training>/step-000100/state.pt  progress.json

A stage may hold several trainings, one after the other. Each leaves a last checkpoint when it is finished, so
that the next one is not trained on something else after an interruption. A finished stage has none of them.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from phys4d.runtime.checkpoint import latest, new_checkpoint
from phys4d.runtime.errors import UserError
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.origin import check_same, digests
from phys4d.runtime.run import RunFolder
from phys4d.training.ranks import Ranks

MOST_OF_TIME = 0.01
"""Share of a training's time that its checkpoints may take."""
TRAININGS = ("autoencoder", "denoiser", "estimator", "heads", "optimiser")
MAY_CHANGE = {
    "num_threads",
    "device",
    "wandb_project",
    "cluster.ray_address",
    "cluster.num_workers",
    "cluster.gpus_per_worker",
    *(f"{name}.{key}" for name in TRAININGS for key in ("checkpoint_every_s", "validate_every")),
}
"""Settings that an interrupted stage may go on with anew, since they do not change what is learnt."""


def check_finished(stage: Path, program: str) -> None:
    """Refuse a stage that was begun again and interrupted: what lies there is of the training before.

    Raises:
        UserError: says which program finishes it; make may take what lies there for finished.
    """
    if (stage / "checkpoints").is_dir():
        raise UserError(
            f"{stage} was begun and interrupted; finish it with `python -m {program} --run {stage.parent}` "
            "and the settings of its config.toml"
        )


class StageRun:
    """Use as a context manager: what ends it well also removes its checkpoints."""

    def __init__(self, path: Path, ranks: Ranks, folder: RunFolder | None, origin: Mapping[str, str]) -> None:
        self.path = path
        self.ranks = ranks
        self.origin = origin
        self._folder = folder
        self._last_s = time.monotonic()
        self._cost_s = 0.0

    @classmethod
    def open(
        cls,
        path: Path,
        config_toml: str,
        *,
        sources: Mapping[str, Path] | None = None,
        ranks: Ranks | None = None,
        wandb_project: str = "",
    ) -> StageRun:
        """Take the folder: go on with a stage that was interrupted, else begin anew.

        Only the main process holds the folder; the others' `log` and `save` do nothing.

        Args:
            sources: files and folders of weights that the stage goes out from, by name.

        Raises:
            UserError: another process holds the folder, or the stage was interrupted under another
                configuration or with other sources.
        """
        ranks = ranks or Ranks()
        folder, origin = None, {}
        if ranks.is_main:
            origin = digests(sources or {})
            marks = []
            for training in (path / "checkpoints").glob("*"):
                checkpoint = latest(training)
                if checkpoint is not None:
                    mark = json.loads((checkpoint / "progress.json").read_text())
                    check_same(checkpoint, mark.get("origin", {}), origin, path)
                    marks.append(mark["metrics_bytes"])
            going_on = bool(marks)
            folder = RunFolder.open(
                path,
                config_toml,
                resume=going_on,
                restart=not going_on,
                may_change=MAY_CHANGE,
                wandb_project=wandb_project,
            )
            if going_on:
                folder.rewind_to(max(marks))
            # Until it is finished, which `check_finished` sees.
            (path / "checkpoints").mkdir(exist_ok=True)
        ranks.wait()
        return cls(path, ranks, folder, origin)

    def log(self, step: int, **scalars: float) -> None:
        """Append scalars of one step to the metrics."""
        if self._folder is not None:
            self._folder.log(step, **scalars)

    def write_json(self, name: str, value: Any) -> None:
        """Write a small result into the folder."""
        if self._folder is not None:
            atomic_write_text(self.path / name, json.dumps(value, indent=1) + "\n")

    def is_time_to_save(self, every_s: float) -> bool:
        """Whether `every_s` have passed, and so long that checkpoints take 1 % of the time at most."""
        passed_s = time.monotonic() - self._last_s
        return passed_s >= every_s and passed_s >= (self._cost_s / MOST_OF_TIME if every_s else 0.0)

    def save(self, training: str, step: int, state: dict[str, Any]) -> None:
        """Write a checkpoint, whole or not at all, and remove all but the two newest."""
        if self._folder is None:
            return
        start = time.monotonic()
        with new_checkpoint(self._checkpoints(training), step) as folder:
            torch.save(state, folder / "state.pt")
            mark = {"step": step, "metrics_bytes": self._folder.metrics_bytes(), "origin": self.origin}
            (folder / "progress.json").write_text(json.dumps(mark))
        self._last_s = time.monotonic()
        self._cost_s = self._last_s - start

    def restore(self, training: str) -> dict[str, Any] | None:
        """The newest state of a training, or None; all processes read the same file."""
        newest = latest(self._checkpoints(training))
        if newest is None:
            return None
        return torch.load(newest / "state.pt", map_location="cpu", weights_only=True)

    def close(self, *, finished: bool) -> None:
        """Let go of the folder."""
        self.ranks.wait()
        if self._folder is not None:
            if finished:
                shutil.rmtree(self.path / "checkpoints", ignore_errors=True)
            self._folder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close(finished=True)
        elif self._folder is not None:
            self._folder.close()

    def _checkpoints(self, training: str) -> Path:
        return self.path / "checkpoints" / training.replace(" ", "-")
