"""The command; see `phys4d.metrics.physics_iq`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.threads import limit_threads

SHARES = "shares of the physical variance, 1 at most: "
"""What the parts of Verified are, under the names of Original's."""


@dataclass(frozen=True, kw_only=True)
class PhysicsIqConfig:
    """Score generated videos by Physics-IQ, Original and Verified."""

    real: Path = Path()
    """Testing folder of the benchmark at this frame rate, e.g. split-videos/testing/8FPS."""
    generated: tyro.conf.UseAppendAction[tuple[Path, ...]] = ()
    """Folder of mp4 files whose names begin with the id, e.g. 0001_. For several runs repeat the flag, or
    name a folder of such folders."""
    fps: int = 0
    """Frames per second of all videos; scores at different rates do not compare."""
    json: Path | None = None
    """File for the scores, their parts, every run and what was left out."""
    per_scenario: Path | None = None
    """CSV file with a row per run and scenario."""
    partial: bool = False
    """Leave out files that are refused, and say which; without it they are an error."""
    stored_masks: bool = False
    """Pass motion masks through a lossy file, as the benchmark's tool does for the published scores."""
    real_masks: Path | None = None
    """The benchmark's stored masks of its real videos, video-masks/real/{fps}FPS, which its tool takes where
    they are; implies `stored_masks`. None computes them."""
    workers: int = 0
    """Processes; 0 is one per core."""

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ValueError(f"workers must be 0 (one per core) or more, got {self.workers}")


def main(args: Sequence[str] | None = None) -> None:
    """Command line."""
    config = load(PhysicsIqConfig, args=args)
    for flag, given in (
        ("--real", config.real != Path()),
        ("--generated", config.generated),
        ("--fps", config.fps),
    ):
        if not given:
            raise UserError(
                f"{flag} is missing; e.g. --real split-videos/testing/8FPS --generated videos --fps 8"
            )
    for flag, path in (("--json", config.json), ("--per-scenario", config.per_scenario)):
        if path is not None and path.is_dir():
            raise UserError(f"{flag} {path} is a folder; name a file in it")
    limit_threads(1)
    from phys4d.metrics.physics_iq.runs import per_scenario_csv, score_runs, summarise

    runs = score_runs(
        config.real,
        config.generated,
        fps=config.fps,
        partial=config.partial,
        workers=config.workers,
        stored_masks=config.stored_masks,
        real_masks=config.real_masks,
    )
    summary = summarise(
        runs,
        fps=config.fps,
        partial=config.partial,
        stored_masks=config.stored_masks,
        real=config.real,
        real_masks=config.real_masks,
    )
    # First of all, so that a disk that is full does not lose them.
    print(describe(summary), flush=True)
    if config.json is not None:
        atomic_write_text(config.json, json.dumps(summary, indent=1) + "\n")
    if config.per_scenario is not None:
        atomic_write_text(config.per_scenario, per_scenario_csv(runs))


def describe(summary: dict[str, Any]) -> str:
    """The scores as text."""
    from phys4d.metrics.physics_iq.score import PARTS

    lines = []
    for name in ("original", "verified"):
        values = summary[name]
        spread = f" +- {values['score_std']:.1f}" if "score_std" in values else ""
        parts = ", ".join(f"{label} {values[key]:.4f}" for key, label in PARTS.items())
        what = SHARES if name == "verified" else ""
        lines.append(f"Physics-IQ {name:9s}{values['score']:6.2f}{spread}   ({what}{parts})")
    return "\n".join(lines + [f"note: {note}" for note in summary["notes"]])


if __name__ == "__main__":
    run_main(main)
