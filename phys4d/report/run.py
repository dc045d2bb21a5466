"""What a run folder holds, read as far as it is there.

runs/<name>/{base,stage1,stage2,stage3}/  config.toml  provenance.json  metrics.jsonl
runs/<name>/evaluation/results.json       rows and scenes
runs/<name>/external/<videos>.json        rows of videos that others made
runs/<name>/physics_iq/<videos>.json      scores of `python -m phys4d.metrics.physics_iq --json`
runs/<name>/best_of_n/facts.json          how the best of N videos were picked
runs/<name>/evaluation/scenes/<id>/       <stage>.npz: rgb, depth, motion; clouds.npz
"""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phys4d.runtime.errors import UserError, one_line
from phys4d.runtime.metrics import read_metrics

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


def measured(run: Run, reader: str, metric: str) -> dict[str, Measurement]:
    """Measurements of one metric by stage."""
    return {m.stage: m for m in run.measurements if (m.reader, m.metric) == (reader, metric)}


def read_run(path: Path) -> Run:
    """Read a run folder; missing parts stay empty, unreadable ones are named in `fault`.

    Raises:
        UserError: `path` is no folder, or holds no part of a run.
    """
    if not path.is_dir():
        raise UserError(f"no run folder {path}; make one with: make rl-train RUN={path.name}")
    stages = {name: _read_stage(path / name, name) for name in STAGES if (path / name).is_dir()}
    results = path / "evaluation" / "results.json"
    if not stages and not results.exists():
        raise UserError(f"{path} holds no run: none of {', '.join(STAGES)}, evaluation")
    evaluation, fault = _read_evaluation(results)
    for external in sorted((path / "external").glob("*.json")):
        found, external_fault = _read_external(external)
        evaluation["measurements"] += found
        fault = fault or external_fault
    physics_iq = []
    for scores in sorted((path / "physics_iq").glob("*.json")):
        scored, physics_iq_fault = _read_physics_iq(scores)
        physics_iq += scored
        fault = fault or physics_iq_fault
    return Run(
        name=path.resolve().name,
        stages=stages,
        **evaluation,
        physics_iq=physics_iq,
        best_of_n=_read_facts(path / "best_of_n" / "facts.json"),
        evaluation_fault=fault,
    )


def _read_stage(path: Path, name: str) -> Stage:
    faults, config, provenance, rows = [], "", {}, []
    try:
        config = (path / "config.toml").read_text(encoding="utf-8")
    except OSError as error:
        faults.append(one_line(error))
    try:
        provenance = json.loads((path / "provenance.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        faults.append(f"provenance.json: {one_line(error)}")
    try:
        rows = [row for row in read_metrics(path / "metrics.jsonl") if "step" in row]
    except (OSError, ValueError) as error:
        faults.append(f"metrics.jsonl: {one_line(error)}")
    return Stage(name=name, config=config, provenance=provenance, rows=rows, fault="; ".join(faults))


def _read_evaluation(path: Path) -> tuple[dict[str, Any], str]:
    """The evaluation's fields of `Run`, and why they are empty."""
    nothing: dict[str, Any] = {
        name: [] for name in ("measurements", "comparisons", "scenes", "failures", "published")
    }
    nothing["evaluation_config"] = ""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        found = {
            "measurements": [_measurement(row) for row in results["rows"]],
            "comparisons": [_comparison(values) for values in results.get("comparisons", [])],
            "scenes": [_scene(values, path.parent) for values in results["scenes"]],
            "failures": [_failure(values, path.parent) for values in results.get("failures", [])],
            "published": [Published(**values) for values in results.get("published", [])],
            "evaluation_config": str(results.get("config", "")),
        }
    except FileNotFoundError:
        return nothing, "not evaluated yet; run: make evaluate"
    except (OSError, ValueError, TypeError) as error:
        return nothing, f"{path.name} is unreadable: {one_line(error)}"
    except KeyError as error:
        return nothing, f"{path.name} lacks {error.args[0]!r}"
    return found, "" if found["measurements"] else f"{path.name} holds no rows"


def _read_external(path: Path) -> tuple[list[Measurement], str]:
    try:
        return [_measurement(row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]], ""
    except (OSError, ValueError, TypeError, KeyError) as error:
        return [], f"{path.name} is unreadable: {one_line(error)}"


def _read_physics_iq(path: Path) -> tuple[list[PhysicsIq], str]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        original, verified = values["original"], values["verified"]
        found = PhysicsIq(
            name=path.stem,
            original=_float(original["score"]),
            verified=_float(verified["score"]),
            original_std=original.get("score_std"),
            verified_std=verified.get("score_std"),
            parts={name: _float(original[name]) for name in ("s_iou", "ws_iou", "st_iou", "mse")},
            fps=int(values["fps"]),
            num_runs=int(values["num_runs"]),
            is_complete=bool(values["complete"]),
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        return [], f"{path.name} is unreadable: {one_line(error)}"
    return [found], ""


def _read_facts(path: Path) -> dict[str, Any]:
    """Facts that are shown as they are; none where the file is missing or no JSON object."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _measurement(row: dict[str, Any]) -> Measurement:
    return Measurement(
        stage=str(row["stage"]),
        reader=str(row["reader"]),
        metric=str(row["metric"]),
        unit=str(row["unit"]),
        mean=_float(row["mean"]),
        seeds=tuple(_float(value) for value in row["seeds"]),
        interval=(_float(row["ci95"][0]), _float(row["ci95"][1])) if "ci95" in row else None,
        higher_is_better=bool(row["higher_is_better"]),
        num_scenes=int(row["num_scenes"]),
    )


def _comparison(values: dict[str, Any]) -> Comparison:
    low, high = values["ci95"]
    return Comparison(
        before=str(values["before"]),
        after=str(values["after"]),
        reader=str(values["reader"]),
        metric=str(values["metric"]),
        mean_difference=_float(values["mean_difference"]),
        interval=(_float(low), _float(high)),
        p_holm=_float(values["p_holm"]) if "p_holm" in values else None,
        num_scenes=int(values["num_scenes"]),
    )


def _scene(values: dict[str, Any], folder: Path) -> Scene:
    """File names are relative to the evaluation folder, the run folder or the working directory."""

    def place(name: str) -> Path:
        places = [folder / name, folder.parent / name, Path(name)]
        return next((place for place in places if place.is_file()), places[0])

    return Scene(
        id=str(values["id"]),
        family=str(values["family"]),
        caption=str(values["caption"]),
        fps=float(values.get("fps", 12.0)),
        files={stage: place(name) for stage, name in values["files"].items()},
        clouds=place(values["clouds"]) if "clouds" in values else None,
        objects=tuple(map(str, values.get("objects", []))),
    )


def _failure(values: dict[str, Any], folder: Path) -> Failure:
    return Failure(
        scene=_scene(values, folder), stage=str(values["stage"]), error_m=_float(values["error_m"])
    )


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)
