"""A scene spec's parameters, checked and compiled: what all categories share.

What a scene is follows from `spec.parameters` alone:

    gravity_m_s2      downward acceleration
    objects           what moves, in the order of the instance ids
    fixtures          floor, walls, ramp, box: what does not move
    camera            position, target (metres, world), field of view along the longer side (degrees)
    light             direction, diffuse, ambient
    caption           what a viewer is told

and more for each category. Every scene has a MuJoCo model: it poses and draws the rigid parts and stops rays
at them, also where another engine moves the rest.
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float64

from phys4d.types import Camera, SceneSpec

MAX_OBJECTS = 8
MAX_FIXTURES = 12
MAX_STEPS = 100_000
"""Bounds what one spec can ask of a simulator that serves others."""
MAX_WORK = 500_000_000
"""Particles, cells or nodes times steps at most in a scene: about two minutes of one core."""

WORDS = ("shape", "form", "joint", "gas", "texture", "pattern", "name", "material")
"""What entries of objects and fixtures say in words."""
SIZE_LENGTH = {"sphere": 1, "capsule": 2, "cylinder": 2, "ellipsoid": 3, "box": 3, "plane": 3}
GEOM_TYPE = {shape: getattr(mujoco.mjtGeom, f"mjGEOM_{shape.upper()}") for shape in SIZE_LENGTH}


@dataclass(frozen=True, kw_only=True)
class Look:
    """How a surface is drawn."""

    rgb: tuple[float, float, float]
    """Base colour, each channel in [0, 1]."""
    texture: str = "plain"
    """One of `rgb.textures()`; meshes and particles are always plain."""
    repeat: tuple[float, float] = (1.0, 1.0)
    """How often the texture repeats."""
    shine: float = 0.0
    """Specular reflection in [0, 1]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneObject:
    """What moves as one: a rigid body, a mesh or a set of particles; its instance id is its index + 1."""

    name: str
    body_id: int
    """MuJoCo body that carries its pose; -1 for meshes and particles."""
    geom_ids: tuple[int, ...]
    look: Look
    """Of its mesh or particles, and of its geoms."""
    material: str
    mass_kg: float
    shape: str
    """`sphere`, `box`, `cylinder`, `capsule` or `ellipsoid`; `cloth`, `rope`, `liquid` and so on."""
    size_m: tuple[float, ...]
    """Half extents as MuJoCo has them: radius; radius and half height; or three half axes."""

    @property
    def color_rgb(self) -> tuple[float, float, float]:
        """Base colour, each channel in [0, 1]."""
        return self.look.rgb


@dataclass(frozen=True, kw_only=True, eq=False)
class BuiltScene:
    """A compiled scene."""

    spec: SceneSpec
    model: mujoco.MjModel
    objects: tuple[SceneObject, ...]
    instance_of_geom: np.ndarray
    """Instance id of each geom; 0 for fixtures."""
    look_of_geom: tuple[Look, ...]
    """How each geom is drawn. Geoms of alpha 0 are neither drawn nor hit by rays."""
    qvel: Float64[np.ndarray, " nv"]
    """Generalised velocities at time 0."""
    setup: Any = field(default=None)
    """What the category's `build` leaves for its `simulate`."""

    @property
    def caption(self) -> str:
        """What a viewer is told: the facts that decide the outcome and that frame 0 does not show."""
        return self.spec.parameters["caption"]

    def initial_state(self) -> mujoco.MjData:
        """State at time 0: poses of the model, drawn velocities."""
        data = mujoco.MjData(self.model)
        data.qvel[:] = self.qvel
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


def new_stage(spec: SceneSpec) -> mujoco.MjSpec:
    """Check what every scene has, and begin its model: gravity, time step, extent.

    Raises:
        ValueError: a parameter is missing, of the wrong length or out of range.
    """
    # Without this MuJoCo writes MUJOCO_LOG.TXT into the working folder; `simulate` tells of unstable scenes.
    mujoco.set_mju_user_warning(logging.getLogger(__name__).debug)
    if spec.num_frames > MAX_STEPS or spec.num_frames / spec.fps > MAX_STEPS * spec.timestep_s:
        raise ValueError(
            f"a scene must take at most {MAX_STEPS} steps, got {spec.num_frames} frames at {spec.fps} fps "
            f"with timestep_s {spec.timestep_s}"
        )
    if not 1 / spec.fps > 0.999 * spec.timestep_s:
        raise ValueError(
            f"a step must not be longer than a frame, got timestep_s {spec.timestep_s} at {spec.fps} fps"
        )
    parameters = spec.parameters
    entries(parameters, "objects", MAX_OBJECTS)
    entries(parameters, "fixtures", MAX_FIXTURES)
    vector(parameters.get("camera", {}), "camera", "position_m", 3)
    vector(parameters["camera"], "camera", "target_m", 3)
    number(parameters["camera"], "camera", "fov_deg", 5, 120)
    if not isinstance(parameters.get("caption"), str):
        raise ValueError("parameters.caption must be a string")

    mjspec = mujoco.MjSpec()
    mjspec.modelname = f"{spec.category}_{spec.family}"
    mjspec.option.timestep = spec.timestep_s
    mjspec.option.gravity = (0.0, 0.0, -number(parameters, "parameters", "gravity_m_s2"))
    # A fixed extent keeps collision and ray tolerances independent of where the objects are.
    mjspec.stat.extent, mjspec.stat.center = 4.0, (0.0, 0.0, 0.5)
    return mjspec


def num_steps(spec: SceneSpec) -> int:
    """Integrator steps from the first frame to the last."""
    return round((spec.num_frames - 1) / spec.fps / spec.timestep_s)


def limit_work(work: float, what: str) -> None:
    """Refuse scenes that would hold a simulator for minutes.

    Raises:
        ValueError: `work`, of which `what` tells the factors, is above `MAX_WORK`.
    """
    if not work <= MAX_WORK:
        raise ValueError(
            f"{what} are {work:.2g} updates, at most {MAX_WORK:.2g} are simulated; take fewer frames or "
            "coarser parts"
        )


def add_fixtures(mjspec: mujoco.MjSpec, parameters: Mapping[str, Any]) -> None:
    """Add the fixtures as geoms `fixture0`, `fixture1` ... of the world, which collide with nothing."""
    for index, values in enumerate(entries(parameters, "fixtures", MAX_FIXTURES)):
        where = f"fixtures[{index}]"
        geom = add_geom(mjspec.worldbody, f"fixture{index}", values, where, density=0.0)
        geom.pos = vector(values, where, "position_m", 3)
        geom.quat = vector(values, where, "quaternion_wxyz", 4)


def add_geom(
    body: mujoco.MjsBody, name: str, values: Mapping[str, Any], where: str, density: float
) -> mujoco.MjsGeom:
    """Add the geom that `shape`, `size_m` and `rgb` describe; it collides with nothing by itself."""
    shape = values.get("shape")
    if shape not in SIZE_LENGTH:
        raise ValueError(f"{where}.shape must be one of {sorted(SIZE_LENGTH)}, got {shape!r}")
    size = vector(values, where, "size_m", SIZE_LENGTH[shape])
    if shape != "plane" and min(size) <= 0:
        raise ValueError(f"{where}.size_m must be positive, got {size}")
    return body.add_geom(
        name=name,
        type=GEOM_TYPE[shape],
        size=size + [0.0] * (3 - len(size)),
        density=density,
        rgba=[*vector(values, where, "rgb", 3), 1.0],
        contype=0,
        conaffinity=0,
    )


def look_of(values: Mapping[str, Any], where: str, *, shine: float) -> Look:
    """The look that an object's or fixture's `rgb`, `texture` or `pattern` and `texture_repeat` describe."""
    red, green, blue = vector(values, where, "rgb", 3)
    across, along = vector(values, where, "texture_repeat", 2) if "texture_repeat" in values else (1.0, 1.0)
    name = values.get("texture", values.get("pattern", "plain"))
    return Look(rgb=(red, green, blue), texture=name, repeat=(across, along), shine=shine)


def finish(
    spec: SceneSpec,
    mjspec: mujoco.MjSpec,
    *,
    shape: str = "",
    velocities: bool = False,
    setup: Any = None,
    masses_kg: Mapping[int, float] | None = None,
) -> BuiltScene:
    """Compile a scene.

    An entry of `objects` owns the body or the flex `object0`, `object1` ..., if there is one, that body's
    geoms and those whose names begin with `object0.` and so on; the other geoms belong to fixtures.

    Args:
        shape: stands for objects that say none.
        velocities: the bodies are free, in order, and start with the entries' velocities.
        masses_kg: of objects without a body, by index, where it is not their entry's `mass_kg`.
    """
    model, masses = mjspec.compile(), dict(masses_kg or {})
    objects, fixtures = spec.parameters["objects"], spec.parameters["fixtures"]
    names = [f"object{index}" for index in range(len(objects))]
    bodies = [
        -1
        if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, name) >= 0
        else mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
        for name in names
    ]
    looks = [look_of(values, f"objects[{i}]", shine=0.5) for i, values in enumerate(objects)]
    instance = np.zeros(model.ngeom, np.uint8)
    look_of_geom = [Look(rgb=(0.5, 0.5, 0.5))] * model.ngeom
    for geom in range(model.ngeom):
        kind, _, rest = model.geom(geom).name.partition(".")[0].partition("object")
        if not kind and rest.isdigit():
            instance[geom] = int(rest) + 1
        elif model.geom_bodyid[geom] in bodies:
            instance[geom] = bodies.index(model.geom_bodyid[geom]) + 1
        if instance[geom]:
            look_of_geom[geom] = looks[instance[geom] - 1]
    for index, values in enumerate(fixtures):
        geom = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_GEOM, f"fixture{index}")
        if geom >= 0:
            look_of_geom[geom] = look_of(values, f"fixtures[{index}]", shine=0.0)
    qvel = np.zeros(model.nv)
    if velocities:
        for index, values in enumerate(objects):
            qvel[6 * index : 6 * index + 3] = values["linear_velocity_m_s"]
            qvel[6 * index + 3 : 6 * index + 6] = values["angular_velocity_rad_s"]
    return BuiltScene(
        spec=spec,
        model=model,
        instance_of_geom=instance,
        look_of_geom=tuple(look_of_geom),
        qvel=qvel,
        setup=setup,
        objects=tuple(
            SceneObject(
                name=values.get("name", f"object{index}"),
                body_id=body,
                geom_ids=tuple(int(g) for g in np.flatnonzero(instance == index + 1)),
                look=looks[index],
                material=values.get("material", ""),
                mass_kg=float(model.body_mass[body])
                if body >= 0
                else float(masses.get(index) or values.get("mass_kg", 0.0)),
                shape=values.get("shape", shape),
                size_m=tuple(values.get("size_m", ())),
            )
            for index, (values, body) in enumerate(zip(objects, bodies, strict=True))
        ),
    )


def entries(parameters: Mapping[str, Any], name: str, most: int) -> list[Mapping[str, Any]]:
    """A list of 1 to `most` tables of the parameters."""
    values = parameters.get(name)
    if not isinstance(values, list) or not 1 <= len(values) <= most:
        raise ValueError(f"parameters.{name} must be a list of 1 to {most} entries")
    for index, entry in enumerate(values):
        if not isinstance(entry, Mapping):
            raise ValueError(f"parameters.{name} must hold tables, got {entry!r}")
        for word in WORDS:
            if not isinstance(entry.get(word, ""), str):
                raise ValueError(f"{name}[{index}].{word} must be a word, got {entry[word]!r}")
    return values


def number(
    values: Mapping[str, Any], where: str, name: str, low: float = -math.inf, high: float = math.inf
) -> float:
    """A number in [low, high] of a table."""
    value = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(value, float):
        raise ValueError(f"{where}.{name} must be a number, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{where}.{name} must be in [{low:g}, {high:g}], got {value}")
    return value


def vector(values: Mapping[str, Any], where: str, name: str, length: int) -> list[float]:
    """A list of numbers of a table."""
    value = values.get(name) if isinstance(values, Mapping) else None
    if not isinstance(value, list) or len(value) != length or not all(isinstance(v, float) for v in value):
        raise ValueError(f"{where}.{name} must be {length} numbers, got {value!r}")
    return value
