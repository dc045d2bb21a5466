"""Simulate a built scene and look at it with rays: NumPy and MuJoCo's C engine only, no OpenGL."""

from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float, Float64, Int32, UInt8

from phys4d.scenes.model import BuiltScene
from phys4d.types import Camera


class UnstableSimulation(ValueError):
    """The integrator warned or a state is not finite."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """Poses of a scene's objects at the frames of its video; frame 0 is time 0."""

    times_s: Float64[np.ndarray, " frames"]
    """Simulated time of each frame: the whole number of steps nearest to frame / fps."""
    position_m: Float64[np.ndarray, "frames objects 3"]
    """Body origins in the world, metres; the centre of each object."""
    rotation: Float64[np.ndarray, "frames objects 3 3"]
    """World from body."""
    velocity: Float64[np.ndarray, "frames objects 6"]
    """Linear velocity (m/s, world) and angular velocity (rad/s, body frame)."""
    qpos: Float64[np.ndarray, "frames nq"]
    """MuJoCo's generalised positions."""


def simulate(scene: BuiltScene) -> Trajectory:
    """Integrate from the initial state; bitwise reproducible within one engine version.

    Raises:
        UnstableSimulation: MuJoCo warned or a position is not finite.
    """
    spec, model, data = scene.spec, scene.model, scene.initial_state()
    num_objects = len(scene.objects)
    steps = [round(frame / spec.fps / spec.timestep_s) for frame in range(spec.num_frames)]
    qpos = np.empty((spec.num_frames, model.nq))
    qvel = np.empty((spec.num_frames, model.nv))
    rotation = np.empty((spec.num_frames, num_objects, 3, 3))
    done = 0
    for frame, step in enumerate(steps):
        if step > done:
            mujoco.mj_step(model, data, step - done)
            done = step
        if any(warning.number for warning in data.warning) or not np.isfinite(data.qpos).all():
            raise UnstableSimulation(
                f"simulation of {spec.family} seed {spec.seed} diverged by frame {frame}"
            )
        qpos[frame], qvel[frame] = data.qpos, data.qvel
        for index in range(num_objects):
            matrix = np.empty(9)
            mujoco.mju_quat2Mat(matrix, data.qpos[7 * index + 3 : 7 * index + 7])
            rotation[frame, index] = matrix.reshape(3, 3)
    return Trajectory(
        times_s=np.asarray(steps) * spec.timestep_s,
        position_m=qpos.reshape(spec.num_frames, num_objects, 7)[..., :3].copy(),
        rotation=rotation,
        velocity=qvel.reshape(spec.num_frames, num_objects, 6).copy(),
        qpos=qpos,
    )


def state_at(scene: BuiltScene, trajectory: Trajectory, frame: int) -> mujoco.MjData:
    """Poses of all geoms at a frame."""
    data = mujoco.MjData(scene.model)
    data.qpos[:] = trajectory.qpos[frame]
    mujoco.mj_kinematics(scene.model, data)
    return data


def pixel_rays(camera: Camera) -> Float64[np.ndarray, "height width 3"]:
    """Directions through the pixel centres in the camera frame, scaled to z = 1."""
    u = (np.arange(camera.width) + 0.5 - camera.cx) / camera.fx
    v = (np.arange(camera.height) + 0.5 - camera.cy) / camera.fy
    rays = np.ones((camera.height, camera.width, 3))
    rays[..., 0], rays[..., 1] = u[None, :], v[:, None]
    return rays


def cast_rays(
    scene: BuiltScene, data: mujoco.MjData, camera: Camera, rays_camera: Float[np.ndarray, "rays 3"]
) -> tuple[Float64[np.ndarray, " rays"], Int32[np.ndarray, " rays"]]:
    """Cast rays from the camera centre.

    Args:
        rays_camera: directions in the camera frame; any length.

    Returns:
        The first hit along each ray in units of the ray's length (with z = 1 that is z-depth in metres), NaN
        where there is none, and the geom hit or -1.
    """
    rotation, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    directions = np.ascontiguousarray(rays_camera @ rotation).reshape(-1)
    num_rays = len(rays_camera)
    geom, distance = np.full(num_rays, -1, np.int32), np.full(num_rays, -1.0)
    origin = -rotation.T @ translation
    mujoco.mj_multiRay(
        scene.model, data, origin, directions, None, True, -1, geom, distance, None, num_rays, mujoco.mjMAXVAL
    )
    return np.where(geom >= 0, distance, np.nan), geom


def raycast(
    scene: BuiltScene, trajectory: Trajectory, frame: int, camera: Camera
) -> tuple[Float64[np.ndarray, "height width"], UInt8[np.ndarray, "height width"]]:
    """Exact z-depth and instance ids at the pixel centres.

    Returns:
        Depth in metres, NaN where the ray meets nothing; instance ids, 0 for fixtures and nothing.
    """
    rays = pixel_rays(camera)
    depth, geom = cast_rays(scene, state_at(scene, trajectory, frame), camera, rays.reshape(-1, 3))
    ids = np.where(geom >= 0, scene.instance_of_geom[geom], 0).astype(np.uint8)
    return depth.reshape(rays.shape[:2]), ids.reshape(rays.shape[:2])
