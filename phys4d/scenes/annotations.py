"""Exact depth, instance ids, motion and visibility of a simulated scene, by rays: no interpolation."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, UInt8

from phys4d.scenes.model import BuiltScene
from phys4d.scenes.simulation import Trajectory, cast_rays, pixel_rays, state_at
from phys4d.types import Camera

DEPTH_TOLERANCE = 1e-4
"""A carried point is seen if the ray to it hits its own object within this share of its depth."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """Truth at the pixel centres of every frame."""

    depth: Float64[np.ndarray, "frames height width"]
    """z-depth in metres; NaN where there is no surface."""
    object_ids: UInt8[np.ndarray, "frames height width"]
    """0 is fixed, o is the scene's o-th object."""
    motion: Float64[np.ndarray, "frames-1 height width 3"]
    """(du px, dv px, dz m) that carries the point seen at frame t to frame t + 1; 0 where fixed."""
    visible: Bool[np.ndarray, "frames-1 height width"]
    """Whether the point seen at t is in the image and not occluded at t + 1."""


def annotate(scene: BuiltScene, trajectory: Trajectory, camera: Camera) -> Annotations:
    """Cast rays through the pixel centres, carry each hit with its object, and look where it went.

    A pixel of an object is lifted to its 3D point, moved by the rigid motion of the object from t to t + 1
    and projected; a second ray, through the exact place it lands on, tells whether it is seen there.
    """
    num_frames = len(trajectory.times_s)
    rays = pixel_rays(camera)
    flat_rays = rays.reshape(-1, 3)
    states = [state_at(scene, trajectory, frame) for frame in range(num_frames)]
    shape = (num_frames, camera.height, camera.width)
    depth, ids = np.empty(shape), np.zeros(shape, np.uint8)
    for frame, state in enumerate(states):
        hit, geom = cast_rays(scene, state, camera, flat_rays)
        depth[frame] = hit.reshape(shape[1:])
        ids[frame] = np.where(geom >= 0, scene.instance_of_geom[geom], 0).reshape(shape[1:])

    motion = np.zeros((num_frames - 1, *shape[1:], 3))
    # Fixed surfaces stay in place in a static camera: seen again unless an object comes before them.
    visible = (ids[:-1] == 0) & (ids[1:] == 0) & np.isfinite(depth[:-1])
    world_from_camera = np.linalg.inv(camera.camera_from_world)
    for frame in range(num_frames - 1):
        rows, columns = np.nonzero(ids[frame])
        if len(rows) == 0:
            continue
        index = ids[frame, rows, columns].astype(int) - 1
        point = rays[rows, columns] * depth[frame, rows, columns, None]
        world = point @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
        local = world - trajectory.position_m[frame, index]
        # Rows of `local` times R is R^T applied to them: world to body; then body to world at t + 1.
        local = np.einsum("pi,pij->pj", local, trajectory.rotation[frame, index])
        world = np.einsum("pij,pj->pi", trajectory.rotation[frame + 1, index], local)
        world += trajectory.position_m[frame + 1, index]
        moved = world @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
        u = camera.fx * moved[:, 0] / moved[:, 2] + camera.cx
        v = camera.fy * moved[:, 1] / moved[:, 2] + camera.cy
        motion[frame, rows, columns, 0] = u - (columns + 0.5)
        motion[frame, rows, columns, 1] = v - (rows + 0.5)
        motion[frame, rows, columns, 2] = moved[:, 2] - point[:, 2]
        hit, geom = cast_rays(scene, states[frame + 1], camera, moved / moved[:, 2:])
        inside = (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        same = (geom >= 0) & (scene.instance_of_geom[geom] == index + 1)
        near = np.abs(hit - moved[:, 2]) < DEPTH_TOLERANCE * moved[:, 2]
        visible[frame, rows, columns] = inside & same & near
    return Annotations(depth=depth, object_ids=ids, motion=motion, visible=visible)
