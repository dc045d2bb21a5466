"""4D consistency and the simulated benchmark on one held-out scene, and the clouds that the report shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from phys4d.metrics.consistency.clouds import (
    PointTracks,
    carried_tracks,
    centroid_drift,
    cloud_errors,
    rigid_tracks,
)
from phys4d.metrics.consistency.depth import aligned_depth_errors, depth_flicker, depth_warp_l1, same_surface
from phys4d.metrics.consistency.flow import flow_cycle_error, flow_epe, flow_epe_3d
from phys4d.metrics.consistency.free_fall import free_fall_errors
from phys4d.metrics.tracking import colour_masks

if TYPE_CHECKING:
    from phys4d.data import Sample

GEOMETRY_METRICS = {
    "spacetime Chamfer": ("m", False),
    "track error": ("m", False),
    "final centroid drift": ("m", False),
    "slope of centroid drift": ("m/s", False),
    "depth AbsRel": ("", False),
    "depth delta1": ("", True),
    "depth warp L1": ("m", False),
    "depth flicker": ("m", False),
    "flow EPE": ("px", False),
    "scene flow EPE": ("m", False),
}
"""Of depth and motion against the simulator. Metric name: unit, whether higher is better."""
RGB_METRICS = {
    "flow cycle error": ("px", False),
    "free-fall L2": ("", False),
    "free-fall Chamfer": ("", False),
    "free-fall IoU": ("", True),
    "motion MSE": ("", False),
    "motion ST-IoU": ("", True),
    "motion S-IoU": ("", True),
    "motion WS-IoU": ("", True),
    "share of physical variance": ("%", True),
}
"""Of RGB alone. Free fall: scenes of the family `drop`. The last: scenes with a second take."""
FALLING_FAMILIES = ("drop",)
POSED_CATEGORIES = ("rigid", "articulated")
"""Whose objects move as rigid bodies, so that poses carry their points exactly."""
MAX_POINTS, MAX_POINT_FRAMES, MAX_BACKGROUND = 600, 12000, 1500


def true_tracks(sample: Sample) -> PointTracks:
    """Where the simulator takes the object points seen in frame 0; exact for rigid bodies."""
    if sample.spec.category in POSED_CATEGORIES:
        return rigid_tracks(
            sample.depth[0], sample.object_ids[0], sample.position, sample.rotation, sample.camera
        )
    return carried_tracks(sample.depth, sample.motion, sample.object_ids[0], sample.camera)


def geometry_metrics(sample: Sample, depth: np.ndarray, motion: np.ndarray) -> dict[str, float]:
    """`GEOMETRY_METRICS` of one video; a metric without a pixel to compare is left out."""
    found, exact = carried_tracks(depth, motion, sample.object_ids[0], sample.camera), true_tracks(sample)
    clouds, drift = cloud_errors(found, exact), centroid_drift(found, exact, sample.spec.fps)
    has_depth = np.isfinite(sample.depth)
    on_object = (sample.object_ids[:-1] > 0) & has_depth[:-1] & np.isfinite(sample.motion).all(-1)
    aligned = aligned_depth_errors(depth, sample.depth)
    values: dict[str, float] = {
        "spacetime Chamfer": clouds["cd_spacetime_m"],
        "track error": clouds["track_l2_m"],
        "final centroid drift": drift.final_m,
        "slope of centroid drift": drift.slope_m_s,
        "depth AbsRel": aligned.abs_rel,
        "depth delta1": aligned.delta1,
    }
    comparable = same_surface(sample.object_ids, sample.motion, sample.visible)
    still = (sample.object_ids == 0) & has_depth
    if comparable.any():
        values["depth warp L1"] = depth_warp_l1(depth, motion, comparable)
    if (still[1:] & still[:-1]).any():
        values["depth flicker"] = depth_flicker(depth, still)
    if on_object.any():
        values["flow EPE"] = flow_epe(motion, sample.motion, on_object)
        values["scene flow EPE"] = flow_epe_3d(
            depth, motion, sample.depth, sample.motion, sample.camera, on_object
        )
    return values


def rgb_metrics(
    sample: Sample, video: np.ndarray, flow: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> dict[str, float]:
    """`RGB_METRICS` of one video.

    Args:
        flow: optical flow of a video and where to trust it, e.g. `DisFlow()`.
    """
    forward, trusted = flow(video)
    backward = flow(np.ascontiguousarray(video[::-1]))[0][::-1]
    values = {"flow cycle error": flow_cycle_error(forward, backward, trusted)} if trusted.any() else {}
    if sample.spec.family in FALLING_FAMILIES:
        values |= free_fall_metrics(sample, colour_masks(video, sample.object_ids[0])[..., 0])
    return values | benchmark_metrics(sample, video)


def free_fall_metrics(sample: Sample, masks: np.ndarray) -> dict[str, float]:
    """Errors of the first object's masks against the exact ones; see `free_fall_errors`."""
    truth = sample.object_ids == 1
    if not truth[0].any() or not truth[1:].any():
        return {}
    errors = free_fall_errors(masks, truth)
    return {
        "free-fall L2": errors.l2,
        "free-fall Chamfer": errors.chamfer,
        "free-fall IoU": errors.iou,
    }


def benchmark_metrics(sample: Sample, video: np.ndarray) -> dict[str, float]:
    """Physics-IQ's four agreements with the simulator's video, at full resolution.

    With a second take of the scene they are related to how well that take agrees with the first:
    `share of physical variance` is the mean of Physics-IQ Verified's four parts in percent, so the second
    take itself is at 100. These scores compare among videos of one data set only; they are not Physics-IQ.
    """
    from phys4d.metrics.physics_iq.agreement import agreement
    from phys4d.metrics.physics_iq.clips import make_clip
    from phys4d.metrics.physics_iq.score import ViewResult, verified_parts

    shrunk = (video.shape[2], video.shape[1])
    take1, found = (make_clip(v[..., ::-1].copy(), shrunk) for v in (sample.rgb, video))
    model = agreement(found, take1)
    values = {
        "motion MSE": model.mean_mse,
        "motion ST-IoU": model.mean_st_iou,
        "motion S-IoU": model.s_iou,
        "motion WS-IoU": model.ws_iou,
    }
    if "rgb_take2" in sample.more:
        take2 = make_clip(sample.more["rgb_take2"][..., ::-1].copy(), shrunk)
        view = ViewResult(
            scenario=sample.key, view="", video_id=sample.key, model=model, variance=agreement(take2, take1)
        )
        parts = verified_parts(view)
        values["share of physical variance"] = 100 * sum(parts.values()) / len(parts)
    return values


def scene_clouds(
    sample: Sample, videos: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Points of a scene over time for the report, in the camera frame (x right, y down, z ahead), metres.

    Args:
        videos: depth and motion by stage.

    Returns:
        `background_m` (N, 3) and `background_rgb` of frame 0; `object_index` (P,) from 0 and `object_rgb`;
        `truth_m` (T, P, 3); of each stage `<stage>_m`, `<stage>_present` (T, P) and `<stage>_error_m` (T, O),
        the mean distance of each object's points to their true places, a lost point counting 1 m.
    """
    ids, rng = sample.object_ids[0], np.random.default_rng(0)
    exact = true_tracks(sample)
    num_points, num_frames = len(exact.object_index), len(exact.points_m)
    most = max(1, min(num_points, MAX_POINTS, MAX_POINT_FRAMES // num_frames))
    chosen = np.sort(rng.choice(num_points, most, replace=False))
    from phys4d.geometry import unproject_depth

    behind = (ids == 0) & np.isfinite(sample.depth[0])
    places = unproject_depth(sample.depth[0].astype(np.float64), sample.camera)[behind]
    shown = np.sort(rng.choice(len(places), min(len(places), MAX_BACKGROUND), replace=False))
    arrays = {
        "background_m": places[shown].astype(np.float32),
        "background_rgb": sample.rgb[0][behind][shown],
        "object_index": exact.object_index[chosen].astype(np.uint8),
        "object_rgb": sample.rgb[0][ids > 0][chosen],
        "truth_m": exact.points_m[:, chosen].astype(np.float32),
    }
    num_objects = int(ids.max())
    for name, (depth, motion) in videos.items():
        found = carried_tracks(depth, motion, ids, sample.camera)
        gap = np.linalg.norm(found.points_m - exact.points_m, axis=-1)
        gap = np.where(found.present, np.minimum(gap, 1.0), 1.0)
        errors = np.full((num_frames, num_objects), np.nan, np.float32)
        for o in np.unique(exact.object_index):
            errors[:, o] = gap[:, exact.object_index == o].mean(1)
        arrays[f"{name}_m"] = found.points_m[:, chosen].astype(np.float32)
        arrays[f"{name}_present"] = found.present[:, chosen]
        arrays[f"{name}_error_m"] = errors
    return arrays
