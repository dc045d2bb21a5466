"""Hot air in a closed box under Boussinesq's approximation, with smoke that goes with it.

    Dv/Dt = -grad p / rho0 + nu laplace v + g beta (T - T0) e_z,   div v = 0,   DT/Dt = kappa laplace T

Staggered (MAC) grid. Momentum by semi-Lagrangian advection with MacCormack's correction, limited to the
values around; temperature by conservative upwind fluxes with van Leer's limiter, so that heat is neither
made nor lost; pressure by a cosine transform, so that div v = 0 to rounding. Walls slip and insulate.
Limits: |T - T0| well below T0 (about 30 K in air), advection damps unresolved eddies, the box has no
openings.

Source: Bridson, Fluid Simulation for Computer Graphics, 2nd ed., chapters 3 to 6; Selle et al., An
Unconditionally Stable MacCormack Method, J. Sci. Comput. (2008); van Leer, J. Comput. Phys. 14 (1974).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import scipy.fft
from jaxtyping import Float64

from phys4d.scenes.solvers.jit import compiled

COURANT = 0.3
"""Largest share of a cell that air may cross in a step along an axis; unsplit fluxes need a sum below 1."""


@compiled
def sample(field: np.ndarray, x: float, y: float, z: float) -> float:
    """Trilinear value at a place in samples, clamped to the grid."""
    nx, ny, nz = field.shape
    x = min(max(x, 0.0), nx - 1.0)
    y = min(max(y, 0.0), ny - 1.0)
    z = min(max(z, 0.0), nz - 1.0)
    i, j, k = min(int(x), max(nx - 2, 0)), min(int(y), max(ny - 2, 0)), min(int(z), max(nz - 2, 0))
    fx, fy, fz = x - i, y - j, z - k
    a, b, c = min(i + 1, nx - 1), min(j + 1, ny - 1), min(k + 1, nz - 1)
    low = (field[i, j, k] * (1 - fx) + field[a, j, k] * fx) * (1 - fy) + (
        field[i, b, k] * (1 - fx) + field[a, b, k] * fx
    ) * fy
    high = (field[i, j, c] * (1 - fx) + field[a, j, c] * fx) * (1 - fy) + (
        field[i, b, c] * (1 - fx) + field[a, b, c] * fx
    ) * fy
    return low * (1 - fz) + high * fz


@compiled
def velocity_at(u: np.ndarray, v: np.ndarray, w: np.ndarray, x: float, y: float, z: float) -> tuple:
    """Velocity at a place in cells from the box's lower corner, in the units of u, v, w."""
    return (
        sample(u, x, y - 0.5, z - 0.5),
        sample(v, x - 0.5, y, z - 0.5),
        sample(w, x - 0.5, y - 0.5, z),
    )


@compiled
def trace_back(
    field: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    w: np.ndarray,
    ox: float,
    oy: float,
    oz: float,
    dt: float,
    out: np.ndarray,
) -> None:
    """Semi-Lagrangian step (midpoint rule) of samples that lie at index + offset cells; dt in cells."""
    for i in range(field.shape[0]):
        for j in range(field.shape[1]):
            for k in range(field.shape[2]):
                x, y, z = i + ox, j + oy, k + oz
                a, b, c = velocity_at(u, v, w, x, y, z)
                a, b, c = velocity_at(u, v, w, x - 0.5 * dt * a, y - 0.5 * dt * b, z - 0.5 * dt * c)
                out[i, j, k] = sample(field, x - dt * a - ox, y - dt * b - oy, z - dt * c - oz)


@compiled
def correct(
    field: np.ndarray,
    forward: np.ndarray,
    back: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    w: np.ndarray,
    ox: float,
    oy: float,
    oz: float,
    dt: float,
) -> None:
    """MacCormack: add half the error of going there and back, within the range of what was traced."""
    nx, ny, nz = field.shape
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                x, y, z = i + ox, j + oy, k + oz
                a, b, c = velocity_at(u, v, w, x, y, z)
                a, b, c = velocity_at(u, v, w, x - 0.5 * dt * a, y - 0.5 * dt * b, z - 0.5 * dt * c)
                px = min(max(x - dt * a - ox, 0.0), nx - 1.0)
                py = min(max(y - dt * b - oy, 0.0), ny - 1.0)
                pz = min(max(z - dt * c - oz, 0.0), nz - 1.0)
                low, high = math.inf, -math.inf
                for d in range(2):
                    for e in range(2):
                        for f in range(2):
                            value = field[
                                min(int(px) + d, nx - 1), min(int(py) + e, ny - 1), min(int(pz) + f, nz - 1)
                            ]
                            low, high = min(low, value), max(high, value)
                value = forward[i, j, k] + 0.5 * (field[i, j, k] - back[i, j, k])
                if low <= value <= high:
                    forward[i, j, k] = value


@compiled
def limited_slope(left: float, here: float, right: float) -> float:
    """Van Leer's slope."""
    a, b = here - left, right - here
    return 2.0 * a * b / (a + b) if a * b > 0.0 else 0.0


@compiled
def carry(
    t: np.ndarray, speed: np.ndarray, axis: int, courant: float, diffusion: float, out: np.ndarray
) -> None:
    """Add to `out` what the fluxes of `t` along one axis bring; walls let nothing through.

    Args:
        courant: dt / dx; speed is in m/s at the faces.
        diffusion: kappa dt / dx^2.
    """
    nx, ny, nz = t.shape
    n = t.shape[axis]
    di, dj, dk = int(axis == 0), int(axis == 1), int(axis == 2)
    for i in range(nx - di):
        for j in range(ny - dj):
            for k in range(nz - dk):
                s = speed[i + di, j + dj, k + dk] * courant
                a, b = t[i, j, k], t[i + di, j + dj, k + dk]
                index = i if axis == 0 else (j if axis == 1 else k)
                before = t[i - di, j - dj, k - dk] if index > 0 else a
                after = t[i + 2 * di, j + 2 * dj, k + 2 * dk] if index + 2 < n else b
                if s >= 0.0:
                    flux = s * (a + 0.5 * (1.0 - s) * limited_slope(before, a, b))
                else:
                    flux = s * (b - 0.5 * (1.0 + s) * limited_slope(a, b, after))
                flux -= diffusion * (b - a)
                out[i, j, k] -= flux
                out[i + di, j + dj, k + dk] += flux


@compiled
def drift(points: np.ndarray, u: np.ndarray, v: np.ndarray, w: np.ndarray, dt: float, dx: float) -> None:
    """Move tracers with the air (midpoint rule) and keep them in the box."""
    nx, ny, nz = v.shape[0], u.shape[1], u.shape[2]
    for p in range(len(points)):
        x, y, z = points[p, 0] / dx, points[p, 1] / dx, points[p, 2] / dx
        a, b, c = velocity_at(u, v, w, x, y, z)
        h = 0.5 * dt / dx
        a, b, c = velocity_at(u, v, w, x + h * a, y + h * b, z + h * c)
        points[p, 0] = min(max(points[p, 0] + dt * a, 0.0), nx * dx)
        points[p, 1] = min(max(points[p, 1] + dt * b, 0.0), ny * dx)
        points[p, 2] = min(max(points[p, 2] + dt * c, 0.0), nz * dx)


@compiled
def velocities_at(
    points: np.ndarray, u: np.ndarray, v: np.ndarray, w: np.ndarray, dx: float, out: np.ndarray
) -> None:
    """Velocity of the air at points in metres."""
    for p in range(len(points)):
        out[p, 0], out[p, 1], out[p, 2] = velocity_at(
            u, v, w, points[p, 0] / dx, points[p, 1] / dx, points[p, 2] / dx
        )


@dataclass(kw_only=True, eq=False)
class HotAir:
    """Air in a box whose lower corner is the origin."""

    warmth_k: Float64[np.ndarray, "nx ny nz"]
    """T - T0 in each cell, kelvin."""
    cell_m: float
    expansion_1_k: float = 1 / 293.15
    """Thermal expansion beta; an ideal gas has 1 / T0."""
    viscosity_m2_s: float = 1.5e-5
    diffusivity_m2_s: float = 2.1e-5
    gravity_m_s2: float = 9.81
    heat_k_s: Float64[np.ndarray, "nx ny nz"] | None = None
    """Warming of each cell by a heater, kelvin per second."""
    tracers_m: Float64[np.ndarray, "tracers 3"] = field(default_factory=lambda: np.zeros((0, 3)))
    """Smoke particles without weight."""
    time_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self.warmth_k = np.array(self.warmth_k, np.float64, order="C")
        if self.warmth_k.ndim != 3 or min(self.warmth_k.shape) < 4:
            raise ValueError(f"warmth_k must have 3 axes of at least 4 cells, got {self.warmth_k.shape}")
        for name in ("cell_m", "expansion_1_k", "gravity_m_s2"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if min(self.viscosity_m2_s, self.diffusivity_m2_s) < 0:
            raise ValueError(
                "viscosity_m2_s and diffusivity_m2_s must be 0 or more, "
                f"got {self.viscosity_m2_s} and {self.diffusivity_m2_s}"
            )
        self.tracers_m = np.array(self.tracers_m, np.float64, order="C")
        nx, ny, nz = self.warmth_k.shape
        self.u, self.v, self.w = (
            np.zeros((nx + 1, ny, nz)),
            np.zeros((nx, ny + 1, nz)),
            np.zeros((nx, ny, nz + 1)),
        )
        modes = [(2 * np.cos(np.pi * np.arange(n) / n) - 2) / self.cell_m**2 for n in (nx, ny, nz)]
        self._laplace = modes[0][:, None, None] + modes[1][:, None] + modes[2]
        self._laplace[0, 0, 0] = 1.0

    @property
    def fastest_m_s(self) -> float:
        """Largest velocity component."""
        return float(max(np.abs(f).max() for f in (self.u, self.v, self.w)))

    def tracer_velocity_m_s(self) -> Float64[np.ndarray, "tracers 3"]:
        """Velocity of the air where the tracers are."""
        out = np.empty_like(self.tracers_m)
        velocities_at(self.tracers_m, self.u, self.v, self.w, self.cell_m, out)
        return out

    def divergence(self) -> Float64[np.ndarray, "nx ny nz"]:
        """Outflow of each cell per volume, 1/s."""
        return (np.diff(self.u, axis=0) + np.diff(self.v, axis=1) + np.diff(self.w, axis=2)) / self.cell_m

    def advance(self, duration_s: float, *, longest_step_s: float = 0.02) -> None:
        """Let the air move for a time, in steps of at most 0.3 cells."""
        end = self.time_s + duration_s
        while end - self.time_s > 1e-12:
            rise = float(np.abs(self.warmth_k).max()) * self.gravity_m_s2 * self.expansion_1_k
            # The speed at the end of the step counts: v + a dt.
            allowed = COURANT * self.cell_m
            speed = self.fastest_m_s
            step_s = 2 * allowed / (speed + math.sqrt(speed**2 + 4 * rise * allowed) + 1e-12)
            slow = max(self.viscosity_m2_s, self.diffusivity_m2_s)
            if slow > 0:
                step_s = min(step_s, self.cell_m**2 / (8 * slow))
            left = end - self.time_s
            steps = math.ceil(left / min(step_s, longest_step_s) - 1e-9)
            self._step(left / max(steps, 1))
        self.time_s = end

    def _step(self, dt: float) -> None:
        dx = self.cell_m
        if self.heat_k_s is not None:
            self.warmth_k += dt * self.heat_k_s
        warmth = self.warmth_k.copy()
        for axis, speed in enumerate((self.u, self.v, self.w)):
            carry(self.warmth_k, speed, axis, dt / dx, self.diffusivity_m2_s * dt / dx**2, warmth)
        if len(self.tracers_m):
            drift(self.tracers_m, self.u, self.v, self.w, dt, dx)
        moved = []
        for field_, offset in (
            (self.u, (0.0, 0.5, 0.5)),
            (self.v, (0.5, 0.0, 0.5)),
            (self.w, (0.5, 0.5, 0.0)),
        ):
            moved.append(self._carry_velocity(field_, offset, dt / dx))
        self.u, self.v, self.w = moved
        self.warmth_k = warmth
        lift = self.gravity_m_s2 * self.expansion_1_k * dt
        self.w[:, :, 1:-1] += lift * 0.5 * (warmth[:, :, 1:] + warmth[:, :, :-1])
        self._project()
        self.time_s += dt

    def _carry_velocity(self, values: np.ndarray, offset: Sequence[float], dt_over_dx: float) -> np.ndarray:
        forward, back = np.empty_like(values), np.empty_like(values)
        trace_back(values, self.u, self.v, self.w, *offset, dt_over_dx, forward)
        trace_back(forward, self.u, self.v, self.w, *offset, -dt_over_dx, back)
        correct(values, forward, back, self.u, self.v, self.w, *offset, dt_over_dx)
        if self.viscosity_m2_s > 0:
            padded = np.pad(forward, 1, mode="edge")
            around = sum((np.roll(padded, s, a) for s in (1, -1) for a in range(3)), np.zeros(()))
            change = around[1:-1, 1:-1, 1:-1] - 6 * forward
            forward = forward + self.viscosity_m2_s * dt_over_dx / self.cell_m * change
        return forward

    def _project(self) -> None:
        """Subtract the pressure's gradient, so that no cell gains or loses air."""
        for field_, axis in ((self.u, 0), (self.v, 1), (self.w, 2)):
            np.moveaxis(field_, axis, 0)[[0, -1]] = 0.0
        spectrum = np.asarray(scipy.fft.dctn(self.divergence(), type=2)) / self._laplace
        spectrum[0, 0, 0] = 0.0
        pressure: np.ndarray = scipy.fft.idctn(spectrum, type=2)  # pyright: ignore[reportAssignmentType]
        self.u[1:-1] -= np.diff(pressure, axis=0) / self.cell_m
        self.v[:, 1:-1] -= np.diff(pressure, axis=1) / self.cell_m
        self.w[:, :, 1:-1] -= np.diff(pressure, axis=2) / self.cell_m
