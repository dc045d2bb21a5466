"""Scenes with cloth, balloons, soft bodies and ropes as MuJoCo models, built from a spec's objects.

An object's `shape` says what it is:

* `sphere`, `box` and so on: a rigid body (`model.add_geom`) with `mass_kg`; `drive_m_s` moves it on rails at
  that velocity (x, y, z) until `drive_s`, whatever stands in its way.
* `cloth`: a rectangle of `size_m` (x, y) and `counts` points, or a tube of `radii_m` at `heights_m` with
  `around` points; `young_pa`, `poisson`, `thickness_m`, `mass_kg`, `damping_s`.
* `balloon`: a closed shell of half axes `size_m` with `overpressure_pa` in it. `gas` is `supply` (constant
  pressure) or `sealed` (ideal gas); `heating_k_s` warms a sealed one.
* `soft`: a solid of half extents `size_m` and `form` box, ellipsoid or pillow, of `counts` points in `cells`.
* `rope`: a line through `points_m` of `radius_m`; `young_pa` resists bending.

All have `position_m`, `quaternion_wxyz` (soft bodies start upright; ropes have neither) and
`linear_velocity_m_s`. `held` are points of cloth and ropes that stay in place, until `release_s` if that is
positive; `tied` are pairs of a rope's point and the rigid object that it is fixed to. `wind_m_s` of the scene
blows on cloth.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np

from phys4d.scenes import flex, meshes
from phys4d.scenes.flex_simulation import Drive, Setup, engine, simulate
from phys4d.scenes.loads import Gas, Load, Wind
from phys4d.scenes.model import (
    MAX_FIXTURES,
    MAX_OBJECTS,
    SIZE_LENGTH,
    BuiltScene,
    add_fixtures,
    add_geom,
    entries,
    finish,
    limit_work,
    new_stage,
    num_steps,
    number,
    vector,
)
from phys4d.types import SceneSpec

__all__ = ["build", "engine", "simulate"]

MAX_POINTS = 2_000
"""Most points of one flex."""
WORK_OF_POINT = 30.0
"""Cost of a step of one point of a flex, in those of a particle of `continuum`."""


def build(spec: SceneSpec) -> BuiltScene:
    """Compile a scene. The same spec gives bitwise the same model.

    Raises:
        ValueError: a parameter is missing, of the wrong length or out of range.
    """
    mjspec = new_stage(spec)
    flex.configure(mjspec)
    parameters = spec.parameters
    friction = number(parameters, "parameters", "object_friction", 0, 5)
    add_fixtures(mjspec, parameters)
    for index, values in enumerate(entries(parameters, "fixtures", MAX_FIXTURES)):
        geom = mjspec.geom(f"fixture{index}")
        _touch(geom, number(values, f"fixtures[{index}]", "friction", 0, 5))
    objects = entries(parameters, "objects", MAX_OBJECTS)
    for index, values in enumerate(objects):
        if values.get("shape") in SIZE_LENGTH:
            _add_rigid(mjspec, index, values, friction)
    parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    for index, values in enumerate(objects):
        if values.get("shape") not in SIZE_LENGTH:
            adder = _ADDERS.get(str(values.get("shape")))
            if adder is None:
                known = sorted([*SIZE_LENGTH, *_ADDERS])
                raise ValueError(
                    f"objects[{index}].shape must be one of {known}, got {values.get('shape')!r}"
                )
            parts[index] = adder(mjspec, index, values, objects)
    points, steps = sum(len(each) for each, _ in parts.values()), num_steps(spec)
    limit_work(WORK_OF_POINT * points * steps, f"{points} points over {steps} steps")
    scene = finish(spec, mjspec)
    qvel, setup = _start(scene, objects, parts)
    return replace(scene, qvel=qvel, setup=setup)


def _add_rigid(mjspec: mujoco.MjSpec, index: int, values: Mapping[str, Any], friction: float) -> None:
    where = f"objects[{index}]"
    body = mjspec.worldbody.add_body(
        name=f"object{index}",
        pos=vector(values, where, "position_m", 3),
        quat=vector(values, where, "quaternion_wxyz", 4),
    )
    geom = add_geom(body, f"object{index}", values, where, 0.0)
    geom.mass = number(values, where, "mass_kg", 1e-3, 1e3)
    _touch(geom, friction)
    if "drive_m_s" in values:
        velocity = np.asarray(vector(values, where, "drive_m_s", 3))
        if not np.linalg.norm(velocity) > 0:
            raise ValueError(f"{where}.drive_m_s must not be 0; leave it away for a free body")
        number(values, where, "drive_s", 0, 1e3)
        body.gravcomp = 1.0
        turn = np.empty(9)
        mujoco.mju_quat2Mat(turn, body.quat / np.linalg.norm(body.quat))
        body.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=velocity @ turn.reshape(3, 3))
    else:
        body.add_freejoint()
        vector(values, where, "linear_velocity_m_s", 3)
        vector(values, where, "angular_velocity_rad_s", 3)


def _touch(geom: mujoco.MjsGeom, friction: float) -> None:
    """Collide with flexes and with the other rigid bodies."""
    flex.touches_flexes(geom, max(friction, 1e-5))
    geom.contype, geom.conaffinity = 1, 1 | flex.FLEX_BIT


def _add_cloth(
    mjspec: mujoco.MjSpec, index: int, values: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    where = f"objects[{index}]"
    if "radii_m" in values:
        rings = _count(values.get("radii_m"), where, "radii_m")
        radii, heights = vector(values, where, "radii_m", rings), vector(values, where, "heights_m", rings)
        around = int(number(values, where, "around", 6, 200))
        _limit_points(rings * around, where)
        points, triangles = meshes.tube(radii, heights, around)
    else:
        counts = [int(n) for n in vector(values, where, "counts", 2)]
        _limit_points(math.prod(counts), where)
        points, triangles = meshes.sheet(vector(values, where, "size_m", 2), counts)
    points = _placed(points, values, where)
    flex.add_sheet(
        mjspec,
        f"object{index}",
        points,
        triangles,
        thickness_m=number(values, where, "thickness_m", 1e-5, 0.1),
        density_kg_m2=_density(values, where, meshes.areas(points, triangles).sum()),
        elasticity=_elasticity(values, where),
        radius_m=number(values, where, "radius_m", 1e-3, 0.05),
        anchors=_anchors(mjspec, index, values, points, objects),
    )
    return points, triangles


def _add_balloon(
    mjspec: mujoco.MjSpec, index: int, values: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    where = f"objects[{index}]"
    points, triangles = meshes.icosphere(int(number(values, where, "subdivisions", 1, 3)))
    points = _placed(points * vector(values, where, "size_m", 3), values, where)
    if values.get("gas") not in ("supply", "sealed"):
        raise ValueError(f"{where}.gas must be 'supply' or 'sealed', got {values.get('gas')!r}")
    number(values, where, "overpressure_pa", 0, 1e5)
    number(values, where, "heating_k_s", 0, 1e3)
    flex.add_sheet(
        mjspec,
        f"object{index}",
        points,
        triangles,
        thickness_m=number(values, where, "thickness_m", 1e-5, 0.1),
        density_kg_m2=_density(values, where, meshes.areas(points, triangles).sum()),
        elasticity=_elasticity(values, where),
        radius_m=number(values, where, "radius_m", 1e-3, 0.05),
        anchors=_anchors(mjspec, index, values, points, objects),
    )
    return points, triangles


def _add_soft(
    mjspec: mujoco.MjSpec, index: int, values: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    where = f"objects[{index}]"
    half = vector(values, where, "size_m", 3)
    counts = [int(n) for n in vector(values, where, "counts", 3)]
    cells = [int(n) for n in vector(values, where, "cells", 3)]
    _limit_points(math.prod(counts), where)
    if min(cells) < 1 or max(cells) > 8:
        raise ValueError(f"{where}.cells must be in [1, 8] each, got {cells}")
    points, tetrahedra = meshes.block(half, counts)
    form = values.get("form")
    if form == "ellipsoid":
        points = meshes.rounded(points, half)
    elif form == "pillow":
        points = meshes.pillowed(points, half)
    elif form != "box":
        raise ValueError(f"{where}.form must be 'box', 'ellipsoid' or 'pillow', got {form!r}")
    points = points + vector(values, where, "position_m", 3)
    flex.add_soft_body(
        mjspec,
        f"object{index}",
        points,
        tetrahedra,
        density_kg_m3=_density(values, where, meshes.volumes(points, tetrahedra).sum()),
        elasticity=_elasticity(values, where),
        cells=cells,
    )
    return points, tetrahedra


def _add_rope(
    mjspec: mujoco.MjSpec, index: int, values: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]
) -> tuple[np.ndarray, np.ndarray]:
    where = f"objects[{index}]"
    rows = values.get("points_m")
    count = _count(rows, where, "points_m")
    _limit_points(count, where)
    points = np.array([vector({"points_m": row}, where, "points_m", 3) for row in rows or []])
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if lengths.min() < 1e-3:
        raise ValueError(f"{where}.points_m must lie at least 1 mm apart, got {lengths.min():g} m")
    flex.add_rope(
        mjspec,
        f"object{index}",
        points,
        radius_m=number(values, where, "radius_m", 1e-3, 0.1),
        density_kg_m=_density(values, where, lengths.sum()),
        young_pa=number(values, where, "young_pa", 0, 1e9),
        damping_s=number(values, where, "damping_s", 0, 1),
        anchors=_anchors(mjspec, index, values, points, objects),
    )
    return points, np.stack([np.arange(count - 1), np.arange(1, count)], axis=1)


_ADDERS = {"cloth": _add_cloth, "balloon": _add_balloon, "soft": _add_soft, "rope": _add_rope}


def _start(
    scene: BuiltScene,
    objects: Sequence[Mapping[str, Any]],
    parts: Mapping[int, tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, Setup]:
    """Generalised velocities at time 0, and the setup."""
    model, data = scene.model, mujoco.MjData(scene.model)
    forces: list[Load] = []
    drives, releases = [], []
    surfaces, ropes = {}, {}
    for index, values in enumerate(objects):
        where, name = f"objects[{index}]", f"object{index}"
        if index not in parts:
            body = model.body(name).id
            joint, dof = model.body_jntadr[body], int(model.body_dofadr[body])
            if model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE:
                data.qvel[dof : dof + 3] = values["linear_velocity_m_s"]
                data.qvel[dof + 3 : dof + 6] = values["angular_velocity_rad_s"]
            else:
                speed = float(np.linalg.norm(values["drive_m_s"]))
                data.qvel[dof] = speed
                mass = float(model.body_mass[body])
                drives.append(Drive(dof=dof, mass_kg=mass, speed_m_s=speed, until_s=values["drive_s"]))
            continue
        flex.set_velocity(model, data, name, np.asarray(vector(values, where, "linear_velocity_m_s", 3)))
        points, elements = parts[index]
        if values["shape"] == "rope":
            ropes[index] = values["radius_m"]
        if values["shape"] == "soft":
            surfaces[index] = meshes.surface(points, elements)
        if values["shape"] == "balloon":
            surfaces[index] = elements
            volume, sealed = meshes.enclosed_volume(points, elements), values["gas"] == "sealed"
            forces.append(
                Gas(
                    name=name,
                    triangles=elements,
                    overpressure_pa=values["overpressure_pa"],
                    rest_volume_m3=volume,
                    is_constant=not sealed,
                    heating_k_s=values["heating_k_s"],
                )
            )
        wind = scene.spec.parameters.get("wind_m_s")
        if values["shape"] == "cloth" and wind is not None:
            velocity = vector(scene.spec.parameters, "parameters", "wind_m_s", 3)
            forces.append(Wind(name=name, triangles=elements, velocity_m_s=velocity))
        prefix = f"hold{index}_"
        for equality in range(model.neq):
            label = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_EQUALITY, equality) or ""
            if label.startswith(prefix):
                releases.append((number(values, where, "release_s"), equality))
    setup = Setup(
        loads=tuple(forces),
        drives=tuple(drives),
        releases=tuple(releases),
        elements={index: elements for index, (_, elements) in parts.items()},
        surfaces=surfaces,
        ropes=ropes,
    )
    return data.qvel.copy(), setup


def _anchors(
    mjspec: mujoco.MjSpec,
    index: int,
    values: Mapping[str, Any],
    points: np.ndarray,
    objects: Sequence[Mapping[str, Any]],
) -> dict[int, flex.Anchor]:
    """Points held for good or tied to a rigid object; points to be released get a constraint instead."""
    where = f"objects[{index}]"
    for name in ("held", "tied"):
        if not isinstance(values.get(name, []), list):
            raise ValueError(f"{where}.{name} must be a list, got {values[name]!r}")
    held = [int(n) for n in values.get("held", [])]
    if any(not 0 <= n < len(points) for n in held):
        raise ValueError(f"{where}.held must be point indices below {len(points)}, got {held}")
    if held and number(values, where, "release_s") > 0:
        for point in held:
            equality = mjspec.add_equality(
                name=f"hold{index}_{point}", type=mujoco.mjtEq.mjEQ_CONNECT, name1=f"object{index}_{point}"
            )
            equality.objtype = mujoco.mjtObj.mjOBJ_BODY
            equality.solref = (flex.CONTACT_TIME_S, 1.0)
        held = []
    anchors = {point: flex.Anchor(body="world", position_m=points[point]) for point in held}
    for pair in values.get("tied", []):
        point, other = (int(n) for n in vector({"tied": pair}, where, "tied", 2))
        if not 0 <= point < len(points) or not 0 <= other < len(objects):
            raise ValueError(f"{where}.tied must be pairs of a point and an object, got {pair}")
        body = objects[other]
        if body.get("shape") not in SIZE_LENGTH:
            raise ValueError(f"{where}.tied needs a rigid object, got object {other}: {body.get('shape')!r}")
        turn = np.empty(9)
        mujoco.mju_quat2Mat(turn, np.asarray(body["quaternion_wxyz"]))
        local = (points[point] - np.asarray(body["position_m"])) @ turn.reshape(3, 3)
        anchors[point] = flex.Anchor(body=f"object{other}", position_m=local)
    return anchors


def _placed(points: np.ndarray, values: Mapping[str, Any], where: str) -> np.ndarray:
    turn = np.empty(9)
    quaternion = np.asarray(vector(values, where, "quaternion_wxyz", 4))
    mujoco.mju_quat2Mat(turn, quaternion / np.linalg.norm(quaternion))
    return points @ turn.reshape(3, 3).T + vector(values, where, "position_m", 3)


def _elasticity(values: Mapping[str, Any], where: str) -> flex.Elasticity:
    return flex.Elasticity(
        young_pa=number(values, where, "young_pa", 1, 1e9),
        poisson=number(values, where, "poisson", 0, 0.49),
        damping_s=number(values, where, "damping_s", 0, 1),
    )


def _density(values: Mapping[str, Any], where: str, measure: float) -> float:
    return number(values, where, "mass_kg", 1e-3, 1e3) / float(measure)


def _count(value: Any, where: str, name: str) -> int:
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"{where}.{name} must be a list of at least 2, got {value!r}")
    return len(value)


def _limit_points(count: int, where: str) -> None:
    if not 2 <= count <= MAX_POINTS:
        raise ValueError(f"{where} must have 2 to {MAX_POINTS} points, got {count}")
