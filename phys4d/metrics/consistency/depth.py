"""Consistency of depth over time, and its errors after one alignment per video."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

from phys4d.geometry import footprint_is_uniform, pixel_centres, warp_depth
from phys4d.metrics.masked_mean import NothingToCompareError, masked_mean

DELTA1 = 1.25
LEAST_DEPTH_M = 1e-3


def same_surface(
    object_ids: Integer[np.ndarray, "frames height width"],
    motion: Float[np.ndarray, "frames-1 height width 3"],
    visible: Bool[np.ndarray, "frames-1 height width"],
) -> Bool[np.ndarray, "frames-1 height width"]:
    """Where the surface seen at t can be compared with that at t + 1.

    It is seen at t + 1, and the 2 x 2 pixels about its place there all show its own object: interpolated
    depth means nothing across an edge.
    """
    steps, height, width = motion.shape[:3]
    uv = (pixel_centres(height, width) + motion[..., :2]).reshape(steps, height * width, 2)
    expected = object_ids[:-1].reshape(steps, height * width)
    pure = footprint_is_uniform(object_ids[1:], uv, expected)
    return visible & pure.reshape(visible.shape)


def depth_warp_l1(
    depth: Float[np.ndarray, "frames height width"],
    motion: Float[np.ndarray, "frames-1 height width 3"],
    mask: Bool[np.ndarray, "frames-1 height width"] | None = None,
) -> float:
    """How far depth carried by motion misses the next frame's depth, metres:

        mean over M of | D_{t+1}(p + F_t^uv(p)) - (D_t(p) + F_t^z(p)) |

    with bilinear D_{t+1}. On truth what is left is the interpolation error on curved surfaces, below 1 cm at
    64 x 64 pixels.

    Args:
        mask: M; None takes every pixel that stays in the image. It is cut down to finite values.

    Source: Phys4D, the warp-consistency objective.
    """
    arrived, sound = warp_depth(depth[1:], motion)
    expected = depth[:-1] + motion[..., 2]
    use = sound & np.isfinite(expected) & (True if mask is None else mask)
    return masked_mean(np.abs(arrived - expected), use, "depth_warp_l1")


def depth_flicker(
    depth: Float[np.ndarray, "frames height width"], static: Bool[np.ndarray, "frames height width"]
) -> float:
    """Change of depth from frame to frame where nothing moves, metres:

        mean over t, p in S_t and S_{t+1} of | D_{t+1}(p) - D_t(p) |

    It is 0 on truth.

    Args:
        static: S, pixels that show fixed surfaces; the camera does not move.
    """
    use = static[:-1] & static[1:] & np.isfinite(depth[:-1]) & np.isfinite(depth[1:])
    return masked_mean(np.abs(np.diff(depth, axis=0)), use, "depth_flicker")


@dataclass(frozen=True, kw_only=True)
class AlignedDepthErrors:
    """Errors of depth after one scale and shift per video."""

    abs_rel: float
    """mean |a d + b - D| / D."""
    delta1: float
    """Share of pixels with max(d' / D, D / d') < 1.25 for d' = a d + b."""
    scale: float
    """a."""
    shift_m: float
    """b."""


def aligned_depth_errors(
    depth: Float[np.ndarray, "frames height width"], true_depth: Float[np.ndarray, "frames height width"]
) -> AlignedDepthErrors:
    """Fit one scale and shift to the whole video by least squares, then compare.

    One fit per video, never per frame: a fit per frame would hide drift. The scale is 0 at least, since depth
    turned inside out is no depth. A pixel without depth where the truth has it counts as d' = 0: it adds 1 to
    abs_rel and 0 to delta1. On truth abs_rel is below 1e-6 and delta1 is 1, whatever scale and shift were
    applied.

    Raises:
        NothingToCompareError: the truth has no depth.

    Source: Eigen et al. 2014; alignment of Ranftl et al. 2020 (MiDaS), eq. 4.
    """
    compared = np.isfinite(true_depth)
    if not compared.any():
        raise NothingToCompareError("aligned_depth_errors: the truth has no depth")
    d, true = depth[compared].astype(np.float64), true_depth[compared].astype(np.float64)
    seen = np.isfinite(d)
    scale, shift = _least_squares(d[seen], true[seen]) if seen.any() else (0.0, 0.0)
    aligned = np.where(seen, scale * d + shift, 0.0)
    ratio = np.maximum(aligned / true, true / np.maximum(aligned, LEAST_DEPTH_M))
    return AlignedDepthErrors(
        abs_rel=float(np.mean(np.abs(aligned - true) / true)),
        delta1=float(np.mean(ratio < DELTA1)),
        scale=scale,
        shift_m=shift,
    )


def _least_squares(x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"]) -> tuple[float, float]:
    """a >= 0 and b that minimise |a x + b - y|; a is 0 where x does not vary."""
    dx = x - x.mean()
    spread = float(dx @ dx)
    scale = max(0.0, float(dx @ (y - y.mean())) / spread) if spread > 1e-9 * len(x) else 0.0
    return scale, float(y.mean() - scale * x.mean())
