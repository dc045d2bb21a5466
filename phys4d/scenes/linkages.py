"""Articulated scenes as MuJoCo models: links on hinges and slides, integrated with RK4.

Each object is a link: rigid `parts` (each a `shape`, `size_m`, `position_m` and `quaternion_wxyz` in the
link's frame) of one `density_kg_m3`, at `position_m` and `quaternion_wxyz` in the world at time 0. `joint`
says how it hangs on `parent` (another object, or -1 for the world): `hinge` about `axis` through `anchor_m`
(both in the world at time 0), `slide` along `axis`, or `free`. `start_speed` is the joint's speed at time 0
(rad/s, m/s), `joint_damping` resists it (N m s/rad, N s/m), `range` limits it about time 0. Free links have
`linear_velocity_m_s` and `angular_velocity_rad_s`.

Contacts are declared pair by pair and bounce as those of rigid scenes; links with a common joint do not
touch, and `touches` = false lets a link touch nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np

from phys4d.scenes.model import (
    MAX_FIXTURES,
    MAX_OBJECTS,
    BuiltScene,
    add_fixtures,
    add_geom,
    entries,
    finish,
    new_stage,
    number,
    vector,
)
from phys4d.scenes.rigid_bodies import CONTACT_STIFFNESS, FRICTION_DAMPING, damping_of_restitution
from phys4d.types import SceneSpec

MAX_PARTS = 8
JOINTS = {"hinge": mujoco.mjtJoint.mjJNT_HINGE, "slide": mujoco.mjtJoint.mjJNT_SLIDE}


def build(spec: SceneSpec) -> BuiltScene:
    """Compile a scene. The same spec gives bitwise the same model.

    Raises:
        ValueError: a parameter is missing, of the wrong length or out of range.
    """
    mjspec = new_stage(spec)
    option = mjspec.option
    option.integrator = mujoco.mjtIntegrator.mjINT_RK4
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.iterations, option.tolerance = 50, 1e-10
    parameters = spec.parameters
    mjspec.compiler.degree = False
    links = entries(parameters, "objects", MAX_OBJECTS)
    for index, values in enumerate(links):
        _add_link(mjspec, index, values, links)
    add_fixtures(mjspec, parameters)
    _add_contacts(mjspec, parameters, links)
    scene = finish(spec, mjspec, shape="link")
    return replace(scene, qvel=_start(scene.model, links))


def _add_link(
    mjspec: mujoco.MjSpec, index: int, values: Mapping[str, Any], links: Sequence[Mapping[str, Any]]
) -> None:
    where = f"objects[{index}]"
    place, turn = _pose(values, where)
    parent = int(number(values, where, "parent", -1, index - 1))
    holder, origin, frame = mjspec.worldbody, np.zeros(3), np.eye(3)
    if parent >= 0:
        holder = mjspec.body(f"object{parent}")
        origin, frame = _pose(links[parent], f"objects[{parent}]")
    quaternion = np.empty(4)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(frame.T @ turn).ravel())
    body = holder.add_body(name=f"object{index}", pos=frame.T @ (place - origin), quat=quaternion)
    density = number(values, where, "density_kg_m3", 1, 30_000)
    for part, part_values in enumerate(entries(values, "parts", MAX_PARTS)):
        inside = f"{where}.parts[{part}]"
        colored = {**part_values, "rgb": values.get("rgb")}
        geom = add_geom(body, f"object{index}.{part}", colored, inside, density)
        geom.pos = vector(part_values, inside, "position_m", 3)
        geom.quat = vector(part_values, inside, "quaternion_wxyz", 4)
    kind = values.get("joint")
    if kind == "free":
        if parent >= 0:
            raise ValueError(f"{where}.joint 'free' needs parent -1, got {parent}")
        body.add_freejoint()
        vector(values, where, "linear_velocity_m_s", 3)
        vector(values, where, "angular_velocity_rad_s", 3)
        return
    if kind not in JOINTS:
        raise ValueError(f"{where}.joint must be one of {[*JOINTS, 'free']}, got {kind!r}")
    number(values, where, "start_speed", -100, 100)
    joint = body.add_joint(
        type=JOINTS[kind],
        axis=np.asarray(vector(values, where, "axis", 3)) @ turn,
        pos=(np.asarray(vector(values, where, "anchor_m", 3)) - place) @ turn,
    )
    # Linear resistance; one number per power of the speed.
    joint.damping[0] = number(values, where, "joint_damping", 0, 100)
    if "range" in values:
        joint.limited = True
        joint.range = vector(values, where, "range", 2)
        joint.solref_limit = (0.01, 1.0)


def _start(model: mujoco.MjModel, links: Sequence[Mapping[str, Any]]) -> np.ndarray:
    qvel = np.zeros(model.nv)
    for index, values in enumerate(links):
        dof = model.body_dofadr[model.body(f"object{index}").id]
        if values["joint"] == "free":
            qvel[dof : dof + 3] = values["linear_velocity_m_s"]
            qvel[dof + 3 : dof + 6] = values["angular_velocity_rad_s"]
        else:
            qvel[dof] = values["start_speed"]
    return qvel


def _add_contacts(
    mjspec: mujoco.MjSpec, parameters: Mapping[str, Any], links: Sequence[Mapping[str, Any]]
) -> None:
    fixtures = entries(parameters, "fixtures", MAX_FIXTURES)
    slide = number(parameters, "parameters", "object_friction", 0, 5)
    bounce = [number(values, f"objects[{i}]", "restitution", 0.05, 1) for i, values in enumerate(links)]
    geoms = [[f"object{i}.{k}" for k in range(len(values["parts"]))] for i, values in enumerate(links)]
    touches = [values.get("touches", True) is not False for values in links]
    for i, values in enumerate(links):
        if not touches[i]:
            continue
        others = [
            (name, min(bounce[i], bounce[j]), slide)
            for j in range(i + 1, len(links))
            if touches[j] and int(links[j]["parent"]) != i and int(values["parent"]) != j
            for name in geoms[j]
        ]
        if values["joint"] == "free" or int(values["parent"]) >= 0:
            others += [
                (f"fixture{k}", bounce[i], number(fixture, f"fixtures[{k}]", "friction", 0, 5))
                for k, fixture in enumerate(fixtures)
            ]
        for name, restitution, friction in others:
            for own in geoms[i]:
                mjspec.add_pair(
                    geomname1=own,
                    geomname2=name,
                    condim=3,
                    friction=[max(friction, 1e-5)] * 2 + [0.005, 0.0001, 0.0001],
                    solref=[-CONTACT_STIFFNESS, -damping_of_restitution(restitution)],
                    solreffriction=[-1.0, -FRICTION_DAMPING],
                    solimp=[0.99, 0.99, 0.001, 0.5, 2.0],
                )


def _pose(values: Mapping[str, Any], where: str) -> tuple[np.ndarray, np.ndarray]:
    turn = np.empty(9)
    quaternion = np.asarray(vector(values, where, "quaternion_wxyz", 4))
    mujoco.mju_quat2Mat(turn, quaternion / np.linalg.norm(quaternion))
    return np.asarray(vector(values, where, "position_m", 3)), turn.reshape(3, 3)
