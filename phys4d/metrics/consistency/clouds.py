"""Where the points of objects go in 3D, against the truth. T frames, P points, O objects; metres."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Integer

from phys4d.geometry import carry_points, pixel_centres, unproject_depth
from phys4d.geometry.camera import camera_from_world, unproject, world_from_camera
from phys4d.metrics.chamfer import chamfer4d
from phys4d.metrics.masked_mean import NothingToCompareError
from phys4d.types import Camera

HORIZONS_S = (1.0, 2.0, 3.0, 4.0, 5.0)
TAU_M, C_TIME_M = 1.0, 0.1
"""Distances are cut at tau; the price of one frame of delay in space-time."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointTracks:
    """Points of objects seen in frame 0, followed through a video."""

    points_m: Float64[np.ndarray, "T P 3"]
    """Camera frame."""
    present: Bool[np.ndarray, "T P"]
    """False from the frame on at which a point could not be followed."""
    object_index: Int[np.ndarray, " P"]
    """Object of each point, from 0."""


def object_pixels(
    object_ids: Integer[np.ndarray, "height width"],
) -> tuple[Float64[np.ndarray, "P 2"], Int[np.ndarray, " P"]]:
    """(u, v) of the pixel centres that show objects, and the object of each, from 0; 0 is background."""
    on = object_ids > 0
    if not on.any():
        raise NothingToCompareError("frame 0 shows no object to follow")
    return pixel_centres(*object_ids.shape)[on], object_ids[on].astype(int) - 1


def carried_tracks(
    depth: Float[np.ndarray, "T height width"],
    motion: Float[np.ndarray, "T-1 height width 3"],
    pixels: Float[np.ndarray, "P 2"],
    object_index: Integer[np.ndarray, " P"],
    camera: Camera,
) -> PointTracks:
    """Carry points of frame 0 along the motion, and lift them with the depth they have gathered.

    A point without depth is not present.
    """
    carried = carry_points(np.asarray(pixels, np.float64), depth, motion)
    points = unproject(carried.uv, carried.carried_m, camera)
    return PointTracks(
        points_m=points,
        present=carried.present & np.isfinite(points).all(-1),
        object_index=np.asarray(object_index, int),
    )


def simulated_tracks(
    position: Float[np.ndarray, "T P 3"], object_index: Integer[np.ndarray, " P"], camera: Camera
) -> PointTracks:
    """The exact tracks of points that the simulator has followed, of whatever bends or flows.

    Args:
        position: (u px, v px, z m); not finite where a point is behind the camera.
    """
    points = unproject(position[..., :2].astype(np.float64), position[..., 2].astype(np.float64), camera)
    if not np.isfinite(points).all():
        raise ValueError("the truth has points behind the camera; leave them out")
    return PointTracks(
        points_m=points,
        present=np.ones(points.shape[:2], bool),
        object_index=np.asarray(object_index, int),
    )


def rigid_tracks(
    depth: Float[np.ndarray, "height width"],
    object_ids: Integer[np.ndarray, "height width"],
    position_m: Float[np.ndarray, "T O 3"],
    rotation: Float[np.ndarray, "T O 3 3"],
    camera: Camera,
) -> PointTracks:
    """The exact tracks of every object pixel of frame 0, moved with the simulator's poses of rigid bodies.

    Args:
        depth, object_ids: truth of frame 0.
        position_m: of the body origins in the world.
        rotation: world from body.
    """
    index, on = object_pixels(object_ids)[1], object_ids > 0
    if not np.isfinite(depth[on]).all():
        raise ValueError("the truth must have depth wherever frame 0 shows an object")
    world = world_from_camera(unproject_depth(depth.astype(np.float64), camera)[on], camera)
    body = np.einsum("pji,pj->pi", rotation[0, index], world - position_m[0, index])
    moved = np.einsum("tpij,pj->tpi", rotation[:, index], body) + position_m[:, index]
    return PointTracks(
        points_m=camera_from_world(moved, camera),
        present=np.ones(moved.shape[:2], bool),
        object_index=index,
    )


def cloud_chamfer_m(
    tracks: PointTracks, truth: PointTracks, *, tau_m: float = TAU_M, c_time_m: float | None = None
) -> float:
    """4D Chamfer distance (acc + comp) / 2, metres, averaged over objects and the frames after the first.

    Frame by frame (cd_frame), or with time as a fourth axis of `c_time_m` metres per frame (cd_spacetime).
    Distances count up to tau, and a point that was lost counts as tau. On truth carried by its own motion it
    stays below 1 cm at 64 x 64 pixels, the error of interpolating motion.
    """
    _check_same(tracks, truth)
    num_frames, num_points = tracks.present.shape
    frame_id = np.repeat(np.arange(num_frames), num_points)
    object_id = np.tile(tracks.object_index, num_frames)
    terms = chamfer4d(
        tracks.points_m.reshape(-1, 3),
        truth.points_m.reshape(-1, 3),
        pred_frame_id=frame_id,
        gt_frame_id=frame_id,
        pred_object_id=object_id,
        gt_object_id=object_id,
        pred_valid=tracks.present.reshape(-1),
        shape=(1, num_frames, int(tracks.object_index.max()) + 1),
        tau_m=tau_m,
        c_time_m=c_time_m,
    )
    return float(np.nanmean(terms.cd1_m[0, 1:]))


def track_l2_m(tracks: PointTracks, truth: PointTracks, *, tau_m: float = TAU_M) -> float:
    """Distance of each point to its own true one, metres, averaged over objects and frames after the first.

    It counts up to tau, and a point that was lost counts as tau. On truth it stays below 1 cm as well.
    """
    _check_same(tracks, truth)
    distance = np.linalg.norm(tracks.points_m - truth.points_m, axis=-1)
    distance = np.where(tracks.present, np.minimum(distance, tau_m), tau_m)[1:]
    per_object = [distance[:, tracks.object_index == o].mean() for o in np.unique(tracks.object_index)]
    return float(np.mean(per_object))


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the centroids of objects leave the truth."""

    at_horizon_m: Mapping[float, float]
    """Mean distance over objects at 1, 2, ... 5 s, as far as the video lasts."""
    final_m: float
    """At the last frame."""
    slope_m_s: float
    """Least-squares slope of the distance over time, metres per second."""


def centroid_drift(tracks: PointTracks, truth: PointTracks, fps: float, *, tau_m: float = TAU_M) -> Drift:
    """Distance of each object's centroid to the true one over time, averaged over objects.

        e(t) = mean over objects of min(| mean of points - mean of true points |, tau)

    Points that were lost are left out of both means; an object without points is tau away. The horizon h is
    read at the frame nearest to h seconds; n frames last n / fps, so where that is h, at the last one.
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
    last = len(error) - 1
    reached = {h: float(error[min(round(h * fps), last)]) for h in HORIZONS_S if round(h * fps) <= len(error)}
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
