"""Ropes, sheets, shells and soft blocks as MuJoCo flexes, built in code.

Each vertex (or each node of a soft block's cage) is a point mass with three slide joints; vertices may
instead sit on other bodies, which pins them. Flexes need `integrator = discrete`; see `configure`. They touch
the geoms that `touches_flexes` was called for, never one another.

Elastic energy is that of a Saint Venant-Kirchhoff material: per volume mu tr(E^2) + lambda / 2 tr(E)^2 of the
Green strain E; times the thickness, with lambda of plane stress, for sheets; sheets also resist bending with
Y t^3 / (12 (1 - nu^2)) per area, and ropes with Y pi r^4 / 4. Damping is the stiffness times a time
(Rayleigh).

Source: MuJoCo 4.0.1 documentation, XML reference, flex/elasticity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float, Int64

from phys4d.scenes import meshes

FLEX_BIT = 2
"""Collision bit of flexes; rigid bodies that meet flexes have it in their `conaffinity`."""
CONTACT_TIME_S = 0.01
"""Time constant of contacts with flexes; five steps of 2 ms."""


@dataclass(frozen=True, kw_only=True)
class Elasticity:
    """What a flex is made of."""

    young_pa: float
    poisson: float = 0.3
    damping_s: float = 0.005
    """Rayleigh damping: the damping matrix is this time times the stiffness matrix."""


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """Where a vertex is held: a body and a place in its frame."""

    body: str
    position_m: Sequence[float]


def configure(mjspec: mujoco.MjSpec) -> None:
    """Solver and integrator for scenes with flexes."""
    option = mjspec.option
    option.integrator = mujoco.mjtIntegrator.mjINT_DISCRETE
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.iterations, option.tolerance = 50, 1e-8


def add_rope(
    mjspec: mujoco.MjSpec,
    name: str,
    points_m: Float[np.ndarray, "points 3"],
    *,
    radius_m: float,
    density_kg_m: float,
    young_pa: float = 0.0,
    damping_s: float = 0.01,
    anchors: Mapping[int, Anchor] | None = None,
) -> mujoco.MjsFlex:
    """A rope through points; its segments keep their length, and it bends freely if `young_pa` is 0.

    The time constant of the length constraint is 5 ms: with MuJoCo's defaults a hanging rope stretches by a
    tenth.
    """
    points = np.asarray(points_m, np.float64)
    segments = np.stack([np.arange(len(points) - 1), np.arange(1, len(points))], axis=1)
    lengths = np.linalg.norm(np.diff(points, axis=0), axis=1)
    flex = _add_flex(
        mjspec,
        name,
        points,
        segments,
        mass_kg=density_kg_m * meshes.lumped(lengths, segments, len(points)),
        radius_m=radius_m,
        anchors=anchors or {},
    )
    flex.young, flex.damping = young_pa, damping_s if young_pa else 0.0
    equality = mjspec.add_equality(type=mujoco.mjtEq.mjEQ_FLEX, name1=name)
    equality.objtype = mujoco.mjtObj.mjOBJ_FLEX
    equality.solref = (0.005, 1.0)
    equality.solimp = (0.99, 0.9999, 0.0001, 0.5, 2.0)
    return flex


def add_sheet(
    mjspec: mujoco.MjSpec,
    name: str,
    points_m: Float[np.ndarray, "points 3"],
    triangles: Int64[np.ndarray, "triangles 3"],
    *,
    thickness_m: float,
    density_kg_m2: float,
    elasticity: Elasticity,
    radius_m: float = 0.008,
    bends: bool = True,
    anchors: Mapping[int, Anchor] | None = None,
) -> mujoco.MjsFlex:
    """A sheet or a closed shell that stretches and, if it `bends`, resists bending.

    Args:
        thickness_m: for stiffness and mass.
        radius_m: half the thickness that collides and is drawn.
    """
    points = np.asarray(points_m, np.float64)
    flex = _add_flex(
        mjspec,
        name,
        points,
        triangles,
        mass_kg=density_kg_m2 * meshes.lumped(meshes.areas(points, triangles), triangles, len(points)),
        radius_m=radius_m,
        anchors=anchors or {},
    )
    flex.thickness = thickness_m
    flex.elastic2d = 3 if bends else 2
    _set_elasticity(flex, elasticity)
    return flex


def add_soft_body(
    mjspec: mujoco.MjSpec,
    name: str,
    points_m: Float[np.ndarray, "points 3"],
    tetrahedra: Int64[np.ndarray, "tetrahedra 4"],
    *,
    density_kg_m3: float,
    elasticity: Elasticity,
    cells: Sequence[int] = (2, 2, 2),
    radius_m: float = 0.002,
) -> mujoco.MjsFlex:
    """A solid whose points follow a cage of trilinear cells, which carries mass and stiffness.

    Args:
        cells: cells of the cage along each axis of the points' bounding box, which is aligned with the world.
    """
    points = np.asarray(points_m, np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    axes = [np.linspace(a, b, n + 1) for a, b, n in zip(low, high, cells, strict=True)]
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    mass = density_kg_m3 * _node_volumes(points, tetrahedra, low, high, cells)
    flex = mjspec.add_flex(name=name, dim=3, radius=radius_m, flatskin=False)
    flex.vert = points.ravel().tolist()
    flex.vertbody = ["world"] * len(points)
    flex.elem = tetrahedra.ravel().tolist()
    flex.cellcount = list(cells)
    flex.order = 1
    flex.nodebody = _add_points(mjspec, name, nodes, mass, {})
    _set_contact(flex)
    _set_elasticity(flex, elasticity)
    return flex


def touches_flexes(geom: mujoco.MjsGeom, friction: float) -> None:
    """Let a rigid body's geom collide with flexes, with its own friction."""
    geom.conaffinity |= FLEX_BIT
    geom.priority, geom.condim = 1, 3
    geom.friction = (friction, 0.005, 0.0001)
    geom.solref, geom.solimp = (CONTACT_TIME_S, 1.0), (0.95, 0.99, 0.001, 0.5, 2.0)


def flex_id(model: mujoco.MjModel, name: str) -> int:
    """Index of a flex."""
    index = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_FLEX, name)
    if index < 0:
        raise ValueError(f"the model has no flex {name!r}")
    return index


def vertices(model: mujoco.MjModel, data: mujoco.MjData, name: str) -> Float[np.ndarray, "vertices 3"]:
    """Positions of a flex's vertices in the world, as of the last forward pass."""
    flex = flex_id(model, name)
    first = model.flex_vertadr[flex]
    return data.flexvert_xpos[first : first + model.flex_vertnum[flex]].copy()


def dofs_of_vertices(model: mujoco.MjModel, name: str) -> Int64[np.ndarray, " vertices"]:
    """First of the three velocities of each free vertex of a rope or sheet; -1 where it is anchored."""
    flex = flex_id(model, name)
    first = model.flex_vertadr[flex]
    bodies = model.flex_vertbodyid[first : first + model.flex_vertnum[flex]]
    # Points are the bodies with three joints of their own and no geom; anchors are on the world or rigid
    # bodies.
    free = (model.body_dofnum[bodies] == 3) & (model.body_geomnum[bodies] == 0)
    return np.where(free, model.body_dofadr[bodies], -1).astype(np.int64)


def set_velocity(
    model: mujoco.MjModel, data: mujoco.MjData, name: str, velocity_m_s: Float[np.ndarray, "*points 3"]
) -> None:
    """Give the vertices of a flex (or the nodes of a soft body) a velocity, one for all or one each."""
    flex = flex_id(model, name)
    if model.flex_interp[flex]:
        first = model.flex_nodeadr[flex]
        bodies = model.flex_nodebodyid[first : first + model.flex_nodenum[flex]]
        adr = model.body_dofadr[bodies].astype(np.int64)
    else:
        adr = dofs_of_vertices(model, name)
    values = np.broadcast_to(np.asarray(velocity_m_s, np.float64), (len(adr), 3))
    data.qvel[adr[adr >= 0, None] + np.arange(3)] = values[adr >= 0]


def _add_flex(
    mjspec: mujoco.MjSpec,
    name: str,
    points: np.ndarray,
    elements: np.ndarray,
    *,
    mass_kg: np.ndarray,
    radius_m: float,
    anchors: Mapping[int, Anchor],
) -> mujoco.MjsFlex:
    flex = mjspec.add_flex(name=name, dim=elements.shape[1] - 1, radius=radius_m)
    flex.vertbody = _add_points(mjspec, name, points, mass_kg, anchors)
    if anchors:
        local = np.zeros_like(points)
        for index, anchor in anchors.items():
            local[index] = anchor.position_m
        flex.vert = local.ravel().tolist()
    flex.elem = elements.ravel().tolist()
    _set_contact(flex)
    return flex


def _add_points(
    mjspec: mujoco.MjSpec,
    name: str,
    points: np.ndarray,
    mass_kg: np.ndarray,
    anchors: Mapping[int, Anchor],
) -> list[str]:
    """A point mass with three slide joints for each point that is not anchored; the bodies' names."""
    names = []
    for index, (point, mass) in enumerate(zip(points, mass_kg, strict=True)):
        if index in anchors:
            names.append(anchors[index].body)
            continue
        body = mjspec.worldbody.add_body(name=f"{name}_{index}", pos=point, mass=mass)
        # Slide joints never turn the body: its inertia only has to be positive.
        body.inertia, body.explicitinertial = np.full(3, 1e-6 + 1e-4 * mass), True
        for axis in np.eye(3):
            body.add_joint(type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis)
        names.append(body.name)
    return names


def _node_volumes(
    points: np.ndarray, tetrahedra: np.ndarray, low: np.ndarray, high: np.ndarray, cells: Sequence[int]
) -> np.ndarray:
    """The volume of each tetrahedron, shared among the cage's nodes by trilinear weights of its centre."""
    volume = meshes.volumes(points, tetrahedra)
    place = (points[tetrahedra].mean(axis=1) - low) / (high - low) * np.asarray(cells)
    cell = np.minimum(place.astype(int), np.asarray(cells) - 1)
    part = place - cell
    shape = tuple(n + 1 for n in cells)
    total = np.zeros(shape)
    for corner in np.ndindex(2, 2, 2):
        weight = np.prod(np.where(corner, part, 1 - part), axis=1)
        np.add.at(total, tuple((cell + corner).T), weight * volume)
    # A corner of the cage far from a round body would weigh next to nothing and shake.
    return np.maximum(total, 0.02 * total.max()).ravel()


def _set_contact(flex: mujoco.MjsFlex) -> None:
    flex.contype, flex.conaffinity, flex.condim = FLEX_BIT, 0, 3
    flex.selfcollide = mujoco.mjtFlexSelf.mjFLEXSELF_NONE
    flex.solref, flex.solimp = (CONTACT_TIME_S, 1.0), (0.95, 0.99, 0.001, 0.5, 2.0)


def _set_elasticity(flex: mujoco.MjsFlex, elasticity: Elasticity) -> None:
    flex.young, flex.poisson = elasticity.young_pa, elasticity.poisson
    flex.damping = elasticity.damping_s
