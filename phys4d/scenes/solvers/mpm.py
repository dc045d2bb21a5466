"""Liquids, sand and melting solids as material points (MLS-MPM), in three dimensions.

Equations, with velocity v, density rho, Cauchy stress sigma and body acceleration g:

    rho Dv/Dt = div sigma + g rho,   mass is carried by the particles

* `Liquid`: sigma = -p I + mu (grad v + grad v^T), p = K/7 ((rho/rho0)^7 - 1), no tension (Tait 1888). Weakly
  compressible: choose K so that the speed of sound is about ten times the flow's; density then varies by 1 %.
* `Sand`: Hencky elasticity with Drucker-Prager yield |dev sigma| <= sqrt(2) tan(phi) p, no cohesion: in
  simple shear the ratio of shear to normal stress is that of the angle of internal friction phi.
* `Meltable`: Hencky elasticity, von Mises yield stress Y (1 - f)^2, viscosity f mu; f is the melted share.

Space: APIC transfers with quadratic B-splines; time: symplectic Euler. Limits: no surface tension; no air;
solids and tank act on nodes, so they are resolved to about one cell; sand's toe and thin sheets are not
resolved. Balls are rigid spheres coupled both ways by the nodes up to half a cell around them: they float as
deep as they should to 0.2 cells from a radius of three cells on, and 0.8 cells too deep at two. The transfers
take energy from small eddies: in a vortex of radius N cells they act like a viscosity of about 0.05 cell^2 /
(step N^2).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from phys4d.scenes.solvers import mpm_kernels as kernels
from phys4d.scenes.solvers import mpm_stress as stress
from phys4d.scenes.solvers.materials import Material, positive

PAD = 3
"""Cells around the tank, so that every particle's 27 nodes exist."""
COURANT = 0.5
"""Largest share of a cell that a sound wave may cross in a step."""
MAX_CELLS = 4_000_000
MAX_PARTICLES = 1_000_000

Points = Float64[np.ndarray, "points 3"]


class LeftGrid(ValueError):
    """A particle left the grid, moved by a cell within a step or is not finite."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ball:
    """A rigid sphere that moves with the material."""

    position_m: tuple[float, float, float]
    velocity_m_s: tuple[float, float, float] = (0.0, 0.0, 0.0)
    radius_m: float
    mass_kg: float

    def __post_init__(self) -> None:
        positive(radius_m=self.radius_m, mass_kg=self.mass_kg)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Tank:
    """A box with walls, floor and lid, and what stands in it."""

    origin_m: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Lower corner in the world."""
    size_m: tuple[float, float, float]
    """Inner extents."""
    cell_m: float
    """Cell size of the grid."""
    friction: float = 0.0
    """Coulomb friction of material on the floor and on solids; 0 slips, infinity sticks."""
    wall_friction: float = 0.0
    """The same on the walls and the lid."""
    solid: Callable[[Points], Float64[np.ndarray, " points"]] | None = None
    """Signed distance to fixed solids in metres at world points, negative inside."""

    def __post_init__(self) -> None:
        positive(cell_m=self.cell_m, **{f"size_m[{i}]": s for i, s in enumerate(self.size_m)})
        if not min(self.friction, self.wall_friction) >= 0:
            raise ValueError(
                f"friction and wall_friction must be 0 or more, got {self.friction} and {self.wall_friction}"
            )
        if math.prod(self.shape) > MAX_CELLS:
            raise ValueError(
                f"a tank of {self.size_m} m with cells of {self.cell_m} m needs {math.prod(self.shape)} "
                f"nodes, at most {MAX_CELLS} are allowed; take larger cells"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Nodes along each axis."""
        nx, ny, nz = (math.ceil(s / self.cell_m - 1e-9) + 1 + 2 * PAD for s in self.size_m)
        return nx, ny, nz

    def boundary(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Signed distance of every node to walls and solids, their outward normal and friction."""
        axes = [(np.arange(n) - PAD) * self.cell_m for n in self.shape]
        place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        sides = np.concatenate([place, np.asarray(self.size_m) - place], axis=-1)
        nearest = sides.argmin(axis=-1)
        distance = np.take_along_axis(sides, nearest[..., None], axis=-1)[..., 0]
        normal = np.concatenate([np.eye(3), -np.eye(3)])[nearest]
        friction = np.where(nearest == 2, float(self.friction), float(self.wall_friction))
        if self.solid is not None:
            points = place.reshape(-1, 3) + np.asarray(self.origin_m)
            other = self.solid(points)
            h = 1e-3 * self.cell_m
            slope = np.stack([self.solid(points + h * e) - self.solid(points - h * e) for e in np.eye(3)], -1)
            length = np.linalg.norm(slope, axis=-1, keepdims=True)
            slope = np.where(length > 0, slope / np.maximum(length, 1e-300), [0.0, 0.0, 1.0])
            other, slope = other.reshape(distance.shape), slope.reshape(normal.shape)
            # Behind a wall the wall decides, so that a solid that crosses it does not hide it.
            nearer = (other < distance) & (distance > 1e-9 * self.cell_m)
            normal = np.where(nearer[..., None], slope, normal)
            distance = np.where(nearer, other, distance)
            friction = np.where(nearer, float(self.friction), friction)
        return distance - 1e-9 * self.cell_m, np.ascontiguousarray(normal), friction


@dataclass(kw_only=True, eq=False)
class MaterialPoints:
    """Particles in a tank, and the balls that move with them."""

    tank: Tank
    materials: Sequence[Material]
    material: np.ndarray
    """Index into `materials` of each particle."""
    position_m: Points
    """In the world; `advance` replaces it."""
    velocity_m_s: Points
    """In the world; `advance` replaces it."""
    spacing_m: float
    """Distance of neighbours at rest; each particle has the volume spacing^3."""
    timestep_s: float
    balls: Sequence[Ball] = ()
    ball_friction: float = 0.0
    ball_bounce: float = 0.3
    time_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        count = len(self.position_m)
        if not 1 <= count <= MAX_PARTICLES:
            raise ValueError(f"there must be 1 to {MAX_PARTICLES} particles, got {count}")
        positive(spacing_m=self.spacing_m, timestep_s=self.timestep_s)
        if not 0.2 <= self.spacing_m / self.tank.cell_m <= 1:
            raise ValueError(
                f"spacing_m must be 0.2 to 1 of cell_m, got {self.spacing_m} with cells of {self.tank.cell_m}"
            )
        self._shift = np.asarray(self.tank.origin_m, np.float64) - PAD * self.tank.cell_m
        self._x = np.ascontiguousarray(np.asarray(self.position_m, np.float64) - self._shift)
        self._v = np.array(self.velocity_m_s, np.float64, order="C")
        self._c = np.zeros((count, 3, 3))
        self.material = np.asarray(self.material, np.int64)
        self._table = np.array([m.row for m in self.materials])
        density = np.array([m.density_kg_m3 for m in self.materials])[self.material]
        self.volume_m3 = np.full(count, self.spacing_m**3)
        self.mass_kg = density * self.volume_m3
        self.liquid_share = np.zeros(count)
        is_liquid = self._table[self.material, stress.KIND] == stress.LIQUID
        self._ratio = np.where(is_liquid, 1.0, 0.0)
        self._b = np.tile(np.eye(3), (count, 1, 1))
        self._stress = np.zeros((count, 3, 3))
        self._distance, self._normal, self._friction = self.tank.boundary()
        self._grid = np.zeros((*self.tank.shape, 4))
        still, level = (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0)
        self._balls = np.array(
            [
                [
                    *(np.asarray(b.position_m) - self._shift),
                    *b.velocity_m_s,
                    *still,
                    b.radius_m,
                    b.mass_kg,
                    *level,
                ]
                for b in self.balls
            ],
            np.float64,
        ).reshape(-1, 15)
        limit = self.stable_timestep_s(self.tank, self.materials)
        if self.timestep_s > limit:
            raise ValueError(
                f"timestep_s must be at most {limit:.3g} for cells of {self.tank.cell_m} m "
                f"and these materials, got {self.timestep_s}"
            )

    @staticmethod
    def stable_timestep_s(tank: Tank, materials: Sequence[Material]) -> float:
        """Longest step that sound and viscosity allow."""
        limit = math.inf
        for m in materials:
            limit = min(limit, COURANT * tank.cell_m / m.sound_m_s)
            viscosity = m.row[stress.VISCOSITY]
            if viscosity > 0:
                limit = min(limit, 0.15 * tank.cell_m**2 * m.density_kg_m3 / viscosity)
        return limit

    def advance(self, num_steps: int, gravity_m_s2: Sequence[float] = (0.0, 0.0, -9.81)) -> None:
        """Take steps under a constant body acceleration.

        Raises:
            LeftGrid: a particle left the grid: the time step was too long or the scene too violent.
        """
        gravity = np.asarray(gravity_m_s2, np.float64)
        bottom = np.full(3, PAD * self.tank.cell_m)
        top = bottom + np.asarray(self.tank.size_m)
        taken = kernels.advance(
            num_steps,
            self.timestep_s,
            self.tank.cell_m,
            len(self._x),
            self._x,
            self._v,
            self._c,
            self.mass_kg,
            self.volume_m3,
            self.material,
            self.liquid_share,
            self._ratio,
            self._b,
            self._stress,
            self._table,
            self._grid,
            self._distance,
            self._normal,
            self._balls,
            bottom,
            top,
            gravity,
            self._friction,
            float(self.ball_friction),
            float(self.ball_bounce),
        )
        self.time_s += taken * self.timestep_s
        if taken < num_steps:
            raise LeftGrid(f"a particle left the grid at {self.time_s:.4f} s, or moved by a cell in a step")
        self.position_m = self._x + self._shift
        self.velocity_m_s = self._v.copy()

    @property
    def ball_position_m(self) -> Points:
        """Centres of the balls."""
        return self._balls[:, :3] + self._shift

    @property
    def ball_velocity(self) -> Float64[np.ndarray, "balls 6"]:
        """Linear velocity (m/s) and spin (rad/s), both in the world."""
        return self._balls[:, 3:9].copy()

    @property
    def ball_quaternion_wxyz(self) -> Float64[np.ndarray, "balls 4"]:
        """World from ball."""
        return self._balls[:, 11:15].copy()

    @property
    def momentum_kg_m_s(self) -> Float64[np.ndarray, " 3"]:
        """Momentum of the particles and the balls."""
        return self.mass_kg @ self._v + self._balls[:, 10] @ self._balls[:, 3:6]

    @property
    def angular_momentum(self) -> Float64[np.ndarray, " 3"]:
        """Angular momentum of the particles about the world's origin, kg m2/s.

        The affine part is that of APIC with quadratic splines, whose inertia is cell^2 / 4.
        """
        inertia, c = 0.25 * self.tank.cell_m**2, self._c
        orbit = np.cross(self._x + self._shift, self._v)
        spin = inertia * np.stack(
            [c[:, 2, 1] - c[:, 1, 2], c[:, 0, 2] - c[:, 2, 0], c[:, 1, 0] - c[:, 0, 1]], axis=-1
        )
        return self.mass_kg @ (orbit + spin)

    @property
    def mean_compression(self) -> float:
        """Mean of 1 - J over the liquid particles; 0 where there is none."""
        liquid = self._table[self.material, stress.KIND] == stress.LIQUID
        return float(1 - self._ratio[liquid].mean()) if liquid.any() else 0.0

    @property
    def pressure_pa(self) -> Float64[np.ndarray, " particles"]:
        """Mean compressive stress of the last step."""
        return -np.trace(self._stress, axis1=1, axis2=2) / 3


def fill(
    inside: Callable[[Points], np.ndarray],
    low_m: Sequence[float],
    high_m: Sequence[float],
    spacing_m: float,
) -> Points:
    """Points of a cubic lattice in a box, half a spacing from its sides, where `inside` is true."""
    axes = [
        np.arange(a + 0.5 * spacing_m, b - 0.25 * spacing_m, spacing_m)
        for a, b in zip(low_m, high_m, strict=True)
    ]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return points[np.asarray(inside(points), bool)]
