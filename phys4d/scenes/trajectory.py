"""What a simulation leaves behind, the same for every category: poses, deforming meshes, particles, fields.

The renderer, the annotations and the reward read nothing else of a simulation. Metres, world frame.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64


class UnstableSimulation(ValueError):
    """The integrator warned, a state is not finite, or a category's own invariant is broken."""

    def __init__(self, message: str, *, reason: str = "unstable") -> None:
        """
        Args:
            reason: what a refused draw is counted as.
        """
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True, eq=False)
class Mesh:
    """The surface of one object that bends: a triangle mesh whose points move with the material."""

    object_index: int
    """Which object of the scene, from 0."""
    vertices_m: Float64[np.ndarray, "frames vertices 3"]
    faces: Int64[np.ndarray, "faces 3"]
    """Vertex indices; seen from both sides."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Particles:
    """Grains, liquid or other material as spheres that move with it."""

    object_index: Int64[np.ndarray, " particles"]
    """Which object of the scene each belongs to, from 0."""
    position_m: Float64[np.ndarray, "frames particles 3"]
    radius_m: Float64[np.ndarray, " particles"]
    """Radius at which the sphere is drawn and hit by rays."""
    rgb: Float32[np.ndarray, "frames particles 3"] | None = None
    """Colours in [0, 1] where they vary, by temperature say; None takes the object's."""
    velocity_m_s: Float64[np.ndarray, "frames particles 3"]
    """World."""
    scalars: Mapping[str, Float64[np.ndarray, "frames particles"]] = field(default_factory=dict)
    """`temperature` in K and `melted`, the share that is liquid, where the scene has them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """A scalar on a regular grid of cells; it is not drawn."""

    name: str
    """What it is: `temperature`."""
    unit: str
    """`K`."""
    values: Float32[np.ndarray, "frames x y z"]
    """At the cell centres."""
    origin_m: tuple[float, float, float]
    """The grid's lowest corner."""
    spacing_m: float
    """Edge of a cell."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """A simulated scene at the frames of its video; frame 0 is time 0. Objects in the order of their ids."""

    times_s: Float64[np.ndarray, " frames"]
    """Simulated time of each frame: the whole number of steps nearest to frame / fps."""
    position_m: Float64[np.ndarray, "frames objects 3"]
    """Body origins of rigid objects; centroids of meshes and of particles."""
    rotation: Float64[np.ndarray, "frames objects 3 3"]
    """World from body; the identity for what is not rigid."""
    velocity: Float64[np.ndarray, "frames objects 6"]
    """Linear velocity (m/s, world) and angular velocity (rad/s, body frame; 0 for what is not rigid)."""
    qpos: Float64[np.ndarray, "frames nq"]
    """MuJoCo's generalised positions of the scene's model, which pose its geoms; nq may be 0."""
    qvel: Float64[np.ndarray, "frames nv"]
    """MuJoCo's generalised velocities."""
    applied: Float64[np.ndarray, "frames nv"] | None = None
    """Generalised forces (N, N m) that loads and drives add in the step from each frame on; None is none."""
    equalities: Bool[np.ndarray, "frames neq"] | None = None
    """Which of the model's equality constraints hold from each frame on; None is as compiled."""
    meshes: tuple[Mesh, ...] = ()
    particles: Particles | None = None
    fields: tuple[Field, ...] = ()
    geom_rgb: Float32[np.ndarray, "frames geoms 3"] | None = None
    """Colours of the model's geoms where they vary, by temperature say; None takes their looks."""

    def at(self, frames: Int64[np.ndarray, " chosen"]) -> "Trajectory":
        """Some of the frames, in the order given; one may come twice."""
        values = {name: v[frames] for name, v in self.__dict__.items() if isinstance(v, np.ndarray)}
        grains = self.particles
        if grains is not None:
            grains = replace(
                grains,
                position_m=grains.position_m[frames],
                velocity_m_s=grains.velocity_m_s[frames],
                rgb=None if grains.rgb is None else grains.rgb[frames],
                scalars={name: v[frames] for name, v in grains.scalars.items()},
            )
        meshes = tuple(replace(mesh, vertices_m=mesh.vertices_m[frames]) for mesh in self.meshes)
        fields = tuple(replace(each, values=each.values[frames]) for each in self.fields)
        return replace(self, particles=grains, meshes=meshes, fields=fields, **values)

    def material_points(self, object_index: int) -> Float64[np.ndarray, "frames points 3"]:
        """Points that tell where an object is: its vertices, its particles, or the origin of a rigid body."""
        parts = [mesh.vertices_m for mesh in self.meshes if mesh.object_index == object_index]
        if self.particles is not None:
            mine = self.particles.object_index == object_index
            if mine.any():
                parts.append(self.particles.position_m[:, mine])
        return np.concatenate(parts, axis=1) if parts else self.position_m[:, [object_index]]
