"""Errors of motion in the image and in space, and whether it leads back where it came from."""

import numpy as np
from jaxtyping import Bool, Float

from phys4d.geometry import pixel_centres, sample_bilinear, scene_flow
from phys4d.geometry.camera import Intrinsics
from phys4d.metrics.masked_mean import masked_mean

CYCLE_CAP_PX = 5.0


def flow_epe(
    motion: Float[np.ndarray, "steps height width channels"],
    true_motion: Float[np.ndarray, "steps height width channels"],
    mask: Bool[np.ndarray, "steps height width"],
) -> float:
    """End-point error, pixels: mean over the mask of |(du, dv) - (DU, DV)|. It is 0 on truth.

    Source: Baker et al., A Database and Evaluation Methodology for Optical Flow, 2011.
    """
    return masked_mean(np.linalg.norm(motion[..., :2] - true_motion[..., :2], axis=-1), mask, "flow_epe")


def flow_epe_3d(
    depth: Float[np.ndarray, "frames height width"],
    motion: Float[np.ndarray, "frames-1 height width 3"],
    true_depth: Float[np.ndarray, "frames height width"],
    true_motion: Float[np.ndarray, "frames-1 height width 3"],
    camera: Intrinsics,
    mask: Bool[np.ndarray, "frames-1 height width"],
) -> float:
    """End-point error in space, metres: mean over the mask of the distance between both displacements.

    A displacement goes from (u, v, D) to (u + du, v + dv, D + dz), lifted to the camera frame. 0 on truth.

    Source: Menze and Geiger, Object Scene Flow for Autonomous Vehicles, 2015.
    """
    found = scene_flow(depth[:-1], motion, camera)
    true = scene_flow(true_depth[:-1], true_motion, camera)
    return masked_mean(np.linalg.norm(found - true, axis=-1), mask, "flow_epe_3d")


def flow_cycle_error(
    forward: Float[np.ndarray, "steps height width channels"],
    backward: Float[np.ndarray, "steps height width channels"],
    mask: Bool[np.ndarray, "steps height width"] | None = None,
    *,
    cap_px: float = CYCLE_CAP_PX,
) -> float:
    """How far going to the next frame and back misses the start, pixels:

        mean over M of min(| F_t(p) + B_{t+1}(p + F_t(p)) |, cap)

    with bilinear B. A point that leaves the image counts as the cap. On truth what is left where objects are
    seen in both frames is the interpolation error, below 0.1 px at 64 x 64 pixels.

    Args:
        forward: F, (du, dv, ...) from frame t to t + 1.
        backward: B, from frame t + 1 to t, in the same order of steps.
        mask: M, where the truth shows the point in both frames. Where the cycle closes is no mask: noise
            passes there as well. None takes every pixel, so that what is covered counts for truth too.

    Source: Sundaram et al., Dense Point Trajectories by GPU-accelerated Optical Flow, ECCV 2010.
    """
    steps, height, width = forward.shape[:3]
    uv = (pixel_centres(height, width) + forward[..., :2]).reshape(steps, height * width, 2)
    back, sound = sample_bilinear(backward[..., :2], uv)
    gap = np.linalg.norm(forward[..., :2] + back.reshape(steps, height, width, 2), axis=-1)
    gap = np.where(sound.reshape(gap.shape) & np.isfinite(gap), np.minimum(gap, cap_px), cap_px)
    return masked_mean(gap, np.ones(gap.shape, bool) if mask is None else mask, "flow_cycle_error")
