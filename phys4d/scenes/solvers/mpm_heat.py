"""Heat flow and melting of material points: conduction, exchange with air and floor, latent heat.

Each particle carries its enthalpy per mass h in J/kg; h = 0 is the solid at its melting point Tm:

    h < 0:        T = Tm + h / c_solid
    0 <= h <= L:  T = Tm, melted share h / L
    h > L:        T = Tm + (h - L) / c_liquid

Conduction rho dh/dt = div(k grad T) is discretised on the grid as dE_i = -dt sum_p V_p k_p grad w_ip . grad
T_p with grad T_p = sum_j T_j grad w_jp. A particle's node gradients sum to 0, so no energy is made or lost.
The free surface exchanges h_c (T_outside - T) per area; a node's area is |grad(volume share)| times its
volume.

Source of the enthalpy method: Voller and Cross, Int. J. Heat Mass Transfer 24 (1981); of the discretisation:
Stomakhin et al., Augmented MPM for Phase-Change and Varied Materials (SIGGRAPH 2014), explicit in time here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from phys4d.scenes.solvers.jit import compiled
from phys4d.scenes.solvers.materials import Meltable
from phys4d.scenes.solvers.mpm import PAD, MaterialPoints
from phys4d.scenes.solvers.mpm_kernels import NODE_MASS_KG, weights

MELTING, LATENT, SOLID_HEAT, LIQUID_HEAT, CONDUCTIVITY = 0, 1, 2, 3, 4
STEPS_PER_EXCHANGE = 10
"""Steps of motion between exchanges of heat."""


@compiled
def temperatures(
    h: np.ndarray, material: np.ndarray, table: np.ndarray, temperature: np.ndarray, liquid: np.ndarray
) -> None:
    """Temperature in degrees Celsius and melted share at each enthalpy."""
    for p in range(len(h)):
        row = table[material[p]]
        if h[p] < 0.0:
            temperature[p] = row[MELTING] + h[p] / row[SOLID_HEAT]
            liquid[p] = 0.0
        elif h[p] <= row[LATENT]:
            temperature[p] = row[MELTING]
            liquid[p] = h[p] / row[LATENT]
        else:
            temperature[p] = row[MELTING] + (h[p] - row[LATENT]) / row[LIQUID_HEAT]
            liquid[p] = 1.0


@compiled
def exchange(
    x: np.ndarray,
    mass: np.ndarray,
    volume: np.ndarray,
    material: np.ndarray,
    table: np.ndarray,
    h: np.ndarray,
    temperature: np.ndarray,
    liquid: np.ndarray,
    nodes: np.ndarray,
    count: int,
    dx: float,
    dt: float,
    air: np.ndarray,
    floor: np.ndarray,
    floor_node: int,
) -> float:
    """One thermal step; returns the heat in J that came from outside.

    Args:
        h: enthalpy per mass in J/kg, updated in place.
        nodes: scratch: mass, heat capacity, mass times temperature, gained energy, gradient of volume (3).
        air, floor: exchange coefficient in W/(m2 K) and temperature in degrees Celsius.
        floor_node: nodes up to this height exchange with the floor, the others with the air.
    """
    nodes[:] = 0.0
    w = np.empty((3, 3))
    g = np.empty((3, 3))
    first = np.empty(3, np.int64)
    gain = 0.0
    for sweep in range(3):
        if sweep == 2:
            for i in range(nodes.shape[0]):
                for j in range(nodes.shape[1]):
                    for k in range(nodes.shape[2]):
                        node = nodes[i, j, k]
                        if node[0] <= NODE_MASS_KG:
                            continue
                        side = floor if k <= floor_node else air
                        area = math.sqrt(node[4] * node[4] + node[5] * node[5] + node[6] * node[6])
                        rate = side[0] * area / node[1]
                        heat = node[1] * (side[1] - node[2] / node[0]) * (1.0 - math.exp(-rate * dt))
                        node[3] += heat
                        gain += heat
        for p in range(count):
            row = table[material[p]]
            for a in range(3):
                first[a] = weights(x[p, a] / dx, w[a])
                f = x[p, a] / dx - first[a]
                g[a, 0] = (f - 1.5) / dx
                g[a, 1] = -2.0 * (f - 1.0) / dx
                g[a, 2] = (f - 0.5) / dx
            if sweep == 0:
                heat_capacity = row[LIQUID_HEAT] * liquid[p] + row[SOLID_HEAT] * (1.0 - liquid[p])
                for i in range(3):
                    for j in range(3):
                        for k in range(3):
                            node = nodes[first[0] + i, first[1] + j, first[2] + k]
                            m = w[0, i] * w[1, j] * w[2, k] * mass[p]
                            node[0] += m
                            node[1] += m * heat_capacity
                            node[2] += m * temperature[p]
                            node[4] += volume[p] * g[0, i] * w[1, j] * w[2, k]
                            node[5] += volume[p] * w[0, i] * g[1, j] * w[2, k]
                            node[6] += volume[p] * w[0, i] * w[1, j] * g[2, k]
            elif sweep == 1:
                tx, ty, tz = 0.0, 0.0, 0.0
                for i in range(3):
                    for j in range(3):
                        for k in range(3):
                            node = nodes[first[0] + i, first[1] + j, first[2] + k]
                            t = node[2] / node[0] if node[0] > NODE_MASS_KG else temperature[p]
                            tx += t * g[0, i] * w[1, j] * w[2, k]
                            ty += t * w[0, i] * g[1, j] * w[2, k]
                            tz += t * w[0, i] * w[1, j] * g[2, k]
                flow = -dt * volume[p] * row[CONDUCTIVITY]
                for i in range(3):
                    for j in range(3):
                        for k in range(3):
                            nodes[first[0] + i, first[1] + j, first[2] + k, 3] += flow * (
                                tx * g[0, i] * w[1, j] * w[2, k]
                                + ty * w[0, i] * g[1, j] * w[2, k]
                                + tz * w[0, i] * w[1, j] * g[2, k]
                            )
            else:
                for i in range(3):
                    for j in range(3):
                        for k in range(3):
                            node = nodes[first[0] + i, first[1] + j, first[2] + k]
                            if node[0] > NODE_MASS_KG:
                                h[p] += w[0, i] * w[1, j] * w[2, k] * node[3] / node[0]
    return gain


@dataclass(frozen=True, kw_only=True, slots=True)
class Outside:
    """What a surface exchanges heat with."""

    coefficient_w_m2_k: float = 0.0
    """Heat flow per area and kelvin; 0 insulates."""
    temperature_c: float = 20.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.coefficient_w_m2_k) and self.coefficient_w_m2_k >= 0):
            raise ValueError(f"coefficient_w_m2_k must be 0 or more, got {self.coefficient_w_m2_k}")


def thermal_steps(duration_s: float, cell_m: float, materials: Sequence[Meltable]) -> int:
    """Steps that explicit conduction needs for a time."""
    least = min(
        m.density_kg_m3 * min(m.solid_heat_j_kg_k, m.liquid_heat_j_kg_k) / max(m.conductivity_w_m_k, 1e-12)
        for m in materials
    )
    return max(1, math.ceil(duration_s / (0.125 * cell_m**2 * least)))


class MeltingPoints:
    """Material points, all `Meltable`, with heat; `speed_up` runs heat faster than motion (time lapse)."""

    def __init__(
        self,
        points: MaterialPoints,
        temperature_c: Float64[np.ndarray, " particles"],
        *,
        air: Outside,
        floor: Outside,
        speed_up: float = 1.0,
    ) -> None:
        rows: list[list[float]] = []
        self._materials: list[Meltable] = []
        for m in points.materials:
            if not isinstance(m, Meltable):
                raise ValueError(f"heat flows between Meltable materials, got {type(m).__name__}")
            self._materials.append(m)
            rows.append(
                [m.melting_c, m.latent_j_kg, m.solid_heat_j_kg_k, m.liquid_heat_j_kg_k, m.conductivity_w_m_k]
            )
        if not (math.isfinite(speed_up) and speed_up > 0):
            raise ValueError(f"speed_up must be positive, got {speed_up}")
        self.points, self.speed_up = points, speed_up
        self._table = np.array(rows, np.float64)
        self._air = np.array([air.coefficient_w_m2_k, air.temperature_c], np.float64)
        self._floor = np.array([floor.coefficient_w_m2_k, floor.temperature_c], np.float64)
        row = self._table[points.material]
        above = np.asarray(temperature_c, np.float64) - row[:, MELTING]
        self.enthalpy_j_kg = np.where(
            above > 0, row[:, LATENT] + row[:, LIQUID_HEAT] * above, row[:, SOLID_HEAT] * above
        )
        self.temperature_c = np.empty(len(above))
        self.received_j = 0.0
        """Heat from outside since the start."""
        self._nodes = np.zeros((*points.tank.shape, 7))
        self._refresh()

    @property
    def energy_j(self) -> float:
        """Enthalpy of all particles."""
        return float(self.points.mass_kg @ self.enthalpy_j_kg)

    @property
    def melted_kg(self) -> float:
        """Mass of melt."""
        return float(self.points.mass_kg @ self.points.liquid_share)

    def conduct(self, duration_s: float) -> None:
        """Let heat flow for a time while nothing moves, in stable steps."""
        points = self.points
        steps = thermal_steps(duration_s, points.tank.cell_m, self._materials)
        for _ in range(steps):
            self.received_j += exchange(
                points._x,
                points.mass_kg,
                points.volume_m3,
                points.material,
                self._table,
                self.enthalpy_j_kg,
                self.temperature_c,
                points.liquid_share,
                self._nodes,
                len(points._x),
                points.tank.cell_m,
                duration_s / steps,
                self._air,
                self._floor,
                PAD,
            )
            self._refresh()

    def advance(
        self,
        num_steps: int,
        *,
        steps_per_exchange: int = STEPS_PER_EXCHANGE,
        gravity_m_s2: Sequence[float] = (0.0, 0.0, -9.81),
    ) -> None:
        """Move for `num_steps` steps, with heat flowing `speed_up` times as fast."""
        while num_steps > 0:
            steps = min(steps_per_exchange, num_steps)
            self.points.advance(steps, gravity_m_s2)
            self.conduct(steps * self.points.timestep_s * self.speed_up)
            num_steps -= steps

    def _refresh(self) -> None:
        points = self.points
        temperatures(
            self.enthalpy_j_kg, points.material, self._table, self.temperature_c, points.liquid_share
        )
