"""Scenes with flexes in motion: loads, drives and releases, what is refused, and the surfaces of ropes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import mujoco
import numpy as np

from phys4d.scenes import flex, loads, meshes, simulation
from phys4d.scenes.loads import Load, ShellInverted
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.trajectory import Mesh, Trajectory, UnstableSimulation

MAX_STRAIN = 0.6
"""Longest relative stretch of an edge of cloth or rope in an accepted scene."""
VOLUME_RANGE = (0.4, 2.5)
"""Volume of a soft body or a balloon relative to its first, in an accepted scene."""
RAIL_RATE = 60.0
"""Natural frequency in 1/s at which a driven body is held to its course."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Setup:
    """What `build` leaves for `simulate`."""

    loads: tuple[Load, ...]
    drives: tuple["Drive", ...]
    releases: tuple[tuple[float, int], ...]
    """Times in seconds at which equality constraints, by index, let go."""
    elements: Mapping[int, np.ndarray]
    """Segments, triangles or tetrahedra of each object that is a flex."""
    surfaces: Mapping[int, np.ndarray] = field(default_factory=dict)
    """Outer triangles of closed shells and soft bodies."""
    ropes: Mapping[int, float] = field(default_factory=dict)
    """Radius of each object that is a rope."""


@dataclass(frozen=True, kw_only=True)
class Drive:
    """A body on a slide joint that is moved at a speed."""

    dof: int
    mass_kg: float
    speed_m_s: float
    until_s: float

    def apply(self, data: mujoco.MjData) -> None:
        """A stiff, critically damped spring to the course."""
        place = self.speed_m_s * min(data.time, self.until_s)
        speed = self.speed_m_s if data.time < self.until_s else 0.0
        pull = RAIL_RATE**2 * (place - data.qpos[self.dof]) + 2 * RAIL_RATE * (speed - data.qvel[self.dof])
        data.qfrc_applied[self.dof] += self.mass_kg * pull


def engine() -> str:
    """Name and version of what simulates here."""
    return f"mujoco {mujoco.mj_versionString()}"


def simulate(scene: BuiltScene) -> Trajectory:
    """Integrate, and refuse what is not physical.

    Raises:
        UnstableSimulation: MuJoCo warned, an edge is stretched or a volume changed beyond what is accepted, a
            shell turned inside out, or something fell through the floor.
    """
    setup: Setup = scene.setup

    def control(model: mujoco.MjModel, data: mujoco.MjData) -> None:
        loads.apply(model, data, setup.loads)
        for drive in setup.drives:
            drive.apply(data)
        for time_s, equality in setup.releases:
            if data.time >= time_s:
                data.eq_active[equality] = 0

    needs_control = setup.loads or setup.drives or setup.releases
    try:
        trajectory = simulation.simulate(scene, control if needs_control else None)
    except ShellInverted as error:
        raise UnstableSimulation(str(error)) from error
    lines = {index: rope_points(scene, trajectory, index) for index in setup.ropes}
    _check(scene, trajectory, lines)
    tubes = []
    for index, points in lines.items():
        vertices, faces = meshes.tube_around(points, setup.ropes[index])
        tubes.append(Mesh(object_index=index, vertices_m=vertices, faces=faces))
    return replace(
        trajectory,
        meshes=tuple(sorted((*trajectory.meshes, *tubes), key=lambda mesh: mesh.object_index)),
    )


def rope_points(scene: BuiltScene, trajectory: Trajectory, index: int) -> np.ndarray:
    """Points (frames, points, 3) of a rope's line."""
    model, data = scene.model, mujoco.MjData(scene.model)
    points = []
    for qpos in trajectory.qpos:
        data.qpos[:] = qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_flex(model, data)
        points.append(flex.vertices(model, data, f"object{index}"))
    return np.stack(points)


def _check(scene: BuiltScene, trajectory: Trajectory, lines: Mapping[int, np.ndarray]) -> None:
    setup: Setup = scene.setup
    name = f"{scene.spec.family} seed {scene.spec.seed}"
    points = {mesh.object_index: mesh.vertices_m for mesh in trajectory.meshes} | dict(lines)
    for index, elements in setup.elements.items():
        place = points[index]
        if index in setup.surfaces:
            volume = np.array([meshes.enclosed_volume(p, setup.surfaces[index]) for p in place])
            ratio = volume / volume[0]
            if ratio.min() < VOLUME_RANGE[0] or ratio.max() > VOLUME_RANGE[1]:
                raise UnstableSimulation(
                    f"{name}: the volume of object {index} went to {ratio.min():.2f} to {ratio.max():.2f} of "
                    f"its first; accepted is {VOLUME_RANGE}"
                )
        if elements.shape[1] == 4:
            if min(meshes.volumes(p, elements).min() for p in place) <= 0:
                raise UnstableSimulation(f"{name}: an element of object {index} turned inside out")
        else:
            edges = meshes.edges(elements)
            length = np.linalg.norm(place[:, edges[:, 0]] - place[:, edges[:, 1]], axis=2)
            strain = length / length[0] - 1
            if strain.max() > MAX_STRAIN:
                raise UnstableSimulation(
                    f"{name}: an edge of object {index} stretched by {strain.max():.2f}, above {MAX_STRAIN}"
                )
        if place[..., 2].min() < -0.05:
            raise UnstableSimulation(f"{name}: object {index} fell through the floor")
