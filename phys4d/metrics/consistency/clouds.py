"""Where the points of objects go in 3D, against the truth. T frames, P points, O objects; metres."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Integer

from phys4d.geometry import pixel_centres, unproject_depth
from phys4d.geometry.camera import camera_from_world, unproject, world_from_camera
from phys4d.metrics.chamfer import chamfer4d
from phys4d.types import Camera

HORIZONS_S = (1.0, 2.0, 3.0, 4.0, 5.0)
GATE_M = 0.15
"""Pixels whose depth differs more from a point's show another surface that moves otherwise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointTracks:
    """Points of objects seen in frame 0, followed through a video."""

    points_m: Float64[np.ndarray, "T P 3"]
    """Camera frame."""
    present: Bool[np.ndarray, "T P"]
    """False from the frame on at which a point could not be followed."""
    object_index: Int[np.ndarray, " P"]
    """Object of each point, from 0."""


def carried_tracks(
    depth: Float[np.ndarray, "T height width"],
    motion: Float[np.ndarray, "T-1 height width 3"],
    object_ids: Integer[np.ndarray, "height width"],
    camera: Camera,
) -> PointTracks:
    """Carry every object pixel of frame 0 along the motion, and lift it with the depth it has gathered.

    Args:
        object_ids: instances in frame 0; 0 is background. A pixel without depth is not present.
    """
    on = object_ids > 0
    if not on.any():
        raise ValueError("frame 0 shows no object to follow")
    uv = pixel_centres(*object_ids.shape)[on]
    uvz, inside = _carry(uv, depth, motion)
    points = unproject(uvz[..., :2], uvz[..., 2], camera)
    return PointTracks(
        points_m=points,
        present=inside & np.isfinite(points).all(-1) & (uvz[..., 2] > 0),
        object_index=object_ids[on].astype(int) - 1,
    )


def _carry(
    uv: Float64[np.ndarray, "P 2"],
    depth: Float[np.ndarray, "T height width"],
    motion: Float[np.ndarray, "T-1 height width 3"],
) -> tuple[Float64[np.ndarray, "T P 3"], Bool[np.ndarray, "T P"]]:
    """(u, v, z) of points that start at pixel centres, and whether each has stayed in the image.

    Motion is read bilinearly from those of the 4 pixels about a point that are within 0.15 m of its depth, if
    there are any: beside an object's edge lies a background that does not move along.
    """
    height, width = depth.shape[1:]
    columns, rows = np.floor(uv[:, 0]).astype(int), np.floor(uv[:, 1]).astype(int)
    points = [np.column_stack([uv, depth[0, rows, columns]])]
    inside = [np.ones(len(uv), bool)]
    corner = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    for step in range(len(motion)):
        place = points[-1][:, :2] - 0.5
        first = np.clip(np.floor(place), 0, [width - 2, height - 2])
        share = np.clip(place - first, 0, 1)[:, None]
        weight = np.prod(np.where(corner == 1, share, 1 - share), axis=-1)
        column, row = np.moveaxis(first[:, None].astype(int) + corner, -1, 0)
        gated = weight * (np.abs(depth[step, row, column] - points[-1][:, 2:]) < GATE_M)
        total = gated.sum(1, keepdims=True)
        weight = np.where(total > 1e-3, gated / np.maximum(total, 1e-3), weight)
        points.append(points[-1] + (weight[..., None] * motion[step, row, column]).sum(1))
        u, v = points[-1][:, 0], points[-1][:, 1]
        inside.append(inside[-1] & (u >= 0) & (u <= width) & (v >= 0) & (v <= height))
    return np.stack(points), np.stack(inside)


def rigid_tracks(
    depth: Float[np.ndarray, "height width"],
    object_ids: Integer[np.ndarray, "height width"],
    position_m: Float[np.ndarray, "T O 3"],
    rotation: Float[np.ndarray, "T O 3 3"],
    camera: Camera,
) -> PointTracks:
    """The exact tracks of the same points, moved with the simulator's poses.

    Args:
        depth, object_ids: truth of frame 0.
        position_m: of the body origins in the world.
        rotation: world from body.
    """
    on = object_ids > 0
    if not on.any():
        raise ValueError("frame 0 shows no object to follow")
    if not np.isfinite(depth[on]).all():
        raise ValueError("the truth must have depth wherever frame 0 shows an object")
    index = object_ids[on].astype(int) - 1
    world = world_from_camera(unproject_depth(depth.astype(np.float64), camera)[on], camera)
    body = np.einsum("pji,pj->pi", rotation[0, index], world - position_m[0, index])
    moved = np.einsum("tpij,pj->tpi", rotation[:, index], body) + position_m[:, index]
    return PointTracks(
        points_m=camera_from_world(moved, camera),
        present=np.ones(moved.shape[:2], bool),
        object_index=index,
    )


def cloud_errors(
    tracks: PointTracks, truth: PointTracks, *, tau_m: float = 1.0, c_time_m: float = 0.1
) -> dict[str, float]:
    """4D Chamfer distances and track error, metres, averaged over objects and the frames after the first.

    Returns:
        `cd_frame_m`: Chamfer distance (acc + comp) / 2 frame by frame; `cd_spacetime_m`: with time as a
        fourth axis, `c_time_m` metres per frame; `track_l2_m`: distance of each point to its own true one.
        Distances count up to tau, and a point that was lost counts as tau. On truth carried by its own motion
        the three stay below 1 cm at 64 x 64 pixels, the error of interpolating motion.
    """
    _check_same(tracks, truth)
    num_frames, num_points = tracks.present.shape
    frame_id = np.repeat(np.arange(num_frames), num_points)
    object_id = np.tile(tracks.object_index, num_frames)
    shape = (1, num_frames, int(tracks.object_index.max()) + 1)

    def chamfer(c_time: float | None) -> float:
        terms = chamfer4d(
            tracks.points_m.reshape(-1, 3),
            truth.points_m.reshape(-1, 3),
            pred_frame_id=frame_id,
            gt_frame_id=frame_id,
            pred_object_id=object_id,
            gt_object_id=object_id,
            pred_valid=tracks.present.reshape(-1),
            shape=shape,
            tau_m=tau_m,
            c_time_m=c_time,
        )
        return float(np.nanmean(terms.cd1_m[0, 1:]))

    distance = np.linalg.norm(tracks.points_m - truth.points_m, axis=-1)
    distance = np.where(tracks.present, np.minimum(distance, tau_m), tau_m)[1:]
    per_object = [distance[:, tracks.object_index == o].mean() for o in np.unique(tracks.object_index)]
    return {
        "cd_frame_m": chamfer(None),
        "cd_spacetime_m": chamfer(c_time_m),
        "track_l2_m": float(np.mean(per_object)),
    }


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the centroids of objects leave the truth."""

    at_horizon_m: Mapping[float, float]
    """Mean distance over objects at 1, 2, ... 5 s, as far as the video reaches."""
    final_m: float
    """At the last frame."""
    slope_m_s: float
    """Least-squares slope of the distance over time, metres per second."""


def centroid_drift(tracks: PointTracks, truth: PointTracks, fps: float, *, tau_m: float = 1.0) -> Drift:
    """Distance of each object's centroid to the true one over time, averaged over objects.

        e(t) = mean over objects of min(| mean of points - mean of true points |, tau)

    Points that were lost are left out of both means; an object without points is tau away. The horizon h is
    read at the frame nearest to h seconds.
    """
    _check_same(tracks, truth)
    if not fps > 0:
        raise ValueError(f"fps must be positive, got {fps}")
    errors = []
    for o in np.unique(tracks.object_index):
        mine = tracks.object_index == o
        there = tracks.present[:, mine, None]
        count = there.sum(1)
        gap = np.where(there, tracks.points_m[:, mine] - truth.points_m[:, mine], 0.0).sum(1)
        distance = np.linalg.norm(gap / np.maximum(count, 1), axis=-1)
        errors.append(np.where(count[:, 0] > 0, np.minimum(distance, tau_m), tau_m))
    error = np.mean(errors, axis=0)
    times_s = np.arange(len(error)) / fps
    reached = {h: float(error[round(h * fps)]) for h in HORIZONS_S if round(h * fps) < len(error)}
    return Drift(
        at_horizon_m=reached,
        final_m=float(error[-1]),
        slope_m_s=float(np.polyfit(times_s, error, 1)[0]),
    )


def _check_same(tracks: PointTracks, truth: PointTracks) -> None:
    if tracks.points_m.shape != truth.points_m.shape or not np.array_equal(
        tracks.object_index, truth.object_index
    ):
        raise ValueError(
            f"both must follow the same points of frame 0, got {tracks.points_m.shape} and "
            f"{truth.points_m.shape}"
        )
