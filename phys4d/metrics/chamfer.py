"""4D Chamfer distance between moving point clouds: per frame and object, in float64.

"4D Chamfer" has no settled definition; here, for the points of one object at one frame,

    acc  = mean over generated points of min(d, tau)     d: distance to the nearest true point
    comp = mean over true points of min(d, tau)          d: distance to the nearest generated point
    cd1  = (acc + comp) / 2                              metres
    cd2_sum = mean min(d, tau)^2 of both directions, added up (square metres; pytorch3d's convention)

A generated point that is missing counts as tau away, and an object without any generated point is as bad as
can be: an empty cloud never scores well.

    python -m phys4d.metrics.chamfer --vectors tests/vectors/chamfer.json

recomputes recorded values of pytorch3d and prints the largest relative deviation.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64
from scipy.spatial import cKDTree

VECTOR_TOLERANCE = 1e-5


def nn_d2(
    x: Float[np.ndarray, "P D"],
    y: Float[np.ndarray, "Q D"],
    x_offsets: Int[np.ndarray, " S+1"],
    y_offsets: Int[np.ndarray, " S+1"],
) -> Float64[np.ndarray, " P"]:
    """Squared distance from each point of x to the nearest point of y in the same segment.

    Segment s holds x[x_offsets[s]:x_offsets[s+1]] and y[y_offsets[s]:y_offsets[s+1]]. The difference form
    |x - y|^2 keeps its precision far from the origin. Where a segment of y is empty the distance is +inf.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    num_segments = len(x_offsets) - 1
    if len(y_offsets) - 1 != num_segments:
        raise ValueError(f"x has {num_segments} segments, y has {len(y_offsets) - 1}")
    if x_offsets[-1] != len(x) or y_offsets[-1] != len(y):
        raise ValueError(
            f"offsets must end at {len(x)} and {len(y)}, got {x_offsets[-1]} and {y_offsets[-1]}"
        )
    nearest = np.full(len(x), -1)
    x_ends, y_ends = np.asarray(x_offsets).tolist(), np.asarray(y_offsets).tolist()
    for s in range(num_segments):
        x_segment, y_segment = slice(*x_ends[s : s + 2]), slice(*y_ends[s : s + 2])
        if x_segment.stop > x_segment.start and y_segment.stop > y_segment.start:
            tree = cKDTree(y[y_segment], balanced_tree=False, compact_nodes=False)
            nearest[x_segment] = tree.query(x[x_segment])[1] + y_segment.start
    found = nearest >= 0
    d2 = np.full(len(x), np.inf)
    d2[found] = np.square(x[found] - y[nearest[found]]).sum(-1)
    return d2


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
    num_pred: Int64[np.ndarray, "B T O"]
    """Generated points, without missing ones."""
    num_gt: Int64[np.ndarray, "B T O"]
    """True points."""
    missing: Bool[np.ndarray, "B T O"]
    """True points but no generated one: acc and comp are tau."""


def chamfer4d(
    pred: Float[np.ndarray, "P 3"],
    gt: Float[np.ndarray, "Q 3"],
    *,
    pred_frame_id: Int[np.ndarray, " P"],
    gt_frame_id: Int[np.ndarray, " Q"],
    pred_object_id: Int[np.ndarray, " P"],
    gt_object_id: Int[np.ndarray, " Q"],
    shape: tuple[int, int, int],
    pred_sample_id: Int[np.ndarray, " P"] | None = None,
    gt_sample_id: Int[np.ndarray, " Q"] | None = None,
    pred_valid: Bool[np.ndarray, " P"] | None = None,
    tau_m: float = math.inf,
    c_time_m: float | None = None,
) -> ChamferTerms:
    """Compare labelled points; only points of the same sample and object, and frame, are neighbours.

    Args:
        pred: generated points, metres. Points that are not finite are missing.
        gt: true points, metres, all finite.
        shape: (samples B, frames T, objects O); ids count from 0.
        pred_sample_id, gt_sample_id: None is one sample.
        pred_valid: False marks a missing point.
        tau_m: distances count up to this.
        c_time_m: None compares frame by frame. A number makes time a fourth axis, c_time_m metres per
            frame (the price of one frame of delay), and lets points of all frames be neighbours.
    """
    pred, gt = np.asarray(pred, np.float64), np.asarray(gt, np.float64)
    if not np.isfinite(gt).all():
        raise ValueError("gt must be finite")
    if not tau_m > 0:
        raise ValueError(f"tau_m must be above 0, got {tau_m}")
    pred_cell = _cells(shape, pred_sample_id, pred_frame_id, pred_object_id, len(pred))
    gt_cell = _cells(shape, gt_sample_id, gt_frame_id, gt_object_id, len(gt))
    present = np.isfinite(pred).all(-1) & (True if pred_valid is None else np.asarray(pred_valid, bool))

    num_cells = math.prod(shape)
    num_all = np.bincount(pred_cell, minlength=num_cells)
    found, found_cell = pred[present], pred_cell[present]
    if c_time_m is None:
        segment_of_cell = np.arange(num_cells)
    else:
        cells = np.arange(num_cells)
        segment_of_cell = cells // (shape[1] * shape[2]) * shape[2] + cells % shape[2]
        found = np.column_stack([found, c_time_m * (found_cell // shape[2] % shape[1])])
        gt = np.column_stack([gt, c_time_m * (gt_cell // shape[2] % shape[1])])

    d_pred, d_gt = _both_ways(found, gt, segment_of_cell[found_cell], segment_of_cell[gt_cell])
    d_pred, d_gt = np.minimum(d_pred, tau_m), np.minimum(d_gt, tau_m)

    def means(power: int) -> tuple[np.ndarray, np.ndarray]:
        """Mean of the distances to a power for each cell, both ways; missing points are tau away."""
        num_missing = num_all - np.bincount(found_cell, minlength=num_cells)
        missing_part = np.zeros(num_cells)
        missing_part[num_missing > 0] = num_missing[num_missing > 0] * tau_m**power
        total_pred = np.bincount(found_cell, d_pred**power, num_cells) + missing_part
        mean_pred = np.where(num_all > 0, total_pred / np.maximum(num_all, 1), tau_m**power)
        return mean_pred, np.bincount(gt_cell, d_gt**power, num_cells) / np.maximum(num_gt, 1)

    num_gt = np.bincount(gt_cell, minlength=num_cells)
    num_found = np.bincount(found_cell, minlength=num_cells)
    unknown = num_gt == 0
    acc, comp = (np.where(unknown, np.nan, m) for m in means(1))
    acc2, comp2 = (np.where(unknown, np.nan, m) for m in means(2))
    return ChamferTerms(
        acc_m=acc.reshape(shape),
        comp_m=comp.reshape(shape),
        cd1_m=((acc + comp) / 2).reshape(shape),
        cd2_sum_m2=(acc2 + comp2).reshape(shape),
        num_pred=num_found.reshape(shape),
        num_gt=num_gt.reshape(shape),
        missing=((num_found == 0) & ~unknown).reshape(shape),
    )


def _cells(
    shape: tuple[int, int, int],
    sample: Int[np.ndarray, " N"] | None,
    frame: Int[np.ndarray, " N"],
    obj: Int[np.ndarray, " N"],
    num_points: int,
) -> Int64[np.ndarray, " N"]:
    sample = np.zeros(num_points, np.int64) if sample is None else sample
    return np.ravel_multi_index((np.asarray(sample), np.asarray(frame), np.asarray(obj)), shape).astype(
        np.int64
    )


def _both_ways(
    x: np.ndarray, y: np.ndarray, x_segment: np.ndarray, y_segment: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest distances x to y and y to x within segments, in the order of the input."""
    segments = np.union1d(x_segment, y_segment)
    orders, offsets = [], []
    for segment in (x_segment, y_segment):
        order = np.argsort(segment, kind="stable")
        orders.append(order)
        offsets.append(np.append(np.searchsorted(segment[order], segments), len(segment)))
    x_sorted, y_sorted = x[orders[0]], y[orders[1]]
    d_x, d_y = np.empty(len(x)), np.empty(len(y))
    d_x[orders[0]] = np.sqrt(nn_d2(x_sorted, y_sorted, offsets[0], offsets[1]))
    d_y[orders[1]] = np.sqrt(nn_d2(y_sorted, x_sorted, offsets[1], offsets[0]))
    return d_x, d_y


def chamfer_reward(
    cd1_m: Float[np.ndarray, "*batch T O"],
    weight: Float[np.ndarray, "*batch T O"],
    *,
    sigma_m: float,
    floor_m: float = 0.0,
) -> Float64[np.ndarray, "*batch"]:
    """Reward in (0, 1]: the weighted mean over frames and objects of

        r = 1 / (1 + e / sigma),   e = max(0, cd1 - floor).

    It falls off slowly, so that a bad rollout still tells better from worse; exp(-e / sigma) is flat there.

    Args:
        cd1_m: NaN where nothing was compared; such cells have no weight.
        weight: at least 0; each batch entry has some weight on a cell that was compared.
        sigma_m: error that earns one half.
        floor_m: error of a perfect rollout.
    """
    compared = np.isfinite(cd1_m)
    error_m = np.maximum(0.0, np.where(compared, cd1_m, 0.0) - floor_m)
    weight = np.where(compared, weight, 0.0)
    total = weight.sum((-2, -1))
    if not (total > 0).all():
        raise ValueError("no cell with weight was compared; a reward would be made up")
    return (weight / (1 + error_m / sigma_m)).sum((-2, -1)) / total


def largest_deviation(vectors: Path) -> float:
    """Recompute a file of recorded values; the largest relative deviation."""
    cases = json.loads(vectors.read_text(encoding="utf-8"))
    deviations = []
    for case in (value for value in cases.values() if isinstance(value, dict)):
        x, y = (
            _closed_form(int(case[n]), case[k]) + np.float32(case["offset"])
            for n, k in (("N", "kx"), ("M", "ky"))
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
        )
        for key, value in (("cd2_sum", terms.cd2_sum_m2), ("acc", terms.acc_m), ("comp", terms.comp_m)):
            deviations.append(abs(value.item() / case[key] - 1))
    if not deviations:
        raise ValueError(f"{vectors} holds no case")
    return max(deviations)


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
    deviation = largest_deviation(parser.parse_args(args).vectors)
    print(f"largest relative deviation {deviation:.2e}")
    return 0 if deviation <= VECTOR_TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
