"""Errors of depth and motion against simulator truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8


@dataclass(frozen=True)
class DepthMotionErrors:
    """Means over the videos of a batch; lower is better but for `delta1`."""

    abs_rel: float
    """mean |a d + b - D| / D with one scale a and shift b per video."""
    abs_rel_metric: float
    """mean |d - D| / D without alignment."""
    delta1: float
    """Share of pixels with max(d / D, D / d) < 1.25 after alignment."""
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

    Source: AbsRel and delta1 as in Eigen et al. 2014, with the per-video alignment of Ranftl et al. 2020.
    """
    valid = np.isfinite(true_depth)
    aligned = np.stack([_aligned(d, t, v) for d, t, v in zip(depth, true_depth, valid, strict=True)])
    truth = true_depth[valid]
    ratio = np.maximum(aligned[valid] / truth, truth / np.clip(aligned[valid], 1e-3, None))
    on_object = valid & (object_ids > 0)
    moving = (object_ids[:, :-1] > 0) & (np.linalg.norm(true_motion[..., :2], axis=-1) > moving_px)
    return DepthMotionErrors(
        abs_rel=float(np.mean(np.abs(aligned[valid] - truth) / truth)),
        abs_rel_metric=float(np.mean(np.abs(depth[valid] - truth) / truth)),
        delta1=float(np.mean(ratio < 1.25)),
        object_depth_l1_m=_mean(np.abs(depth - true_depth), on_object),
        flow_epe_px=_mean(np.linalg.norm(motion[..., :2] - true_motion[..., :2], axis=-1), moving),
        flow_px=_mean(np.linalg.norm(true_motion[..., :2], axis=-1), moving),
        dz_l1_m=_mean(np.abs(motion[..., 2] - true_motion[..., 2]), moving),
    )


def _mean(values: Float[np.ndarray, "*dims"], mask: Bool[np.ndarray, "*dims"]) -> float:
    if not mask.any():
        raise ValueError("no pixel to compare: the videos show no moving object")
    return float(values[mask].mean())


def _aligned(
    depth: Float[np.ndarray, "frames height width"],
    truth: Float[np.ndarray, "frames height width"],
    valid: Bool[np.ndarray, "frames height width"],
) -> Float[np.ndarray, "frames height width"]:
    x, y = depth[valid].astype(np.float64), truth[valid].astype(np.float64)
    scale, shift = np.polyfit(x, y, 1) if np.ptp(x) > 1e-6 else (0.0, float(y.mean()))
    return scale * depth + shift
