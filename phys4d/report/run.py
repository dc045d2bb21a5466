"""The parts of a run that the report shows."""

import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STAGES = {
    "base": "Base",
    "stage1": "Stage 1",
    "stage2": "Stage 2",
    "stage3": "Stage 3",
}
STAGE_TEXTS = {
    "base": "tiny video model, trained on RGB with mixed physics",
    "stage1": "depth and motion heads on pseudo-labels, video model frozen",
    "stage2": "LoRA and heads on simulator ground truth",
    "stage3": "reinforcement learning with the simulator's reward",
}
MODELS = STAGES | {"best_of_n": "Best of N"}
"""What generates videos: the stages, and stage 2 with the reward picking among N of its videos."""
MAKE_TARGETS = {"base": "base", "stage1": "pretrain", "stage2": "sft", "stage3": "rl-train"}
REFERENCES = {
    "frozen": "Frozen",
    "constant_velocity": "Constant velocity",
    "second_take": "Second take",
    "simulator": "Simulator",
}
TRUTH = "truth"

Points = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage's folder."""

    name: str
    config: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    fault: str = ""
    """What could not be read, for people."""

    def scalars(self) -> list[str]:
        """Names of the logged scalars in order of appearance."""
        seen = {key: None for row in self.rows for key in row}
        return [key for key in seen if key not in ("step", "elapsed_s")]

    def rewards(self) -> list[str]:
        """Names of the rewards that were measured one by one, in the order of the run's sources."""
        keys = self.scalars()
        return [key for key in keys if key.startswith("reward_") and f"val_{key}" in keys]

    def points(self, key: str) -> Points:
        """(step, value) of a scalar. Where a run was repeated, the last session's values stand."""
        points: Points = []
        for row in self.rows:
            if key in row:
                step = float(row["step"])
                while points and points[-1][0] >= step:
                    points.pop()
                points.append((step, float(row[key])))
        return points

    def elapsed_s(self) -> float:
        """Seconds between the first and the last logged step."""
        return max((float(row.get("elapsed_s", 0.0)) for row in self.rows), default=0.0)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """A held-out metric of one stage or reference."""

    stage: str
    reader: str
    """How geometry was read from a video: `heads`, `estimator` or `rgb`."""
    metric: str
    unit: str
    mean: float
    seeds: tuple[float, ...]
    """The metric for each seed."""
    interval: tuple[float, float] | None = None
    """95 % bootstrap interval of the mean over scenes."""
    higher_is_better: bool
    num_scenes: int

    @property
    def spread(self) -> float | None:
        """Standard deviation over seeds (n - 1), None for fewer than two."""
        values = [value for value in self.seeds if math.isfinite(value)]
        return statistics.stdev(values) if len(values) > 1 else None

    def is_better_than(self, other: "Measurement") -> bool:
        return self.mean > other.mean if self.higher_is_better else self.mean < other.mean


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A metric's paired difference between two stages over held-out scenes."""

    before: str
    after: str
    reader: str
    metric: str
    mean_difference: float
    """After minus before."""
    interval: tuple[float, float]
    """95 % bootstrap interval of the mean difference over scenes."""
    p_holm: float | None
    """Two-sided p-value of the paired test, adjusted for all comparisons of the evaluation."""
    num_scenes: int

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.interval[0] > 0 or self.interval[1] < 0


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A held-out scene with what each stage generated for it."""

    id: str
    family: str
    caption: str
    fps: float
    files: dict[str, Path]
    """Videos by stage; `truth` is the simulator."""
    clouds: Path | None = None
    """Points of objects over time; see `policy.world_metrics.scene_clouds`."""
    objects: tuple[str, ...] = ()
    """Names of the objects, in the order of the clouds."""
    readers: dict[str, str] = field(default_factory=dict)
    """Who read depth and motion, by stage: `heads` or `estimator`."""

    def title(self, stage: str) -> str:
        """A stage's title with its reader where that is no head of the stage's own."""
        title = MODELS.get(stage, stage)
        return f"{title}, read by estimators" if self.readers.get(stage) == "estimator" else title


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A held-out scene on which a stage is furthest from the truth."""

    scene: Scene
    stage: str
    error_m: float
    """Mean distance of object points to their true places, by the stage's own reading."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """A score from the literature, not measured here."""

    model: str
    metric: str
    """`Physics-IQ Original` or `Physics-IQ Verified`."""
    before: str
    """Of the model as it is; empty if not given."""
    after: str
    """After the paper's post-training; empty if not given."""
    source: str
    given: str = ""
    """What the model continues: a first frame, or several."""


@dataclass(frozen=True, kw_only=True)
class PhysicsIq:
    """Physics-IQ of a folder of videos, measured here; scores in 0 to 100."""

    name: str
    original: float
    verified: float
    original_std: float | None
    """Over runs; None for one run."""
    verified_std: float | None
    parts: dict[str, float]
    """`s_iou`, `ws_iou`, `st_iou`, `mse` of the original score."""
    fps: int
    num_runs: int
    is_complete: bool
    """Whether all videos of the benchmark were scored."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """What was measured on other scenes than those of the main evaluation."""

    name: str
    measurements: list[Measurement]
    comparisons: list[Comparison]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """As in `Run`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run folder."""

    name: str
    stages: dict[str, Stage]
    measurements: list[Measurement]
    comparisons: list[Comparison]
    scenes: list[Scene]
    failures: list[Failure]
    published: list[Published]
    physics_iq: list[PhysicsIq]
    best_of_n: dict[str, Any]
    """What best-of-N cost; empty without it."""
    evaluation_config: str
    """TOML; empty if not recorded."""
    evaluation_fault: str
    """Why there are no measurements, for people; empty if there are."""
    splits: list[Split] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """Other results that could not be read, for people."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Of folders of videos that were measured in part: why the others were not."""


def measured(run: Run | Split, reader: str, metric: str) -> dict[str, Measurement]:
    """Measurements of one metric by stage."""
    return {m.stage: m for m in run.measurements if (m.reader, m.metric) == (reader, metric)}
