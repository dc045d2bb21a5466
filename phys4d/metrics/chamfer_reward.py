"""What Chamfer terms are worth as a reward: weights and floor.

The terms of `phys4d.metrics.chamfer.chamfer4d` are measurements. A policy looks for ways to raise a reward
made of them without moving things as the simulator does, so: a missing object counts as tau, an object
weighs by its true motion and not by its points, and distances are truncated, not squared.
"""

import numpy as np
from jaxtyping import Float, Float64


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
