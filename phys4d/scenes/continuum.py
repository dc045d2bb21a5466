"""Scenes of material points: what fluids, sand and melting scenes share.

Beside what every scene has (see `model`), the parameters hold

* `tank`: `origin_m`, `size_m`, `cell_m` of the box in which the material moves. Its sides are glass unless a
  fixture is drawn there. Fixtures with `solid` = 1 stand in it. Floor and solids have the first fixture's
  friction, the sides none.
* `objects`: `shape` `liquid`, `sand` or `meltable`, filled into a `form` (`box`, `sphere`, `hopper`) of half
  extents `size_m` about `position_m`; or `shape` `sphere`, a rigid ball.

A scene is refused as unstable if a particle enters a wall or a solid by more than 1.3 cells, if liquid is
squeezed by more than 10 %, or if kinetic and potential energy exceed their sum at the start by 3 % of the
weight times the tank's height: only gravity works here, and friction takes.
"""

import math
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

import mujoco
import numpy as np
from jaxtyping import Float64

from phys4d.scenes.model import (
    BuiltScene,
    add_fixtures,
    add_geom,
    finish,
    limit_work,
    new_stage,
    num_steps,
    number,
    vector,
)
from phys4d.scenes.simulation import frame_steps, trajectory_of
from phys4d.scenes.trajectory import Particles, Trajectory, UnstableSimulation
from phys4d.types import SceneSpec

SPACING = 2 / 3
"""Distance of particles in cells: 3.4 of them per cell."""
DRAWN_RADIUS = 0.62
"""Radius of a drawn particle in spacings: neighbours overlap, so that a body of them looks closed."""
MAX_PARTICLES = 20_000
MAX_NODES = 500_000
"""Nodes of a tank's grid at most."""
BALL_FRICTION = 0.3
MATERIALS = ("liquid", "sand", "meltable")
FORMS = ("box", "sphere", "hopper")

Points = Float64[np.ndarray, "points 3"]


def engine() -> str:
    """Name and version of the solver; results are bitwise the same within one."""
    return f"mls-mpm 2 numba {version('numba')}"


def signed_distance(fixtures: list[Mapping[str, Any]]) -> Callable[[Points], np.ndarray] | None:
    """Distance to the fixtures that are solid, negative inside; None where there are none."""
    solids = [values for values in fixtures if values.get("solid")]
    if not solids:
        return None
    shapes = []
    for values in solids:
        if values["shape"] not in ("box", "sphere", "cylinder"):
            raise ValueError(f"a solid must be a box, sphere or cylinder, got {values['shape']!r}")
        matrix = np.empty(9)
        mujoco.mju_quat2Mat(matrix, np.array(values["quaternion_wxyz"]))
        shapes.append(
            (
                values["shape"],
                np.array(values["size_m"]),
                np.array(values["position_m"]),
                matrix.reshape(3, 3),
            )
        )

    def distance(points: Points) -> np.ndarray:
        nearest = np.full(len(points), np.inf)
        for shape, size, place, rotation in shapes:
            local = (points - place) @ rotation
            if shape == "sphere":
                here = np.linalg.norm(local, axis=1) - size[0]
            else:
                if shape == "box":
                    beyond = np.abs(local) - size
                else:
                    round_ = np.hypot(local[:, 0], local[:, 1]) - size[0]
                    beyond = np.stack([round_, np.abs(local[:, 2]) - size[1]], axis=1)
                here = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)
            nearest = np.minimum(nearest, here)
        return nearest

    return distance


def build(spec: SceneSpec) -> BuiltScene:
    """Compile a scene of material points, with the tank's fixtures and the balls as geoms.

    Raises:
        ValueError: a parameter is missing, malformed or out of range.
    """
    from phys4d.scenes.solvers.materials import Liquid, Meltable, Sand
    from phys4d.scenes.solvers.mpm import PAD, Ball, MaterialPoints, Tank, fill

    mjspec = new_stage(spec)
    add_fixtures(mjspec, spec.parameters)
    parameters = spec.parameters
    objects, fixtures = parameters["objects"], parameters["fixtures"]
    values = parameters.get("tank", {})
    cell = number(values, "tank", "cell_m", 0.005, 0.2)
    low = vector(values, "tank", "origin_m", 3)
    size = vector(values, "tank", "size_m", 3)
    distance = signed_distance(fixtures)
    friction = [number(f, f"fixtures[{i}]", "friction", 0, 5) for i, f in enumerate(fixtures)]
    nodes = math.prod(s / cell + 1 + 2 * PAD for s in size)
    if not nodes <= MAX_NODES:
        raise ValueError(
            f"tank.size_m {size} with cells of {cell} m has {nodes:.0f} nodes, at most {MAX_NODES} are "
            "simulated; take larger cells"
        )
    tank = Tank(
        origin_m=(low[0], low[1], low[2]),
        size_m=(size[0], size[1], size[2]),
        cell_m=cell,
        friction=friction[0],
        wall_friction=0.0,
        solid=distance,
    )
    spacing = SPACING * cell
    materials: list[Liquid | Sand | Meltable] = []
    places, velocities, owner, balls, filled = [], [], [], [], []
    ball_objects = []
    for index, entry in enumerate(objects):
        where = f"objects[{index}]"
        place = vector(entry, where, "position_m", 3)
        speed = vector(entry, where, "linear_velocity_m_s", 3)
        density = number(entry, where, "density_kg_m3", 1, 30_000)
        if entry.get("shape") == "sphere":
            body = mjspec.worldbody.add_body(name=f"object{index}", pos=place)
            body.add_freejoint()
            add_geom(body, f"object{index}", entry, where, density)
            radius = vector(entry, where, "size_m", 1)[0]
            mass = density * 4 / 3 * math.pi * radius**3
            balls.append(
                Ball(
                    position_m=(place[0], place[1], place[2]),
                    velocity_m_s=(speed[0], speed[1], speed[2]),
                    radius_m=radius,
                    mass_kg=mass,
                )
            )
            ball_objects.append(index)
            continue
        materials.append(_material(entry, where, density))
        inside = _form(entry, where)
        ceiling = [o + s for o, s in zip(low, size, strict=True)]
        reach = _reach(entry, where)
        bottom = [max(a, p - r) for a, p, r in zip(low, place, reach, strict=True)]
        top = [min(a, p + r) for a, p, r in zip(ceiling, place, reach, strict=True)]
        cloud = fill(inside, bottom, top, spacing)
        if distance is not None:
            cloud = cloud[distance(cloud) > 0.25 * spacing]
        for taken in filled:
            cloud = cloud[~taken(cloud)]
        for ball in balls:
            cloud = cloud[np.linalg.norm(cloud - ball.position_m, axis=1) > ball.radius_m]
        if not 1 <= len(cloud) <= MAX_PARTICLES:
            raise ValueError(f"{where} must hold 1 to {MAX_PARTICLES} particles, got {len(cloud)}")
        filled.append(_occupied(inside, bottom, top))
        places.append(cloud)
        velocities.append(np.broadcast_to(speed, cloud.shape))
        owner.append(np.full(len(cloud), index))
    if not places:
        raise ValueError(f"a scene needs an object of shape {', '.join(MATERIALS)}")
    count, steps = sum(map(len, places)), num_steps(spec)
    limit_work(float(count * steps), f"{count} particles over {steps} steps")
    owners = np.concatenate(owner)
    kinds = np.unique(owners, return_inverse=True)[1]
    limit = MaterialPoints.stable_timestep_s(tank, materials)
    if spec.timestep_s > limit:
        raise ValueError(f"timestep_s must be at most {limit:.3g} in this scene, got {spec.timestep_s}")

    def make_points() -> MaterialPoints:
        return MaterialPoints(
            tank=tank,
            materials=materials,
            material=kinds,
            position_m=np.concatenate(places),
            velocity_m_s=np.concatenate(velocities),
            spacing_m=spacing,
            timestep_s=spec.timestep_s,
            balls=balls,
            ball_friction=BALL_FRICTION,
        )

    setup = {
        "points": make_points,
        "owner": owners,
        "balls": ball_objects,
        "distance": distance,
        "tank": tank,
        "materials": materials,
    }
    masses = {
        int(owner): materials[kind].density_kg_m3 * spacing**3 * len(cloud)
        for kind, (owner, cloud) in enumerate(zip(np.unique(owners), places, strict=True))
    }
    return finish(spec, mjspec, setup=setup, masses_kg=masses)


def _material(entry: Mapping[str, Any], where: str, density: float) -> Any:
    from phys4d.scenes.solvers.materials import Liquid, Meltable, Sand

    shape = entry.get("shape")
    if shape == "liquid":
        return Liquid(
            density_kg_m3=density,
            sound_m_s=25.0,
            viscosity_pa_s=number(entry, where, "viscosity_pa_s", 0, 100),
        )
    if shape == "sand":
        friction = number(entry, where, "friction_deg", 5, 50)
        return Sand(density_kg_m3=density, young_pa=3e5, friction_deg=friction)
    if shape == "meltable":
        return Meltable(
            density_kg_m3=density,
            young_pa=2e5,
            yield_pa=2e4,
            viscosity_pa_s=number(entry, where, "viscosity_pa_s", 0, 100),
            melting_c=number(entry, where, "melting_c", -50, 1500),
            latent_j_kg=number(entry, where, "latent_j_kg", 1e3, 1e6),
            solid_heat_j_kg_k=number(entry, where, "heat_j_kg_k", 100, 1e4),
            liquid_heat_j_kg_k=number(entry, where, "heat_j_kg_k", 100, 1e4),
            conductivity_w_m_k=number(entry, where, "conductivity_w_m_k", 0, 500),
        )
    raise ValueError(f"{where}.shape must be sphere, {', '.join(MATERIALS)}, got {shape!r}")


def _reach(entry: Mapping[str, Any], where: str) -> list[float]:
    if entry.get("form") == "sphere":
        return vector(entry, where, "size_m", 1) * 3
    return vector(entry, where, "size_m", 3)


def _form(entry: Mapping[str, Any], where: str) -> Callable[[Points], np.ndarray]:
    """Which points of the box about the entry belong to it."""
    form = entry.get("form")
    if form not in FORMS:
        raise ValueError(f"{where}.form must be one of {', '.join(FORMS)}, got {form!r}")
    place = vector(entry, where, "position_m", 3)
    if form == "sphere":
        radius = vector(entry, where, "size_m", 1)[0]
        return lambda p: np.linalg.norm(p - place, axis=1) <= radius
    if form == "hopper":
        gap, slope = number(entry, where, "gap_m", 0.01), number(entry, where, "slope", 0.1, 10)
        bottom = place[2] - vector(entry, where, "size_m", 3)[2]
        return lambda p: p[:, 2] > bottom + slope * np.maximum(np.abs(p[:, 0] - place[0]) - gap / 2, 0)
    if "tilt" in entry:
        tilt, top = number(entry, where, "tilt", -2, 2), place[2] + entry["size_m"][2]
        reach = entry["size_m"][0]
        return lambda p: p[:, 2] < top - abs(tilt) * reach + tilt * (p[:, 0] - place[0])
    return lambda p: np.ones(len(p), bool)


def _occupied(
    inside: Callable[[Points], np.ndarray], bottom: list[float], top: list[float]
) -> Callable[[Points], np.ndarray]:
    """Which points an object fills: earlier objects displace later ones."""
    return lambda p: inside(p) & (p > bottom).all(axis=1) & (p < top).all(axis=1)


def simulate(scene: BuiltScene) -> Trajectory:
    """Move the material and the balls; bitwise reproducible within one engine version.

    Raises:
        UnstableSimulation: an invariant is broken; see the module.
    """
    points = scene.setup["points"]()
    return record(scene, points, lambda steps, gravity: points.advance(steps, gravity))


def record(
    scene: BuiltScene,
    points: Any,
    advance: Callable[[int, tuple[float, float, float]], None],
    colors: Callable[[], np.ndarray] | None = None,
    scalars: Mapping[str, Callable[[], np.ndarray]] | None = None,
) -> Trajectory:
    """Take the steps of each frame with `advance`, check the invariants and gather what moved.

    Args:
        colors, scalars: of the particles, asked for at each frame; see `Particles`.
    """
    from phys4d.scenes.solvers.mpm import LeftGrid

    spec, setup = scene.spec, scene.setup
    gravity = (0.0, 0.0, -scene.spec.parameters["gravity_m_s2"])
    steps = frame_steps(scene)
    num_balls = len(setup["balls"])
    position = np.empty((len(steps), len(points.position_m), 3))
    speed = np.empty_like(position)
    qpos, qvel = np.empty((len(steps), scene.model.nq)), np.empty((len(steps), scene.model.nv))
    rgb, kept = [], {name: [] for name in scalars or {}}
    start = _energy(points, gravity)
    slack = 0.03 * float(points.mass_kg.sum() + sum(b.mass_kg for b in points.balls)) * -gravity[2]
    slack *= points.tank.size_m[2]
    done = 0
    for frame, step in enumerate(steps):
        try:
            advance(step - done, gravity)
        except LeftGrid as error:
            raise UnstableSimulation(f"{spec.family} seed {spec.seed}: {error}") from error
        done = step
        _check(scene, points, start + slack, gravity)
        position[frame], speed[frame] = points.position_m, points.velocity_m_s
        if colors is not None:
            rgb.append(colors())
        for name, values in (scalars or {}).items():
            kept[name].append(values().copy())
        for ball in range(num_balls):
            turn = points.ball_quaternion_wxyz[ball]
            matrix = np.empty(9)
            mujoco.mju_quat2Mat(matrix, turn)
            qpos[frame, 7 * ball : 7 * ball + 7] = [*points.ball_position_m[ball], *turn]
            qvel[frame, 6 * ball : 6 * ball + 3] = points.ball_velocity[ball, :3]
            qvel[frame, 6 * ball + 3 : 6 * ball + 6] = points.ball_velocity[ball, 3:] @ matrix.reshape(3, 3)
    trajectory = trajectory_of(scene, np.asarray(steps) * spec.timestep_s, qpos, qvel)
    owner = setup["owner"]
    for index in np.unique(owner):
        trajectory.position_m[:, index] = position[:, owner == index].mean(axis=1)
        trajectory.velocity[:, index, :3] = speed[:, owner == index].mean(axis=1)
    radius = np.full(len(owner), DRAWN_RADIUS * points.spacing_m)
    particles = Particles(
        object_index=owner.astype(np.int64),
        position_m=position,
        velocity_m_s=speed,
        radius_m=radius,
        rgb=np.asarray(rgb, np.float32) if rgb else None,
        scalars={name: np.asarray(values) for name, values in kept.items()},
    )
    return Trajectory(**{**trajectory.__dict__, "particles": particles})


def _energy(points: Any, gravity: tuple[float, float, float]) -> float:
    """Kinetic and potential energy of particles and balls, J."""
    kinetic = 0.5 * points.mass_kg @ np.square(points.velocity_m_s).sum(axis=1)
    potential = -gravity[2] * (points.mass_kg @ points.position_m[:, 2])
    for ball, place, speed in zip(points.balls, points.ball_position_m, points.ball_velocity, strict=True):
        spin = 0.2 * ball.mass_kg * ball.radius_m**2 * float(speed[3:] @ speed[3:])
        kinetic += 0.5 * ball.mass_kg * float(speed[:3] @ speed[:3]) + spin
        potential -= gravity[2] * ball.mass_kg * place[2]
    return float(kinetic + potential)


def _check(scene: BuiltScene, points: Any, most_j: float, gravity: tuple[float, float, float]) -> None:
    """Refuse a state that breaks an invariant."""
    tank = points.tank
    inside = points.position_m - np.asarray(tank.origin_m)
    deepest = float(np.maximum(-inside, inside - np.asarray(tank.size_m)).max())
    distance = scene.setup["distance"]
    if distance is not None:
        deepest = max(deepest, float(-distance(points.position_m).min()))
    problem = None
    if not np.isfinite(points.position_m).all():
        problem = "a position is not finite"
    elif deepest > 1.3 * tank.cell_m:
        problem = f"a particle is {deepest:.3f} m inside a solid"
    elif points.mean_compression > 0.1:
        problem = f"the liquid is squeezed by {points.mean_compression:.2f}"
    elif (energy := _energy(points, gravity)) > most_j:
        problem = f"energy rose to {energy:.3g} J, above {most_j:.3g} J"
    if problem:
        raise UnstableSimulation(f"{scene.spec.family} seed {scene.spec.seed}: {problem}")
