"""Read a generated video's geometry: align its depth, and carry frame-0 points along its motion."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from phys4d.geometry.camera import unproject
from phys4d.types import Camera

SCALE_RANGE = (0.5, 2.0)
GATE_M = 0.15


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
        knee = max(2 * 1.4826 * float(np.median(residual)), 1e-6)
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
    return Alignment(scale=scale, shift_m=shift, num_pixels=len(x), residual_m=float(np.median(residual)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """Points carried from frame 0."""

    lifted_m: Float64[np.ndarray, "frames points 3"]
    """Camera frame, depth read off the generated depth at the point."""
    carried_m: Float64[np.ndarray, "frames points 3"]
    """Camera frame, depth of frame 0 plus the motion's dz."""
    present: Bool[np.ndarray, "frames points"]
    """False from the frame on at which a point left the image or came to the camera."""


def carry_points(
    depth_m: Float64[np.ndarray, "frames height width"],
    motion: Float64[np.ndarray, "frames-1 height width 3"],
    pixels: Float64[np.ndarray, "points 2"],
    camera: Camera,
) -> Tracks:
    """Follow points along the generated motion.

    Motion and depth are read bilinearly from the four pixels around a point, without those whose depth is
    0.15 m or more from the point's, if any remain: beside an object's edge lies the background, which does
    not move along.

    Args:
        depth_m: aligned z-depth.
        motion: (du px, dv px, dz m) to the next frame, dz in the units of depth_m.
        pixels: (u, v) in frame 0.
    """
    num_frames, height, width = depth_m.shape
    uv = np.array(pixels, np.float64)
    uv_all = np.empty((num_frames, len(uv), 2))
    z_lifted, z_carried = np.empty((num_frames, len(uv))), np.empty((num_frames, len(uv)))
    present = np.empty((num_frames, len(uv)), bool)
    inside = np.ones(len(uv), bool)
    step = np.zeros((len(uv), 3))
    for t in range(num_frames):
        rows, columns, weight = _corners(uv, height, width)
        near = depth_m[t, rows, columns]
        if t == 0:
            z_carried[0] = expected = (weight * near).sum(-1)
        else:
            z_carried[t], expected = z_carried[t - 1] + step[:, 2], z_lifted[t - 1] + step[:, 2]
        gated = weight * (np.abs(near - expected[:, None]) < GATE_M)
        total = gated.sum(-1, keepdims=True)
        weight = np.where(total > 1e-3, gated / np.maximum(total, 1e-3), weight)
        z_lifted[t] = (weight * near).sum(-1)
        uv_all[t] = uv
        inside = inside & (uv >= 0).all(-1) & (uv[:, 0] <= width) & (uv[:, 1] <= height)
        inside = inside & (z_lifted[t] > 0) & (z_carried[t] > 0)
        present[t] = inside
        if t + 1 < num_frames:
            step = (weight[..., None] * motion[t, rows, columns]).sum(1)
            uv = uv + step[:, :2]
    return Tracks(
        lifted_m=unproject(uv_all, z_lifted, camera),
        carried_m=unproject(uv_all, z_carried, camera),
        present=present,
    )


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


def _corners(
    uv: Float64[np.ndarray, "points 2"], height: int, width: int
) -> tuple[np.ndarray, np.ndarray, Float64[np.ndarray, "points 4"]]:
    """Rows and columns of the four pixels around each point, and their bilinear weights."""
    column = np.clip(uv[:, 0] - 0.5, 0, width - 1)
    row = np.clip(uv[:, 1] - 0.5, 0, height - 1)
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    a, b = column - left, row - top
    rows = np.stack([top, top, bottom, bottom], -1)
    columns = np.stack([left, right, left, right], -1)
    return rows, columns, np.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b], -1)
