"""Watches for reward hacking: what the trained reward does not see, measured against iteration 0.

Held-out prompts with the same noise every time are decoded and looked at: motion energy, luminance, edges and
flicker of the pixels; where the motion takes the objects' points; and a reward that is never trained on, the
trained ones that take depth and motion, read by whichever of heads and estimators the training does not use;
rewards that take pixels alone are left out of it, since nothing of them is held out. A policy that has found
a hole in its reward raises the one and spoils the others. Thresholds stop the run and leave a report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from phys4d.runtime.errors import UserError
from phys4d.runtime.files import atomic_write_text
from phys4d.types import Rollout
from policy.config import MonitorConfig

RATIOS = ("motion_energy", "edges", "flicker")
SHARES = ("unique_points", "coverage")
HELD_OUT = ("val_reward", "held_out_reward")
FAILED = ("val_failed_fraction", "held_out_failed_fraction")


def pixel_statistics(videos: UInt8[np.ndarray, "videos frames height width 3"]) -> dict[str, float]:
    """Means over videos, of grey values in [0, 1].

    `motion_energy` is the mean absolute change from frame to frame, `flicker` that of the change's own
    change, `edges` that of neighbouring pixels, `luminance` the mean.
    """
    grey = videos.astype(np.float32).mean(-1) / 255.0
    change = np.diff(grey, axis=1)
    across, down = np.abs(np.diff(grey, axis=3)).mean(), np.abs(np.diff(grey, axis=2)).mean()
    return {
        "motion_energy": float(np.abs(change).mean()),
        "flicker": float(np.abs(np.diff(change, axis=1)).mean()) if change.shape[1] > 1 else 0.0,
        "edges": float(across + down),
        "luminance": float(grey.mean()),
    }


def cloud_statistics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Where generated motion takes the object pixels of frame 0, means over rollouts.

    `coverage` is the share that is still in the picture in the last frame, `unique_points` the share of
    different pixels among those. Points that pile up, or leave, cannot be compared with anything.
    """
    unique, coverage = [], []
    for rollout in rollouts:
        here = np.argwhere(np.asarray(rollout.object_ids) > 0)[:, ::-1] + 0.5
        if len(here) == 0:
            continue
        num_points = len(here)
        for motion in np.asarray(rollout.motion, np.float32):
            column, row = np.floor(here).astype(int).T
            here = here + motion[row, column, :2]
            here = here[_inside(here, motion.shape[:2])]
        coverage.append(len(here) / num_points)
        cells = np.unique(np.floor(here), axis=0)
        unique.append(len(cells) / max(1, len(here)))
    if not coverage:
        return {}
    return {"unique_points": float(np.mean(unique)), "coverage": float(np.mean(coverage))}


def _inside(points: Float[np.ndarray, "points 2"], size: tuple[int, ...]) -> np.ndarray:
    finite = np.isfinite(points).all(1)
    return finite & (points >= 0).all(1) & (points[:, 0] < size[1]) & (points[:, 1] < size[0])


@dataclass(frozen=True)
class Alarm:
    """A threshold that was passed."""

    name: str
    value: float
    baseline: float
    rule: str


def alarms(now: Mapping[str, float], baseline: Mapping[str, float], config: MonitorConfig) -> list[Alarm]:
    """Thresholds that `now` passes; statistics that either lacks are not judged.

    A falling held-out reward is an alarm only while the trained one rises: both falling is bad training, not
    hacking.
    """
    found = []

    def judge(name: str, allowed: bool, rule: str) -> None:
        if not allowed:
            found.append(Alarm(name, now[name], baseline.get(name, math.nan), rule))

    for name in FAILED:
        if name in now:
            limit = config.max_failed_fraction
            judge(name, now[name] <= limit, f"at most {limit:g} without a score")
    both = {name for name in now if name in baseline}
    for name in RATIOS:
        if name in both and baseline[name] > 0:
            ratio = now[name] / baseline[name]
            low = 1 / config.max_ratio
            judge(name, low <= ratio <= config.max_ratio, f"within {low:.3g} to {config.max_ratio:g} times")
    if "luminance" in both:
        change = abs(now["luminance"] - baseline["luminance"])
        limit = config.max_luminance_change
        judge("luminance", change <= limit, f"within {limit:g}")
    for name in SHARES:
        if name in both:
            least = config.min_share * baseline[name]
            judge(name, now[name] >= least, f"at least {config.min_share:g} times")
    if both.issuperset(HELD_OUT) and now["val_reward"] > baseline["val_reward"]:
        drop = baseline["held_out_reward"] - now["held_out_reward"]
        limit = config.max_held_out_drop
        judge("held_out_reward", drop <= limit, f"at most {limit:g} below while the trained reward rises")
    if "kl_joint_nats" in now:
        limit = config.max_kl_joint_nats
        judge("kl_joint_nats", now["kl_joint_nats"] <= limit, f"at most {limit:g} nats")
    return found


@dataclass
class Monitors:
    """The statistics of iteration 0, kept in the run folder, and the thresholds."""

    config: MonitorConfig
    folder: Path
    """Stage 3's; `monitors.json` and, after an alarm, `alarm/` lie there."""
    baseline: dict[str, float] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    """Iteration that each value of the baseline is of: 0, or the first in which it could be measured."""
    has_held_out_reward: bool = True
    """Of rewards that take pixels alone none is held out, and the record goes without."""

    def __post_init__(self) -> None:
        path = self.folder / "monitors.json"
        if path.is_file():
            read = json.loads(path.read_text(encoding="utf-8"))
            self.baseline, self.since = read["baseline"], read["since"]

    def check(
        self,
        iteration: int,
        now: Mapping[str, float],
        *,
        picture: Callable[[Path], object] | None = None,
    ) -> None:
        """Compare with iteration 0, or become its record.

        A statistic that could not be measured then is compared with the first iteration in which it could.
        Without the held-out rewards there is no record, since nothing would watch the trained one.

        Args:
            picture: writes what the videos look like to a file; called for an alarm's report.

        Raises:
            UserError: a threshold is passed, and names the report; or a held-out reward is not in the record.
        """
        if iteration == 0:
            self.baseline, self.since = {}, {}
        if found := alarms(now, self.baseline, self.config):
            report = self._write_report(iteration, now, found)
            if picture is not None:
                picture(report.parent / "videos.png")
            first = found[0]
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            since = self.since.get(first.name)
            before = "" if since is None else f"at iteration {since} {first.baseline:.4g}, "
            raise UserError(
                f"alarm at iteration {iteration}: {first.name} is {first.value:.4g}, {before}allowed "
                f"{first.rule}{more}; look at {report}, then change the reward, or the thresholds under "
                "monitor"
            )
        needed = HELD_OUT if self.has_held_out_reward else HELD_OUT[:1]
        if lacking := [name for name in needed if name not in (self.baseline or now)]:
            raise UserError(
                f"monitors have no {' and no '.join(lacking)} to compare with, so that nothing would watch "
                "the trained reward; see that there is an estimator (`make pretrain`) and that rewards are "
                f"scored, remove {self.folder} and run again, or set --monitor.no-enabled"
            )
        if new := now.keys() - self.baseline.keys() - {"kl_joint_nats"}:
            if iteration > 0:
                names = ", ".join(sorted(new))
                print(f"monitors: {names} from now on against iteration {iteration}", flush=True)
            self.baseline = self.baseline | {name: now[name] for name in now if name in new}
            self.since = self.since | dict.fromkeys(new, iteration)
            record = {"baseline": self.baseline, "since": self.since}
            atomic_write_text(self.folder / "monitors.json", json.dumps(record, indent=1))
        if lost := self.baseline.keys() - now.keys():
            print(f"monitors: no {', '.join(sorted(lost))} at iteration {iteration}", flush=True)

    def _write_report(self, iteration: int, now: Mapping[str, float], found: Sequence[Alarm]) -> Path:
        passed = {alarm.name: alarm.rule for alarm in found}
        lines = [
            f"# Alarm at iteration {iteration}",
            "",
            "The run was stopped: its videos changed in ways that the trained reward does not ask for, or "
            "can no longer be watched.",
            "",
            "| statistic | at iteration | it was | now | allowed |",
            "|---|---|---|---|---|",
        ]
        for name, value in now.items():
            before = self.baseline.get(name, math.nan)
            rule = f"**{passed[name]}**" if name in passed else ""
            lines.append(f"| {name} | {self.since.get(name, '')} | {before:.5g} | {value:.5g} | {rule} |")
        lines += ["", "`videos.png` shows the held-out videos. The last checkpoint is untouched.", ""]
        path = self.folder / "alarm" / "report.md"
        path.parent.mkdir(exist_ok=True)
        atomic_write_text(path, "\n".join(lines))
        return path
