"""4D Chamfer distance between moving point clouds: per frame and object, reduced in float64.

"4D Chamfer" has no settled definition; here, for the points of one object at one frame,

    acc  = mean over generated points of min(d, tau)     d: distance to the nearest true point
    comp = mean over true points of min(d, tau)          d: distance to the nearest generated point
    cd1  = (acc + comp) / 2                              metres
    cd2_sum = mean min(d, tau)^2 of both directions, added up (square metres; pytorch3d's convention)

    fscore = harmonic mean of the shares of points, both ways, that have a neighbour within a threshold

A generated point that is missing counts as tau away, and an object without any generated point is as bad as
can be: an empty cloud never scores well.

    python -m phys4d.metrics.chamfer --vectors tests/vectors/chamfer.json

recomputes recorded values of pytorch3d and prints the largest relative deviation. What the terms are worth is
in `phys4d.metrics.chamfer_reward`.
"""

import argparse
import json
import math
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from phys4d.geometry.arrays import host, namespace
from phys4d.metrics.nearest import BACKENDS, Backend, nn_d2
from phys4d.metrics.resample import METHODS, Method, equal_counts
from phys4d.runtime.errors import UserError, run_main

VECTOR_TOLERANCE = 1e-5
VECTOR_LIMIT = 10**6
"""Numbers of recorded values, counts of points too, are at most this in absolute value."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ChamferTerms:
    """Chamfer terms of each sample, frame and object; NaN where there is no true point to compare with."""

    acc_m: Float64[np.ndarray, "B T O"]
    """Mean truncated distance from generated to true points; missing points count as tau."""
    comp_m: Float64[np.ndarray, "B T O"]
    """Mean truncated distance from true to generated points."""
    cd1_m: Float64[np.ndarray, "B T O"]
    """(acc + comp) / 2."""
    cd2_sum_m2: Float64[np.ndarray, "B T O"]
    """Mean squared truncated distances of both directions, added up."""
    fscore: Float64[np.ndarray, "B T O"]
    """1 if all points have a neighbour within the threshold, 0 if no generated one has or all are missing."""
    num_pred: Int64[np.ndarray, "B T O"]
    """Generated points, without missing ones, before any are thinned out."""
    num_gt: Int64[np.ndarray, "B T O"]
    """True points, likewise."""
    missing: Bool[np.ndarray, "B T O"]
    """True points but no generated one: acc and comp are tau."""


def chamfer4d(
    pred: Float[Any, "P 3"],
    gt: Float[Any, "Q 3"],
    *,
    pred_frame_id: Int[Any, " P"],
    gt_frame_id: Int[Any, " Q"],
    pred_object_id: Int[Any, " P"],
    gt_object_id: Int[Any, " Q"],
    shape: tuple[int, int, int],
    pred_sample_id: Int[Any, " P"] | None = None,
    gt_sample_id: Int[Any, " Q"] | None = None,
    pred_valid: Bool[Any, " P"] | None = None,
    tau_m: float = math.inf,
    fscore_m: float | None = None,
    c_time_m: float | None = None,
    band_frames: int | None = None,
    num_points: int | None = None,
    resample: Method = "voxel",
    backend: Backend = "auto",
) -> ChamferTerms:
    """Compare labelled points; only points of the same sample and object, and frame, are neighbours.

    NumPy arrays, or torch tensors on one device. Memory grows linearly with P + Q.

    Args:
        pred: generated points, metres. Points that are not finite are missing.
        gt: true points, metres, all finite.
        shape: (samples B, frames T, objects O); ids count from 0.
        pred_sample_id, gt_sample_id: None is one sample.
        pred_valid: False marks a missing point.
        tau_m: distances count up to this.
        fscore_m: threshold of the F-score; None is tau_m.
        c_time_m: None compares frame by frame. A number makes time a fourth axis, c_time_m metres per
            frame (the price of one frame of delay), and lets points of other frames be neighbours.
        band_frames: of at most so many frames earlier or later; None is all that can be nearer than tau_m.
        num_points: thin each cloud to so many points first; those with fewer keep all. The distance of two
            samples of one surface falls with their number, so equal numbers are needed to compare distances.
            True clouds are never thinned to the number that was generated: one good point would do then.
        resample: how clouds are thinned; see `phys4d.metrics.resample`.
        backend: see `phys4d.metrics.nearest`.
    """
    pred, gt = _float64(pred), _float64(gt)
    xp = namespace(pred)
    _check(pred, gt, shape, tau_m, fscore_m, c_time_m, band_frames, num_points, resample)
    num_frames, num_cells = shape[1], math.prod(shape)
    threshold_m = tau_m if fscore_m is None else fscore_m
    band = _band(num_frames, max(tau_m, threshold_m), c_time_m, band_frames)
    pred_cell = _cells("pred", shape, pred_sample_id, pred_frame_id, pred_object_id, pred)
    gt_cell = _cells("gt", shape, gt_sample_id, gt_frame_id, gt_object_id, gt)
    present = xp.isfinite(pred).all(-1)
    if pred_valid is not None:
        present = present & _labels("pred_valid", pred_valid, pred, bool)

    num_all = xp.bincount(pred_cell, minlength=num_cells)
    num_found, num_gt = (xp.bincount(c, minlength=num_cells) for c in (pred_cell[present], gt_cell))
    x = _sort(*_thinned(pred[present], pred_cell[present], num_points, resample), num_cells)
    y = _sort(*_thinned(gt, gt_cell, num_points, resample), num_cells)
    clouds = []
    for cloud in (x, y):
        time_m = None if c_time_m is None else c_time_m * _float64(cloud.cell % num_frames)
        clouds.append(cloud.points if time_m is None else xp.column_stack([cloud.points, time_m]))
    d_x = nn_d2(clouds[0], clouds[1], x.offsets, _ranges(y.offsets, num_frames, band), backend=backend)
    d_y = nn_d2(clouds[1], clouds[0], y.offsets, _ranges(x.offsets, num_frames, band), backend=backend)
    d_x, d_y = (xp.sqrt(d) for d in (d_x, d_y))
    near = [host(_sums(_float64(xp.isfinite(d) & (d <= threshold_m)), c)) for d, c in ((d_x, x), (d_y, y))]
    d_x, d_y = (xp.clip(d, None, tau_m) for d in (d_x, d_y))

    num_all, num_found, num_gt, num_x, num_y = (
        host(counts).astype(np.int64)
        for counts in (num_all, num_found, num_gt, xp.diff(x.offsets), xp.diff(y.offsets))
    )
    num_missing, known, empty = num_all - num_found, num_gt > 0, num_all == 0
    # Each point that is left stands for as many as there were; 1 where nothing is thinned.
    stands_for = num_found / np.maximum(num_x, 1)

    def mean_pred(power: int) -> np.ndarray:
        """Mean over generated points; each missing one, and a cell without any, counts as tau."""
        total = host(_sums(d_x**power, x)) * stands_for
        total[num_missing > 0] += num_missing[num_missing > 0] * tau_m**power
        total[empty] = tau_m**power
        return np.where(known, total / np.maximum(num_all, 1), np.nan)

    def mean_gt(power: int) -> np.ndarray:
        return np.where(known, host(_sums(d_y**power, y)) / np.maximum(num_y, 1), np.nan)

    acc, comp = mean_pred(1), mean_gt(1)
    precision, recall = near[0] * stands_for / np.maximum(num_all, 1), near[1] / np.maximum(num_y, 1)
    fscore = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    # Cells lie frame by frame within each object here, and object by object within each frame outside.
    num_samples, _, num_objects = shape
    terms = {
        "acc_m": acc,
        "comp_m": comp,
        "cd1_m": (acc + comp) / 2,
        "cd2_sum_m2": mean_pred(2) + mean_gt(2),
        "fscore": np.where(known, fscore, np.nan),
        "num_pred": num_found,
        "num_gt": num_gt,
        "missing": (num_found == 0) & known,
    }
    stacked = (num_samples, num_objects, num_frames)
    return ChamferTerms(
        **{k: np.ascontiguousarray(v.reshape(stacked).swapaxes(1, 2)) for k, v in terms.items()}
    )


class _Cloud(NamedTuple):
    """Points in the order of their cells."""

    points: Any
    cell: Any
    offsets: Any
    """Cell k holds points[offsets[k]:offsets[k+1]]."""


def _thinned(points: Any, cell: Any, num_points: int | None, method: Method) -> tuple[Any, Any]:
    """At most num_points of each cell."""
    if num_points is None:
        return points, cell
    kept = equal_counts(host(points), host(cell), num_points, method=method)
    if namespace(points) is not np:
        kept = sys.modules["torch"].from_numpy(kept).to(points.device)
    return points[kept], cell[kept]


def _sort(points: Any, cell: Any, num_cells: int) -> _Cloud:
    xp = namespace(points)
    order = xp.argsort(cell, stable=True)
    offsets = xp.zeros_like(cell, shape=num_cells + 1) if xp is np else cell.new_zeros(num_cells + 1)
    offsets[1:] = xp.cumsum(xp.bincount(cell, minlength=num_cells), 0)
    return _Cloud(points[order], cell[order], offsets)


def _ranges(offsets: Any, num_frames: int, band: int) -> Any:
    """First and end of the points within `band` frames of each cell; frames of an object are neighbours."""
    bounds = host(offsets)
    cell = np.arange(len(bounds) - 1)
    frame = cell % num_frames
    first = bounds[cell - np.minimum(frame, band)]
    return np.stack([first, bounds[cell + np.minimum(num_frames - 1 - frame, band) + 1]], -1)


def _sums(values: Any, cloud: _Cloud) -> Any:
    """Sum of sorted values over each cell, always in the same order."""
    if namespace(values) is np:
        return np.bincount(cloud.cell, values, len(cloud.offsets) - 1).astype(np.float64)
    torch = sys.modules["torch"]
    return torch.segment_reduce(values, "sum", offsets=cloud.offsets, initial=0.0)


def _band(num_frames: int, reach_m: float, c_time_m: float | None, band_frames: int | None) -> int:
    """Frames to either side that may hold a neighbour; a delay that costs reach_m or more holds none."""
    if c_time_m is None:
        return 0
    bounds = [num_frames - 1] if band_frames is None else [num_frames - 1, band_frames]
    if c_time_m > 0 and reach_m < num_frames * c_time_m:
        bounds.append(math.floor(reach_m / c_time_m))
    return min(bounds)


def _check(
    pred: Any,
    gt: Any,
    shape: tuple[int, int, int],
    tau_m: float,
    fscore_m: float | None,
    c_time_m: float | None,
    band_frames: int | None,
    num_points: int | None,
    resample: str,
) -> None:
    for name, points in (("pred", pred), ("gt", gt)):
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"{name} must have shape (points, 3), got {tuple(points.shape)}")
    if len(shape) != 3 or not all(_is_count(size, 0) for size in shape):
        raise ValueError(f"shape must be numbers of samples, frames and objects, got {shape}")
    if not bool(namespace(gt).isfinite(gt).all()):
        raise ValueError("gt must be finite")
    for name, value in (("tau_m", tau_m), ("fscore_m", fscore_m)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be above 0, got {value}")
    if c_time_m is not None and not (math.isfinite(c_time_m) and c_time_m >= 0):
        raise ValueError(f"c_time_m must be finite and at least 0, got {c_time_m}")
    if band_frames is not None and (c_time_m is None or not _is_count(band_frames, 0)):
        raise ValueError(
            f"band_frames must be an integer from 0 and needs c_time_m, got {band_frames}, {c_time_m}"
        )
    if num_points is not None and not _is_count(num_points, 1):
        raise ValueError(f"num_points must be an integer above 0, got {num_points}")
    if resample not in METHODS:
        raise ValueError(f"resample must be one of {', '.join(METHODS)}, got {resample!r}")


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= least)


def _cells(name: str, shape: tuple[int, int, int], sample: Any, frame: Any, obj: Any, points: Any) -> Any:
    """(sample, object, frame) as one number."""
    num_samples, num_frames, num_objects = shape
    cell = _labels(f"{name}_frame_id", frame, points, np.int64) * 0
    for label, ids, count in (
        ("sample", sample, num_samples),
        ("object", obj, num_objects),
        ("frame", frame, num_frames),
    ):
        ids = cell * 0 if ids is None else _labels(f"{name}_{label}_id", ids, points, np.int64)
        if len(ids) and not (int(ids.min()) >= 0 and int(ids.max()) < count):
            raise ValueError(
                f"{name}_{label}_id must be in [0, {count}), got {int(ids.min())} to {int(ids.max())}"
            )
        cell = cell * count + ids
    return cell


def _float64(array: Any) -> Any:
    if hasattr(array, "detach"):
        return array.detach().double()
    return np.asarray(array, np.float64)


def _labels(name: str, labels: Any, points: Any, dtype: type) -> Any:
    """Labels of the points, one of each, on their device."""
    torch = None if namespace(points) is np else sys.modules["torch"]
    labels = np.asarray(host(labels)) if torch is None else torch.as_tensor(labels, device=points.device)
    given, kind = str(labels.dtype).removeprefix("torch."), "bool" if dtype is bool else "int"
    if labels.shape != (len(points),) or not given.lstrip("u").startswith(kind):
        raise ValueError(
            f"{name} must be {kind} of shape ({len(points)},), got {given} {tuple(labels.shape)}"
        )
    if torch is None:
        return labels.astype(dtype)
    return labels.to(torch.bool if dtype is bool else torch.int64)


def largest_deviation(vectors: Path, backend: Backend = "auto") -> float:
    """Recompute a file of recorded values; the largest relative deviation.

    Raises:
        UserError: names the file, and the case and the value that are not as they should be.
    """
    try:
        cases = json.loads(vectors.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{vectors} is no JSON: {error}") from None
    if not isinstance(cases, dict):
        raise UserError(f"{vectors} must hold cases by name, got {type(cases).__name__}")
    deviations = []
    for name, case in cases.items():
        where = f"{vectors}: case {name!r}"
        if name in ("about", "note") and isinstance(case, str):
            continue
        if not isinstance(case, dict):
            raise UserError(f"{where} must be an object, got {reprlib.repr(case)}; text is in about or note")
        _check_case(where, case)
        x, y = (
            _closed_form(case[n], case[k]) + np.float32(case["offset"]) for n, k in (("N", "kx"), ("M", "ky"))
        )
        zeros_x, zeros_y = np.zeros(len(x), int), np.zeros(len(y), int)
        terms = chamfer4d(
            x,
            y,
            pred_frame_id=zeros_x,
            gt_frame_id=zeros_y,
            pred_object_id=zeros_x,
            gt_object_id=zeros_y,
            shape=(1, 1, 1),
            backend=backend,
        )
        for key, value in (("cd2_sum", terms.cd2_sum_m2), ("acc", terms.acc_m), ("comp", terms.comp_m)):
            deviations.append(abs(value.item() - case[key]) / max(abs(case[key]), 1e-12))
    if not deviations:
        raise UserError(f"{vectors} holds no case; tests/vectors/chamfer.json shows the format")
    return float(np.max(deviations))


def _check_case(where: str, case: dict[str, Any]) -> None:
    """Numbers all of them, none too large, and points in both clouds."""
    keys = ("N", "M", "acc", "cd2_sum", "comp", "kx", "ky", "offset")
    if lacking := [key for key in keys if key not in case]:
        raise UserError(f"{where} lacks {', '.join(lacking)}")
    for key in keys:
        kinds, least, rule = int | float, -VECTOR_LIMIT, "a number"
        if key in "NM":
            kinds, least, rule = int, 1, "an integer"
        value = case[key]
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        if not is_number or not least <= value <= VECTOR_LIMIT:
            raise UserError(
                f"{where}: {key} must be {rule} in {least} to {VECTOR_LIMIT}, got {reprlib.repr(value)}"
            )


def _closed_form(num_points: int, k: float) -> Float[np.ndarray, "N 3"]:
    """The test points T((1, N, 3), k)[i] = float32(1.3 sin(0.7 (i + 1) k + 0.3 k)), row-major, i from 0."""
    i = np.arange(3 * num_points)
    return (1.3 * np.sin(0.7 * (i + 1) * k + 0.3 * k)).astype(np.float32).reshape(-1, 3)


def main(args: Sequence[str] | None = None) -> int:
    """Check recorded values; 0 if all agree within 1e-5."""
    parser = argparse.ArgumentParser(
        prog="python -m phys4d.metrics.chamfer", description="check recorded values"
    )
    parser.add_argument("--vectors", type=Path, required=True, help="file such as tests/vectors/chamfer.json")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what computes them")
    options = parser.parse_args(args)
    deviation = largest_deviation(options.vectors, options.backend)
    print(f"largest relative deviation {deviation:.2e}")
    return 0 if deviation <= VECTOR_TOLERANCE else 1


if __name__ == "__main__":
    run_main(lambda: sys.exit(main()))
