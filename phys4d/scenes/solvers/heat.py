"""Heat conduction in a solid block: rho c dT/dt = div(k grad T) + q.

Finite volumes on a regular grid of cells, explicit Euler in time. The flow between two cells uses the
harmonic mean of their conductivities and is taken from one and given to the other: energy is conserved to
rounding. Second order in space. Limits: fixed geometry, no phase change, no radiation.

Source: Patankar, Numerical Heat Transfer and Fluid Flow (1980), sections 4.2 and 4.4.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64

from phys4d.scenes.solvers.jit import compiled

FACES = ("-x", "+x", "-y", "+y", "-z", "+z")


@dataclass(frozen=True, kw_only=True, slots=True)
class Face:
    """What one side of the block touches; insulated unless told."""

    coefficient_w_m2_k: float = 0.0
    """Heat flow per area and kelvin to the outside; infinity holds the surface at `temperature_c`."""
    temperature_c: float = 20.0
    flux_w_m2: float = 0.0
    """Heat driven into the block per area."""

    def __post_init__(self) -> None:
        if not self.coefficient_w_m2_k >= 0:
            raise ValueError(f"coefficient_w_m2_k must be 0 or more, got {self.coefficient_w_m2_k}")
        if not (math.isfinite(self.temperature_c) and math.isfinite(self.flux_w_m2)):
            raise ValueError(
                f"temperature_c and flux_w_m2 must be finite, got {self.temperature_c}, {self.flux_w_m2}"
            )


@compiled
def step(
    temperature: np.ndarray,
    conductivity: np.ndarray,
    capacity: np.ndarray,
    source: np.ndarray,
    faces: np.ndarray,
    dx: float,
    dt: float,
    gain: np.ndarray,
) -> float:
    """One step in place; returns the heat in J that came from outside and from sources.

    Args:
        capacity: rho c in J/(m3 K).
        source: W/m3.
        faces: per side coefficient, temperature, flux.
        gain: scratch of the same shape, J per cell.
    """
    nx, ny, nz = temperature.shape
    area = dx * dx
    received = 0.0
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                heat = source[i, j, k] * dx * area * dt
                gain[i, j, k] = heat
                received += heat
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                t, here = temperature[i, j, k], conductivity[i, j, k]
                for axis in range(3):
                    a, b, c = i + (axis == 0), j + (axis == 1), k + (axis == 2)
                    if a < nx and b < ny and c < nz:
                        there = conductivity[a, b, c]
                        total = here + there
                        flow = 0.0
                        if total > 0.0:
                            flow = 2.0 * here * there / total * (temperature[a, b, c] - t) * dx * dt
                        gain[i, j, k] += flow
                        gain[a, b, c] -= flow
                    index = i if axis == 0 else (j if axis == 1 else k)
                    last = (nx if axis == 0 else (ny if axis == 1 else nz)) - 1
                    for side in range(2):
                        if index != (0 if side == 0 else last):
                            continue
                        f = faces[2 * axis + side]
                        # Film and half a cell of the block, one after the other.
                        conductance = 0.0
                        if f[0] > 0.0 and here > 0.0:
                            conductance = 1.0 / (1.0 / f[0] + 0.5 * dx / here)
                        heat = (conductance * (f[1] - t) + f[2]) * area * dt
                        gain[i, j, k] += heat
                        received += heat
    for i in range(nx):
        for j in range(ny):
            for k in range(nz):
                temperature[i, j, k] += gain[i, j, k] / (capacity[i, j, k] * dx * area)
    return received


def stable_timestep_s(cell_m: float, conductivity_w_m_k: float, capacity_j_m3_k: float) -> float:
    """Longest step at which no cell overshoots its neighbours, with every side held at a temperature."""
    fastest = conductivity_w_m_k / capacity_j_m3_k
    return math.inf if fastest == 0 else cell_m**2 / (12 * fastest)


@dataclass(kw_only=True, eq=False)
class HeatBlock:
    """A block of cubic cells."""

    temperature_c: Float64[np.ndarray, "nx ny nz"]
    cell_m: float
    conductivity_w_m_k: Float64[np.ndarray, "nx ny nz"] | float
    capacity_j_m3_k: Float64[np.ndarray, "nx ny nz"] | float
    """Density times specific heat."""
    source_w_m3: Float64[np.ndarray, "nx ny nz"] | float = 0.0
    faces: dict[str, Face] = field(default_factory=dict)
    """Sides by name (`-x` ... `+z`); the others are insulated."""
    received_j: float = field(default=0.0, init=False)
    """Heat from outside and from sources since the start."""

    def __post_init__(self) -> None:
        self.temperature_c = np.array(self.temperature_c, np.float64, order="C")
        if self.temperature_c.ndim != 3 or self.temperature_c.size == 0:
            raise ValueError(f"temperature_c must be a grid of 3 axes, got shape {self.temperature_c.shape}")
        if not (math.isfinite(self.cell_m) and self.cell_m > 0):
            raise ValueError(f"cell_m must be positive, got {self.cell_m}")
        unknown = set(self.faces) - set(FACES)
        if unknown:
            raise ValueError(f"faces are named {', '.join(FACES)}, got {', '.join(sorted(unknown))}")
        shape = self.temperature_c.shape
        self._k = np.array(np.broadcast_to(self.conductivity_w_m_k, shape), np.float64)
        self._capacity = np.array(np.broadcast_to(self.capacity_j_m3_k, shape), np.float64)
        self._source = np.array(np.broadcast_to(self.source_w_m3, shape), np.float64)
        if self._k.min() < 0 or self._capacity.min() <= 0:
            raise ValueError(
                "conductivity_w_m_k must not be negative and capacity_j_m3_k must be positive, "
                f"got {self._k.min()} and {self._capacity.min()}"
            )
        sides = [self.faces.get(name, Face()) for name in FACES]
        self._faces = np.array(
            [[f.coefficient_w_m2_k, f.temperature_c, f.flux_w_m2] for f in sides], np.float64
        )
        self._gain = np.zeros(shape)

    @property
    def energy_j(self) -> float:
        """Heat content above 0 degrees Celsius."""
        return float((self.temperature_c * self._capacity).sum()) * self.cell_m**3

    def stable_timestep_s(self) -> float:
        """Longest step at which no cell overshoots its neighbours."""
        return stable_timestep_s(self.cell_m, float(self._k.max()), float(self._capacity.min()))

    def advance(self, duration_s: float, *, longest_step_s: float = math.inf) -> None:
        """Let heat flow for a time, in equal stable steps."""
        steps = max(1, math.ceil(duration_s / min(self.stable_timestep_s(), longest_step_s)))
        for _ in range(steps):
            self.received_j += step(
                self.temperature_c,
                self._k,
                self._capacity,
                self._source,
                self._faces,
                self.cell_m,
                duration_s / steps,
                self._gain,
            )
