"""Exact depth, ids, normals, motion, visibility, tracks and contacts of a simulated scene, by rays."""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Bool, Float16, Float32, Float64, Int64, UInt8

from phys4d.geometry.camera import project, transform
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.rays import carry, cast, pixel_rays
from phys4d.scenes.trajectory import Trajectory
from phys4d.types import Camera

DEPTH_TOLERANCE = 1e-4
"""A carried point is seen if the ray to it hits its own object within this share of its depth."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """Truth at the pixel centres of every frame, as data sets hold it; computed in float64."""

    depth: Float32[np.ndarray, "frames height width"]
    """z-depth in metres; NaN where there is no surface."""
    object_ids: UInt8[np.ndarray, "frames height width"]
    """0 is fixed, o is the scene's o-th object."""
    normal: Float16[np.ndarray, "frames height width 3"]
    """Unit normal of the surface in the camera frame, towards the camera; 0 where there is no surface."""
    motion: Float32[np.ndarray, "frames-1 height width 3"]
    """(du px, dv px, dz m) that carries the point seen at frame t to frame t + 1; 0 where fixed. What gets
    behind the camera has no place in the image: du and dv are 0 there, and it is not visible."""
    visible: Bool[np.ndarray, "frames-1 height width"]
    """Whether the point seen at t is in the image and not occluded at t + 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PointTracks:
    """Points on the objects' surfaces seen in frame 0, followed through the video."""

    object_index: Int64[np.ndarray, " points"]
    """Which object each is on, from 0."""
    position: Float64[np.ndarray, "frames points 3"]
    """(u px, v px, z m); u and v are NaN behind the camera."""
    visible: Bool[np.ndarray, "frames points"]
    """In the image and not occluded."""


def annotate(scene: BuiltScene, trajectory: Trajectory, camera: Camera) -> Annotations:
    """Cast rays through the pixel centres, carry each hit with its material, and look where it went.

    A pixel of an object is lifted to its 3D point, moved with the object from t to t + 1 and projected; a
    second ray, through the exact place it lands on, tells whether it is seen there.
    """
    num_frames = len(trajectory.times_s)
    rays = pixel_rays(camera)
    shape = (num_frames, camera.height, camera.width)
    depth, ids = np.empty(shape, np.float32), np.zeros(shape, np.uint8)
    normal = np.empty((*shape, 3), np.float16)
    motion = np.zeros((num_frames - 1, *shape[1:], 3), np.float32)
    visible = np.zeros(motion.shape[:3], bool)
    for frame in range(num_frames):
        hits = cast(scene, trajectory, frame, camera, rays.reshape(-1, 3))
        depth[frame] = hits.distance.reshape(shape[1:])
        ids[frame] = hits.object_ids.reshape(shape[1:])
        normal[frame] = (hits.normal @ camera.camera_from_world[:3, :3].T).reshape((*shape[1:], 3))
        rows, columns = np.nonzero(ids[frame])
        if frame + 1 == num_frames or len(rows) == 0:
            continue
        mine = hits.take(np.flatnonzero(ids[frame]))
        moved = transform(carry(trajectory, mine, frame + 1), camera.camera_from_world)
        landed = project(moved, camera)
        shift = landed[:, :2] - (np.stack([columns, rows], -1) + 0.5)
        motion[frame, rows, columns, :2] = np.where(moved[:, 2:] > 0, shift, 0.0)
        motion[frame, rows, columns, 2] = moved[:, 2] - mine.distance
        visible[frame, rows, columns] = _seen(scene, trajectory, frame + 1, camera, moved, mine.object_ids)
    # Fixed surfaces stay in place in a static camera: seen again unless an object comes before them.
    visible |= (ids[:-1] == 0) & (ids[1:] == 0) & np.isfinite(depth[:-1])
    return Annotations(depth=depth, object_ids=ids, normal=normal, motion=motion, visible=visible)


def track_points(
    scene: BuiltScene, trajectory: Trajectory, camera: Camera, points_per_object: int
) -> PointTracks:
    """Follow points of each object, at most as many as asked, spread evenly over its pixels of frame 0."""
    first = cast(scene, trajectory, 0, camera, pixel_rays(camera).reshape(-1, 3))
    chosen = []
    for index in range(len(scene.objects)):
        pixels = np.flatnonzero(first.object_ids == index + 1)
        chosen.append(
            pixels[np.linspace(0, len(pixels) - 1, min(points_per_object, len(pixels))).astype(int)]
        )
    points = first.take(np.concatenate(chosen))
    position = np.empty((len(trajectory.times_s), len(points.distance), 3))
    visible = np.zeros(position.shape[:2], bool)
    for frame in range(len(position)):
        moved = transform(carry(trajectory, points, frame), camera.camera_from_world)
        position[frame] = project(moved, camera)
        visible[frame] = _seen(scene, trajectory, frame, camera, moved, points.object_ids)
    return PointTracks(
        object_index=points.object_ids.astype(np.int64) - 1, position=position, visible=visible
    )


def contacts(scene: BuiltScene, trajectory: Trajectory) -> Float32[np.ndarray, "contacts 10"]:
    """Contacts at the frames, of what MuJoCo simulates.

    Of each (frame, id, id, x, y, z, normal x, y, z, normal force): instance ids of the two sides, 0 for
    fixtures; place in metres and normal from the first to the second in the world; newtons. Loads, drives
    and released points act as they did in the simulation.
    """
    model, data = scene.model, mujoco.MjData(scene.model)
    rows, force = [], np.empty(6)
    for frame in range(len(trajectory.times_s)):
        data.qpos[:], data.qvel[:] = trajectory.qpos[frame], trajectory.qvel[frame]
        if trajectory.applied is not None and trajectory.equalities is not None:
            data.qfrc_applied[:], data.eq_active[:] = trajectory.applied[frame], trajectory.equalities[frame]
        mujoco.mj_forward(model, data)
        for number, contact in enumerate(data.contact):
            sides = [_instance(scene, contact, side) for side in (0, 1)]
            mujoco.mj_contactForce(model, data, number, force)
            rows.append([frame, *sides, *contact.pos, *contact.frame[:3], force[0]])
    return np.asarray(rows, np.float32).reshape(-1, 10)


def _instance(scene: BuiltScene, contact: mujoco.MjContact, side: int) -> int:
    """Instance id of one side of a contact, a geom or a flex."""
    geom = contact.geom[side]
    if geom >= 0:
        return int(scene.instance_of_geom[geom])
    name = mujoco.mj_id2name(scene.model, mujoco.mjtObj.mjOBJ_FLEX, contact.flex[side]) or ""
    kind, _, number = name.partition("object")
    return int(number) + 1 if not kind and number.isdigit() else 0


def _seen(
    scene: BuiltScene,
    trajectory: Trajectory,
    frame: int,
    camera: Camera,
    moved: Float64[np.ndarray, "points 3"],
    object_ids: UInt8[np.ndarray, " points"],
) -> Bool[np.ndarray, " points"]:
    """Whether points in the camera frame are in the image, and the first thing rays to them meet is they."""
    u, v, z = project(moved, camera).T
    hits = cast(scene, trajectory, frame, camera, moved / np.where(z > 0, z, 1.0)[:, None])
    inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    near = np.abs(hits.distance - z) < DEPTH_TOLERANCE * z
    return inside & (hits.object_ids == object_ids) & near
