"""What Chamfer terms are worth as a reward: weights, floor, gain, and when a group tells nothing.

The terms of `phys4d.metrics.chamfer.chamfer4d` are measurements. A policy looks for ways to raise a reward
made of them without moving things as the simulator does, so: a missing object counts as tau, an object
weighs by its true motion and not by its points, standing still earns no gain, and distances are truncated,
not squared.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Float64


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
    if not sigma_m > 0 or not floor_m >= 0:
        raise ValueError(f"sigma_m must be above 0 and floor_m at least 0, got {sigma_m}, {floor_m}")
    if np.isinf(cd1_m).any():
        raise ValueError("cd1_m is infinite where an object is missing; give chamfer4d a finite tau_m")
    compared = np.isfinite(cd1_m)
    error_m = np.maximum(0.0, np.where(compared, cd1_m, 0.0) - floor_m)
    weight = np.where(compared, weight, 0.0)
    total = weight.sum((-2, -1))
    if not (total > 0).all():
        raise ValueError("no cell with weight was compared; a reward would be made up")
    return (weight / (1 + error_m / sigma_m)).sum((-2, -1)) / total


def motion_weight(
    gt_travel_m: Float[np.ndarray, "*batch O"], *, static_m: float = 0.05
) -> Float64[np.ndarray, "*batch O"]:
    """Weight of each object: its true path length plus `static_m`, so that one at rest matters a little.

    Points have no say: a floor with nine tenths of all points must not hide that a ball is gone.
    """
    if not np.isfinite(gt_travel_m).all() or np.min(gt_travel_m, initial=0.0) < 0:
        raise ValueError("gt_travel_m must be finite and at least 0")
    if not static_m > 0:
        raise ValueError(f"static_m must be above 0, got {static_m}")
    return np.asarray(gt_travel_m, np.float64) + static_m


def sampling_floor_m(area_m2: float, num_points: int) -> float:
    """Chamfer distance cd1 of two samples of one surface: sqrt(area / N) / 2.

    The mean distance to the nearest of N points spread at random over an area, as for a planar Poisson
    process of density N / area. Both clouds have N points; subtract it as `floor_m`.
    """
    if not area_m2 > 0 or num_points < 1:
        raise ValueError(f"area_m2 must be above 0 and num_points at least 1, got {area_m2}, {num_points}")
    return 0.5 * math.sqrt(area_m2 / num_points)


def recorded_sigma_m(
    cd1_m: Float[np.ndarray, "*batch T O"], weight: Float[np.ndarray, "*batch T O"], *, floor_m: float = 0.0
) -> float:
    """Median error above the floor over the base policy's cells with weight: measured once, then kept."""
    error_m = np.maximum(0.0, cd1_m - floor_m)[np.isfinite(cd1_m) & (weight > 0)]
    if len(error_m) == 0 or not np.median(error_m) > 0:
        raise ValueError("the base policy's median error must be above the floor to set sigma_m")
    return float(np.median(error_m))


def gain(
    reward: Float[np.ndarray, " *batch"], frozen_reward: Float[np.ndarray, " *batch"]
) -> Float64[np.ndarray, " *batch"]:
    """Reward above that of points which stay as in frame 0; below 0 for a motion worse than none."""
    return np.asarray(reward, np.float64) - frozen_reward


def group_has_signal(
    rewards: Float[np.ndarray, "*batch siblings"], resampling_noise: float, *, factor: float = 3.0
) -> Bool[np.ndarray, " *batch"]:
    """Whether siblings differ by more than another draw of points would make them differ.

    Args:
        rewards: of a group, all against the same true points.
        resampling_noise: standard deviation of one rollout's reward over draws of its points.
        factor: the group's standard deviation must be at least so many times the noise; below, the
            advantages of the group are noise and belong at 0.
    """
    if not resampling_noise >= 0 or not factor > 0:
        raise ValueError(f"noise must be at least 0 and factor above 0, got {resampling_noise}, {factor}")
    spread = np.std(rewards, axis=-1)
    return (spread > 0) & (spread >= factor * resampling_noise)
