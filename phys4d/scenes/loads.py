"""Forces on flexes that MuJoCo has no model of: gas in a closed shell, wind on a sheet.

A load adds to `qfrc_applied` from the state before a step; it is explicit in time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from jaxtyping import Float, Int64

from phys4d.scenes import flex, meshes

ATMOSPHERE_PA = 101_325.0
GAS_CONSTANT = 8.314462618
"""Joule per mole and kelvin."""
AIR_DENSITY_KG_M3 = 1.2


@dataclass(frozen=True, kw_only=True, eq=False)
class Gas:
    """Gas in a closed shell: the force p A n / 3 on the corners of each triangle of area A and normal n.

    The overpressure p is `overpressure_pa` at the volume V0 and temperature T0 that `rest_volume_m3` and
    `temperature_k` name. An ideal gas (`ambient_pa` = p0) then has p = (p0 + overpressure) V0 T / (V T0) - p0;
    with `ambient_pa` = 0 and `temperature_k` constant this is p V = constant. If `is_constant` the
    overpressure does not depend on V: the shell hangs on a large supply of gas.
    """

    name: str
    """Flex of the shell."""
    triangles: Int64[np.ndarray, "triangles 3"]
    overpressure_pa: float
    rest_volume_m3: float
    is_constant: bool = False
    ambient_pa: float = ATMOSPHERE_PA
    temperature_k: Callable[[float], float] = lambda time_s: 293.15
    """Temperature of the gas over time in seconds."""
    wall_damping_pa_s: float = 0.0
    """Overpressure per relative rate of volume change dV/(V dt): losses that keep the shell from ringing."""

    def overpressure(self, volume_m3: float, time_s: float) -> float:
        """p in pascal."""
        if self.is_constant:
            return self.overpressure_pa
        if volume_m3 <= 0:
            raise ShellInverted(f"flex {self.name} encloses {volume_m3:.3g} m^3 at {time_s:.3f} s")
        ratio = self.rest_volume_m3 / volume_m3 * self.temperature_k(time_s) / self.temperature_k(0.0)
        return (self.ambient_pa + self.overpressure_pa) * ratio - self.ambient_pa

    def apply(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Add the force to `qfrc_applied`."""
        points = flex.vertices(model, data, self.name)
        normal_m2 = meshes.area_vectors(points, self.triangles)
        volume = meshes.enclosed_volume(points, self.triangles)
        pressure = self.overpressure(volume, data.time)
        dofs = flex.dofs_of_vertices(model, self.name)
        share = _at_corners(normal_m2, self.triangles, len(points))
        if self.wall_damping_pa_s:
            velocity = data.qvel[dofs[:, None] + np.arange(3)]
            pressure -= self.wall_damping_pa_s * float((share * velocity).sum()) / volume
        data.qfrc_applied[dofs[:, None] + np.arange(3)] += pressure * share


class ShellInverted(ValueError):
    """A closed shell encloses no volume any more; MuJoCo itself does not warn of it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Wind:
    """Air that blows through the scene: 1/2 rho A (u . n) |u . n| n on each triangle of area A and normal n.

    u is the air's velocity relative to the triangle; the drag coefficient of 1 is that of the dynamic pressure.
    """

    name: str
    """Flex of the sheet."""
    triangles: Int64[np.ndarray, "triangles 3"]
    velocity_m_s: Sequence[float]

    def apply(self, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        """Add the force to `qfrc_applied`."""
        points = flex.vertices(model, data, self.name)
        dofs = flex.dofs_of_vertices(model, self.name)
        free = dofs >= 0
        velocity = np.zeros_like(points)
        velocity[free] = data.qvel[dofs[free, None] + np.arange(3)]
        normal_m2 = meshes.area_vectors(points, self.triangles)
        area = np.maximum(np.linalg.norm(normal_m2, axis=1), 1e-12)
        relative = np.asarray(self.velocity_m_s) - velocity[self.triangles].mean(axis=1)
        along = np.einsum("ti,ti->t", relative, normal_m2) / area
        force = 0.5 * AIR_DENSITY_KG_M3 * (along * np.abs(along))[:, None] * normal_m2
        total = _at_corners(force, self.triangles, len(points))
        data.qfrc_applied[dofs[free, None] + np.arange(3)] += total[free]


Load = Gas | Wind


def step(model: mujoco.MjModel, data: mujoco.MjData, loads: Sequence[Load], num_steps: int = 1) -> None:
    """Integrate under loads; without any this is MuJoCo's own loop."""
    if not loads:
        mujoco.mj_step(model, data, num_steps)
        return
    for _ in range(num_steps):
        data.qfrc_applied[:] = 0.0
        for load in loads:
            load.apply(model, data)
        mujoco.mj_step(model, data)


def _at_corners(
    values: Float[np.ndarray, "triangles 3"], triangles: np.ndarray, num_points: int
) -> Float[np.ndarray, "points 3"]:
    """A third of each triangle's vector to each of its corners."""
    share = np.repeat(values / 3, 3, axis=0)
    corners = triangles.ravel()
    return np.stack([np.bincount(corners, share[:, k], num_points) for k in range(3)], axis=1)
