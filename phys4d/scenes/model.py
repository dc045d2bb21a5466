"""A scene spec's parameters, compiled to a MuJoCo model.

What a scene is follows from `spec.parameters` alone:

    gravity_m_s2      downward acceleration
    object_friction   sliding friction between two objects
    objects           moving bodies, in the order of their instance ids
    fixtures          floor, walls, ramp, box: what does not move
    camera            position, target (metres, world) and vertical field of view (degrees)
    light             direction, diffuse, ambient
    caption           what a viewer is told

Contacts are declared pair by pair. Restitution is that of the less bouncy object of the pair, friction with
a fixture is the fixture's.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float64

from phys4d.types import Camera, SceneSpec

MAX_OBJECTS = 8
MAX_FIXTURES = 12
MAX_STEPS = 100_000
"""Bounds what one spec can ask of a simulator that serves others."""
CONTACT_STIFFNESS = 40_000.0
"""Contact spring in 1/s^2 (force over mass and depth): an impact lasts about pi / 200 s, 8 steps of 2 ms."""
FRICTION_DAMPING = 250.0
"""Rate in 1/s at which friction stops slip below its Coulomb limit."""

SIZE_LENGTH = {"sphere": 1, "capsule": 2, "cylinder": 2, "ellipsoid": 3, "box": 3, "plane": 3}
GEOM_TYPE = {shape: getattr(mujoco.mjtGeom, f"mjGEOM_{shape.upper()}") for shape in SIZE_LENGTH}


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneObject:
    """A moving rigid body; its instance id is its index + 1."""

    name: str
    body_id: int
    geom_ids: tuple[int, ...]
    color_rgb: tuple[float, float, float]
    """Base colour, each channel in [0, 1]."""
    material: str
    mass_kg: float
    shape: str
    """`sphere`, `box`, `cylinder`, `capsule` or `ellipsoid`."""
    size_m: tuple[float, ...]
    """Half extents as MuJoCo has them: radius; radius and half height; or three half axes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BuiltScene:
    """A compiled scene."""

    spec: SceneSpec
    model: mujoco.MjModel
    objects: tuple[SceneObject, ...]
    instance_of_geom: np.ndarray
    """Instance id of each geom; 0 for fixtures."""

    @property
    def caption(self) -> str:
        """What a viewer is told: the facts that decide the outcome and that frame 0 does not show."""
        return self.spec.parameters["caption"]

    def initial_state(self) -> mujoco.MjData:
        """State at time 0: poses of the model, drawn velocities."""
        data = mujoco.MjData(self.model)
        for index, values in enumerate(self.spec.parameters["objects"]):
            data.qvel[6 * index : 6 * index + 3] = values["linear_velocity_m_s"]
            data.qvel[6 * index + 3 : 6 * index + 6] = values["angular_velocity_rad_s"]
        mujoco.mj_forward(self.model, data)
        return data

    def camera(self, width: int, height: int) -> Camera:
        """The scene's camera at an image size in pixels; the field of view spans the longer side."""
        values = self.spec.parameters["camera"]
        focal = 0.5 * max(width, height) / math.tan(math.radians(values["fov_deg"]) / 2)
        return Camera(
            fx=focal,
            fy=focal,
            cx=width / 2,
            cy=height / 2,
            width=width,
            height=height,
            camera_from_world=look_at(values["position_m"], values["target_m"]),
        )


def look_at(position_m: Sequence[float], target_m: Sequence[float]) -> Float64[np.ndarray, "4 4"]:
    """OpenCV camera_from_world of an upright camera at a position that looks at a target."""
    position = np.asarray(position_m, np.float64)
    forward = np.asarray(target_m, np.float64) - position
    length = np.linalg.norm(forward)
    right = np.cross(forward, (0.0, 0.0, 1.0))
    if length < 1e-6 or np.linalg.norm(right) < 1e-6 * length:
        raise ValueError(f"camera at {position.tolist()} must not look straight up or down at its target")
    forward, right = forward / length, right / np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    pose[:3, 3] = -pose[:3, :3] @ position
    return pose


def damping_of_restitution(restitution: float, stiffness: float = CONTACT_STIFFNESS) -> float:
    """Damping in 1/s of a contact spring that only pushes and returns `restitution` of the speed.

    With b half the damping: below critical damping, w^2 = stiffness - b^2 and
    e = exp(-b / w (pi - atan2(2 b w, w^2 - b^2))); above it, w^2 = b^2 - stiffness and
    e = exp(-b / w ln((b + w) / (b - w))).

    Source: Schwager and Poeschel, Granular Matter 9 (2007), equation 21.
    """
    if not 0.05 <= restitution <= 1:
        raise ValueError(f"restitution must be in [0.05, 1], got {restitution}")
    low, high = 0.0, 2.5 * math.sqrt(stiffness)
    for _ in range(60):
        b = 0.5 * (low + high)
        w = math.sqrt(abs(stiffness - b * b)) or 1e-12
        if b * b < stiffness:
            exponent = b / w * (math.pi - math.atan2(2 * b * w, w * w - b * b))
        else:
            exponent = b / w * math.log((b + w) / (b - w))
        low, high = (b, high) if math.exp(-exponent) > restitution else (low, b)
    return low + high


def build(spec: SceneSpec) -> BuiltScene:
    """Compile a scene. The same spec gives bitwise the same model.

    Raises:
        ValueError: a parameter is missing, of the wrong length or out of range.
    """
    # Without this MuJoCo writes MUJOCO_LOG.TXT into the working folder; `simulate` tells of unstable scenes.
    mujoco.set_mju_user_warning(logging.getLogger(__name__).debug)
    if spec.category != "rigid":
        raise ValueError(f"category {spec.category!r} is not built here; known: rigid")
    if spec.num_frames > MAX_STEPS or spec.num_frames / spec.fps > MAX_STEPS * spec.timestep_s:
        raise ValueError(
            f"a scene must take at most {MAX_STEPS} steps, got {spec.num_frames} frames at {spec.fps} fps "
            f"with timestep_s {spec.timestep_s}"
        )
    parameters = spec.parameters
    objects = _entries(parameters, "objects", MAX_OBJECTS)
    fixtures = _entries(parameters, "fixtures", MAX_FIXTURES)
    _vector(parameters.get("camera", {}), "camera", "position_m", 3)
    _vector(parameters["camera"], "camera", "target_m", 3)
    if not 5 <= _number(parameters["camera"], "camera", "fov_deg") <= 120:
        raise ValueError(f"camera.fov_deg must be in [5, 120], got {parameters['camera']['fov_deg']}")
    if not isinstance(parameters.get("caption"), str):
        raise ValueError("parameters.caption must be a string")

    mjspec = mujoco.MjSpec()
    mjspec.modelname = f"{spec.category}_{spec.family}"
    option = mjspec.option
    option.timestep = spec.timestep_s
    option.gravity = (0.0, 0.0, -_number(parameters, "parameters", "gravity_m_s2"))
    option.integrator = mujoco.mjtIntegrator.mjINT_RK4
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.iterations, option.tolerance = 50, 1e-10
    # A fixed extent keeps collision and ray tolerances independent of where the objects are.
    mjspec.stat.extent, mjspec.stat.center = 4.0, (0.0, 0.0, 0.5)

    for index, values in enumerate(objects):
        where = f"objects[{index}]"
        body = mjspec.worldbody.add_body(
            name=f"object{index}",
            pos=_vector(values, where, "position_m", 3),
            quat=_vector(values, where, "quaternion_wxyz", 4),
        )
        body.add_freejoint()
        _vector(values, where, "linear_velocity_m_s", 3)
        _vector(values, where, "angular_velocity_rad_s", 3)
        density = _number(values, where, "density_kg_m3")
        if not 1 <= density <= 30_000:
            raise ValueError(f"{where}.density_kg_m3 must be in [1, 30000], got {density}")
        _add_geom(body, f"object{index}", values, where, density)
    for index, values in enumerate(fixtures):
        where = f"fixtures[{index}]"
        geom = _add_geom(mjspec.worldbody, f"fixture{index}", values, where, density=0.0)
        geom.pos = _vector(values, where, "position_m", 3)
        geom.quat = _vector(values, where, "quaternion_wxyz", 4)
    _add_contacts(mjspec, parameters, objects, fixtures)

    model = mjspec.compile()
    instance_of_geom = np.asarray(model.geom_bodyid, np.uint8)
    return BuiltScene(
        spec=spec,
        model=model,
        instance_of_geom=instance_of_geom,
        objects=tuple(
            SceneObject(
                name=values.get("name", f"object{index}"),
                body_id=index + 1,
                geom_ids=tuple(int(g) for g in np.flatnonzero(model.geom_bodyid == index + 1)),
                color_rgb=_rgb(values, f"objects[{index}]"),
                material=values.get("material", ""),
                mass_kg=float(model.body_mass[index + 1]),
                shape=values["shape"],
                size_m=tuple(values["size_m"]),
            )
            for index, values in enumerate(objects)
        ),
    )


def _add_geom(
    body: mujoco.MjsBody, name: str, values: Mapping[str, Any], where: str, density: float
) -> mujoco.MjsGeom:
    shape = values.get("shape")
    if shape not in SIZE_LENGTH:
        raise ValueError(f"{where}.shape must be one of {sorted(SIZE_LENGTH)}, got {shape!r}")
    size = _vector(values, where, "size_m", SIZE_LENGTH[shape])
    if shape != "plane" and min(size) <= 0:
        raise ValueError(f"{where}.size_m must be positive, got {size}")
    return body.add_geom(
        name=name,
        type=GEOM_TYPE[shape],
        size=size + [0.0] * (3 - len(size)),
        density=density,
        rgba=[*_vector(values, where, "rgb", 3), 1.0],
        contype=0,
        conaffinity=0,
    )


def _add_contacts(
    mjspec: mujoco.MjSpec,
    parameters: Mapping[str, Any],
    objects: Sequence[Mapping[str, Any]],
    fixtures: Sequence[Mapping[str, Any]],
) -> None:
    bounce = [_number(values, f"objects[{i}]", "restitution") for i, values in enumerate(objects)]
    slide = _number(parameters, "parameters", "object_friction")
    for i in range(len(objects)):
        others = [(f"object{j}", min(bounce[i], bounce[j]), slide) for j in range(i + 1, len(objects))]
        others += [
            (f"fixture{j}", bounce[i], _number(values, f"fixtures[{j}]", "friction"))
            for j, values in enumerate(fixtures)
        ]
        for name, restitution, friction in others:
            if not 0 <= friction <= 5:
                raise ValueError(f"friction of {name} must be in [0, 5], got {friction}")
            mjspec.add_pair(
                geomname1=f"object{i}",
                geomname2=name,
                condim=3,
                friction=[max(friction, 1e-5)] * 2 + [0.005, 0.0001, 0.0001],
                # Negative values are stiffness and damping themselves, not a time constant and a ratio.
                solref=[-CONTACT_STIFFNESS, -damping_of_restitution(restitution)],
                solreffriction=[-1.0, -FRICTION_DAMPING],
                solimp=[0.99, 0.99, 0.001, 0.5, 2.0],
            )


def _entries(parameters: Mapping[str, Any], name: str, most: int) -> list[Mapping[str, Any]]:
    entries = parameters.get(name)
    if not isinstance(entries, list) or not 1 <= len(entries) <= most:
        raise ValueError(f"parameters.{name} must be a list of 1 to {most} entries")
    if not all(isinstance(entry, Mapping) for entry in entries):
        raise ValueError(f"parameters.{name} must hold tables")
    return entries


def _rgb(values: Mapping[str, Any], where: str) -> tuple[float, float, float]:
    red, green, blue = _vector(values, where, "rgb", 3)
    return red, green, blue


def _number(values: Mapping[str, Any], where: str, name: str) -> float:
    value = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(value, float):
        raise ValueError(f"{where}.{name} must be a number, got {value!r}")
    return value


def _vector(values: Mapping[str, Any], where: str, name: str, length: int) -> list[float]:
    value = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(value, list) or len(value) != length or not all(isinstance(v, float) for v in value):
        raise ValueError(f"{where}.{name} must be {length} numbers, got {value!r}")
    return value
