"""Read a generated video's geometry: align its depth, and see how far depth and motion agree."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

SCALE_RANGE = (0.5, 2.0)


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Metric depth = scale x generated depth + shift_m, the same for all frames."""

    scale: float
    shift_m: float
    num_pixels: int
    """Background pixels of frame 0 it was fitted on."""
    residual_m: float
    """Median distance to the simulator's depth on them."""


def align_depth(
    depth: Float[np.ndarray, "height width"],
    true_depth_m: Float64[np.ndarray, "height width"],
    background: Bool[np.ndarray, "height width"],
    *,
    fit_shift: bool,
) -> Alignment:
    """Fit one scale, and a shift, on static pixels of frame 0: least squares with Cauchy weights.

    A fit per frame would hide drift. The scale is clamped to [0.5, 2]; with fewer than 16 pixels nothing
    is fitted.
    """
    use = background & np.isfinite(true_depth_m)
    x, y = np.asarray(depth, np.float64)[use], true_depth_m[use]
    if len(x) < 16:
        return Alignment(scale=1.0, shift_m=0.0, num_pixels=len(x), residual_m=0.0)
    scale, shift = float(np.clip(np.median(y / x), *SCALE_RANGE)), 0.0
    residual = np.abs(scale * x - y)
    for _ in range(12):
        knee = max(2 * 1.4826 * _median(residual), 1e-6)
        weight = 1 / (1 + np.square(residual / knee))
        total = weight.sum()
        mean_x, mean_y = (weight @ x) / total, (weight @ y) / total
        if fit_shift:
            variance = weight @ np.square(x - mean_x)
            slope = weight @ ((x - mean_x) * (y - mean_y)) / variance if variance > 1e-12 else 1.0
        else:
            slope = weight @ (x * y) / (weight @ np.square(x))
        scale = float(np.clip(slope, *SCALE_RANGE))
        shift = float(mean_y - scale * mean_x) if fit_shift else 0.0
        residual = np.abs(scale * x + shift - y)
    return Alignment(scale=scale, shift_m=shift, num_pixels=len(x), residual_m=_median(residual))


def _median(values: Float64[np.ndarray, " n"]) -> float:
    """np.median of a few thousand numbers, without its checks, which take most of its time here."""
    half = len(values) // 2
    low, high = np.partition(values, (half - 1, half))[half - 1 : half + 1]
    return float(high if len(values) % 2 else 0.5 * (low + high))


def warp_residual(
    depth_m: Float64[np.ndarray, "frames height width"],
    motion: Float64[np.ndarray, "frames-1 height width 3"],
) -> float:
    """How far depth and motion contradict each other: median over all pixels that stay in the image of

        | depth[t] + dz - depth[t + 1](u + du, v + dv) |

    in metres, the depth of the nearest pixel taken.
    """
    num_frames, height, width = depth_m.shape
    rows, columns = np.mgrid[:height, :width]
    to_column = np.floor(columns + 0.5 + motion[..., 0])
    to_row = np.floor(rows + 0.5 + motion[..., 1])
    stays = (to_column >= 0) & (to_column < width) & (to_row >= 0) & (to_row < height)
    if not stays.any():
        return 0.0
    frame = np.broadcast_to(np.arange(1, num_frames)[:, None, None], stays.shape)[stays]
    arrived = depth_m[frame, to_row[stays].astype(int), to_column[stays].astype(int)]
    return float(np.median(np.abs((depth_m[:-1] + motion[..., 2])[stays] - arrived)))
