"""Errors of depth and motion against simulator truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from phys4d.metrics.consistency.depth import aligned_depth_errors


@dataclass(frozen=True)
class DepthMotionErrors:
    """Means over the videos of a batch; lower is better but for `delta1`."""

    abs_rel: float
    """After one scale and shift per video."""
    abs_rel_metric: float
    """mean |d - D| / D without alignment."""
    delta1: float
    """After the same alignment."""
    object_depth_l1_m: float
    """mean |d - D| on objects in metres, without alignment."""
    flow_epe_px: float
    """mean end-point error on moving objects, pixels."""
    flow_px: float
    """mean length of the true flow there: what predicting no motion would err."""
    dz_l1_m: float
    """mean |dz - DZ| on moving objects in metres."""


def depth_motion_errors(
    depth: Float[np.ndarray, "videos frames height width"],
    motion: Float[np.ndarray, "videos frames-1 height width 3"],
    true_depth: Float[np.ndarray, "videos frames height width"],
    true_motion: Float[np.ndarray, "videos frames-1 height width 3"],
    object_ids: UInt8[np.ndarray, "videos frames height width"],
    *,
    moving_px: float = 0.5,
) -> DepthMotionErrors:
    """Compare predictions with the simulator; pixels without true depth (NaN) do not count.

    AbsRel and delta1 are means over videos of `aligned_depth_errors`.
    """
    valid = np.isfinite(true_depth)
    truth = true_depth[valid]
    aligned = [aligned_depth_errors(d, t) for d, t in zip(depth, true_depth, strict=True)]
    on_object = valid & (object_ids > 0)
    moving = (object_ids[:, :-1] > 0) & (np.linalg.norm(true_motion[..., :2], axis=-1) > moving_px)
    return DepthMotionErrors(
        abs_rel=float(np.mean([errors.abs_rel for errors in aligned])),
        abs_rel_metric=float(np.mean(np.abs(depth[valid] - truth) / truth)),
        delta1=float(np.mean([errors.delta1 for errors in aligned])),
        object_depth_l1_m=_mean(np.abs(depth - true_depth), on_object),
        flow_epe_px=_mean(np.linalg.norm(motion[..., :2] - true_motion[..., :2], axis=-1), moving),
        flow_px=_mean(np.linalg.norm(true_motion[..., :2], axis=-1), moving),
        dz_l1_m=_mean(np.abs(motion[..., 2] - true_motion[..., 2]), moving),
    )


def _mean(values: Float[np.ndarray, "*dims"], mask: Bool[np.ndarray, "*dims"]) -> float:
    if not mask.any():
        raise ValueError("no pixel to compare: the videos show no moving object")
    return float(values[mask].mean())
