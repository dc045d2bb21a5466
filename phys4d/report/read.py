"""What a run folder holds, read as far as it is there.

runs/<name>/{base,stage1,stage2,stage3}/  config.toml  provenance.json  metrics.jsonl
runs/<name>/evaluation/results.json       rows and scenes
runs/<name>/evaluation-<split>/           the same of other scenes
runs/<name>/external/<videos>.json        rows of videos that others made; other scenes: external-<split>/
runs/<name>/physics_iq/<videos>.json      scores of `python -m phys4d.metrics.physics_iq --json`
runs/<name>/best_of_n/facts.json          how the best of N videos were picked
runs/<name>/evaluation/scenes/<id>/       <stage>.npz: rgb, depth, motion; clouds.npz
"""

import json
import math
from pathlib import Path
from typing import Any

from phys4d.report.run import (
    STAGES,
    Comparison,
    Failure,
    Measurement,
    PhysicsIq,
    Published,
    Run,
    Scene,
    Split,
    Stage,
)
from phys4d.runtime.errors import UserError, one_line
from phys4d.runtime.metrics import read_metrics

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)
"""What JSON of another shape ends in."""


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
    physics_iq, faults = read_physics_iq(path / "physics_iq")
    splits: dict[str, Split] = {}
    for other in sorted(path.glob("evaluation-*/results.json")):
        found, other_fault = _read_evaluation(other)
        name = other.parent.name.removeprefix("evaluation-")
        if other_fault:
            faults.append(f"{other.parent.name}/{other_fault}")
        else:
            splits[name] = Split(
                name=name, measurements=found["measurements"], comparisons=found["comparisons"]
            )
    left_out: dict[str, list[str]] = {}
    for external in sorted([*path.glob("external/*.json"), *path.glob("external-*/*.json")]):
        try:
            measurements, reasons = _read_external(external)
        except UNREADABLE as error:
            faults.append(_fault(external, error))
            continue
        name = external.parent.name.removeprefix("external").removeprefix("-")
        if name:
            split = splits.setdefault(name, Split(name=name, measurements=[], comparisons=[]))
            split.measurements.extend(measurements)
        else:
            evaluation["measurements"] += measurements
        if reasons:
            (splits[name].left_out if name else left_out)[external.stem] = reasons
    return Run(
        name=path.resolve().name,
        stages=stages,
        **evaluation,
        physics_iq=physics_iq,
        best_of_n=_read_facts(path / "best_of_n" / "facts.json"),
        evaluation_fault=fault,
        splits=[splits[name] for name in sorted(splits)],
        faults=faults,
        left_out=left_out,
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


def _fault(path: Path, error: Exception) -> str:
    reason = (
        f"lacks {error.args[0]!r}" if isinstance(error, KeyError) else f"is unreadable: {one_line(error)}"
    )
    return f"{path.parent.name}/{path.name} {reason}"


def _read_external(path: Path) -> tuple[list[Measurement], list[str]]:
    """Rows of a folder of videos, and why some of them were left out."""
    values = json.loads(path.read_text(encoding="utf-8"))
    return [_measurement(row) for row in values["rows"]], list(values.get("left_out", {}).values())


def read_physics_iq(folder: Path) -> tuple[list[PhysicsIq], list[str]]:
    """The scores in a folder of JSON files, and which files cannot be read, for people."""
    found, faults = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(_physics_iq(path))
        except UNREADABLE as error:
            faults.append(_fault(path, error))
    return found, faults


def _physics_iq(path: Path) -> PhysicsIq:
    """What `python -m phys4d.metrics.physics_iq --json` has written."""
    values = json.loads(path.read_text(encoding="utf-8"))
    original, verified = values["original"], values["verified"]
    return PhysicsIq(
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
        readers={str(stage): str(reader) for stage, reader in values.get("readers", {}).items()},
    )


def _failure(values: dict[str, Any], folder: Path) -> Failure:
    return Failure(
        scene=_scene(values, folder), stage=str(values["stage"]), error_m=_float(values["error_m"])
    )


def _float(value: Any) -> float:
    return math.nan if value is None else float(value)
