"""Step a MuJoCo model through the frames of a video, and pose its geoms: MuJoCo's C engine, no OpenGL."""

from collections.abc import Callable
from dataclasses import replace

import mujoco
import numpy as np

from phys4d.scenes.model import BuiltScene
from phys4d.scenes.trajectory import Mesh, Trajectory, UnstableSimulation

__all__ = ["Trajectory", "UnstableSimulation", "frame_steps", "simulate", "state_at"]

VELOCITY_STEP_S = 1e-4
"""A flex's velocity is the central difference of its points this long before and after a state along its
generalised velocities: exact where points slide, to 1e-8 where they turn with a body."""
Control = Callable[[mujoco.MjModel, mujoco.MjData], None]
"""Sets forces, pressure say, and lets constraints go; called once at each state, before its step."""


def frame_steps(scene: BuiltScene) -> list[int]:
    """Steps from time 0 to each frame: the whole number nearest to frame / fps."""
    spec = scene.spec
    return [round(frame / spec.fps / spec.timestep_s) for frame in range(spec.num_frames)]


def simulate(scene: BuiltScene, control: Control | None = None) -> Trajectory:
    """Integrate a MuJoCo model from its initial state; bitwise reproducible within one engine version.

    Objects without a body move as the flex `object0`, `object1` ... of the model, whose triangles (of a
    2-D flex) or outer triangles (of a 3-D one) become their mesh. What else moves, ropes say, is for the
    category to add with `dataclasses.replace`; `flex_vertices` helps.

    Raises:
        UnstableSimulation: MuJoCo warned or a position is not finite.
    """
    model, data = scene.model, scene.initial_state()
    steps = frame_steps(scene)
    qpos, qvel = np.empty((len(steps), model.nq)), np.empty((len(steps), model.nv))
    applied, equalities = np.empty_like(qvel), np.empty((len(steps), model.neq), bool)
    done, is_set = 0, False
    for frame, step in enumerate(steps):
        if control is None and step > done:
            mujoco.mj_step(model, data, step - done)
            done = step
        while done < step and control is not None:
            if not is_set:
                control(model, data)
            mujoco.mj_step(model, data)
            done, is_set = done + 1, False
        if data.warning.number.any() or not np.isfinite(data.qpos).all():
            raise UnstableSimulation(
                f"simulation of {scene.spec.family} seed {scene.spec.seed} diverged by frame {frame}"
            )
        if control is not None and not is_set:
            control(model, data)
            is_set = True
        qpos[frame], qvel[frame] = data.qpos, data.qvel
        applied[frame], equalities[frame] = data.qfrc_applied, data.eq_active
    trajectory = trajectory_of(scene, np.asarray(steps) * scene.spec.timestep_s, qpos, qvel)
    return trajectory if control is None else replace(trajectory, applied=applied, equalities=equalities)


def trajectory_of(scene: BuiltScene, times_s: np.ndarray, qpos: np.ndarray, qvel: np.ndarray) -> Trajectory:
    """Poses of the objects, and the vertices of their flexes, at generalised positions."""
    model, num_objects = scene.model, len(scene.objects)
    position, velocity = np.zeros((len(qpos), num_objects, 3)), np.zeros((len(qpos), num_objects, 6))
    rotation = np.broadcast_to(np.eye(3), (len(qpos), num_objects, 3, 3)).copy()
    data = mujoco.MjData(model)
    flexes = [
        (index, mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, f"object{index}"))
        for index, item in enumerate(scene.objects)
        if item.body_id < 0
    ]
    flexes = [(index, flex) for index, flex in flexes if flex >= 0]
    vertices = [np.empty((len(qpos), model.flex_vertnum[flex], 3)) for _, flex in flexes]
    matrix = np.empty(9)
    for frame in range(len(qpos)):
        data.qpos[:], data.qvel[:] = qpos[frame], qvel[frame]
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_comVel(model, data)
        for index, item in enumerate(scene.objects):
            if item.body_id < 0:
                continue
            joint = model.body_jntadr[item.body_id]
            if joint >= 0 and model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE:
                q, v = model.jnt_qposadr[joint], model.jnt_dofadr[joint]
                mujoco.mju_quat2Mat(matrix, qpos[frame, q + 3 : q + 7])
                position[frame, index] = qpos[frame, q : q + 3]
                rotation[frame, index] = matrix.reshape(3, 3)
                velocity[frame, index] = qvel[frame, v : v + 6]
            else:
                position[frame, index] = data.xpos[item.body_id]
                rotation[frame, index] = data.xmat[item.body_id].reshape(3, 3)
                spin_then_speed = np.empty(6)
                mujoco.mj_objectVelocity(
                    model, data, mujoco.mjtObj.mjOBJ_BODY, item.body_id, spin_then_speed, 0
                )
                velocity[frame, index, :3] = spin_then_speed[3:]
                velocity[frame, index, 3:] = spin_then_speed[:3] @ rotation[frame, index]
        if flexes:
            mujoco.mj_flex(model, data)
        for (_, flex), out in zip(flexes, vertices, strict=True):
            start = model.flex_vertadr[flex]
            out[frame] = data.flexvert_xpos[start : start + out.shape[1]]
        for ahead in (VELOCITY_STEP_S, -VELOCITY_STEP_S) if flexes else ():
            data.qpos[:] = qpos[frame]
            mujoco.mj_integratePos(model, data.qpos, qvel[frame], ahead)
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_flex(model, data)
            for (index, flex), out in zip(flexes, vertices, strict=True):
                start = model.flex_vertadr[flex]
                centre = data.flexvert_xpos[start : start + out.shape[1]].mean(axis=0)
                velocity[frame, index, :3] += centre / (2 * ahead)
    meshes = []
    for (index, flex), points in zip(flexes, vertices, strict=True):
        position[:, index] = points.mean(axis=1)
        if model.flex_dim[flex] > 1:
            meshes.append(Mesh(object_index=index, vertices_m=points, faces=flex_faces(model, flex)))
    return Trajectory(
        times_s=times_s,
        position_m=position,
        rotation=rotation,
        velocity=velocity,
        qpos=qpos,
        qvel=qvel,
        meshes=tuple(meshes),
    )


def flex_faces(model: mujoco.MjModel, flex: int) -> np.ndarray:
    """Triangles of a 2-D flex, or the outer ones of a 3-D flex, as vertex indices within it."""
    if model.flex_dim[flex] == 2:
        start, count = model.flex_elemdataadr[flex], model.flex_elemnum[flex]
        return model.flex_elem[start : start + 3 * count].reshape(-1, 3).astype(np.int64)
    start, count = model.flex_shelldataadr[flex], model.flex_shellnum[flex]
    return model.flex_shell[start : start + 3 * count].reshape(-1, 3).astype(np.int64)


def state_at(scene: BuiltScene, trajectory: Trajectory, frame: int) -> mujoco.MjData:
    """Poses of all geoms at a frame."""
    data = mujoco.MjData(scene.model)
    data.qpos[:] = trajectory.qpos[frame]
    mujoco.mj_kinematics(scene.model, data)
    return data
