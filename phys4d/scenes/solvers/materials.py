"""What material points are made of; `mpm` has the equations.

`row` is what the loops of `mpm_stress` read of a material: KIND, BULK, SHEAR, VISCOSITY, FRICTION, YIELD.
"""

import math
from dataclasses import dataclass

from phys4d.scenes.solvers import mpm_stress as stress


def positive(**values: float) -> None:
    """Refuse values that are not."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}")


def not_negative(**values: float) -> None:
    """Refuse values that are."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be 0 or more and finite, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Liquid:
    """Weakly compressible Newtonian liquid."""

    density_kg_m3: float = 1000.0
    """Density at rest."""
    sound_m_s: float = 25.0
    """Speed of sound, about ten times the fastest flow."""
    viscosity_pa_s: float = 0.001
    """Dynamic viscosity."""

    def __post_init__(self) -> None:
        positive(density_kg_m3=self.density_kg_m3, sound_m_s=self.sound_m_s)
        not_negative(viscosity_pa_s=self.viscosity_pa_s)

    @property
    def row(self) -> list[float]:
        """KIND, BULK, SHEAR, VISCOSITY, FRICTION, YIELD."""
        return [
            stress.LIQUID,
            self.density_kg_m3 * self.sound_m_s**2,
            0.0,
            self.viscosity_pa_s,
            0.0,
            0.0,
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sand:
    """Cohesionless granular material."""

    density_kg_m3: float = 1600.0
    """Bulk density."""
    young_pa: float = 3.5e5
    """Young's modulus; softer than quartz sand, for the sake of the time step."""
    poisson: float = 0.3
    """Poisson's ratio."""
    friction_deg: float = 33.0
    """Angle of internal friction."""

    def __post_init__(self) -> None:
        positive(density_kg_m3=self.density_kg_m3, young_pa=self.young_pa)
        if not 0 <= self.poisson < 0.5:
            raise ValueError(f"poisson must be in [0, 0.5), got {self.poisson}")
        if not 0 < self.friction_deg < 60:
            raise ValueError(f"friction_deg must be in (0, 60), got {self.friction_deg}")

    @property
    def sound_m_s(self) -> float:
        """Speed of pressure waves."""
        _, bulk, shear, *_ = self.row
        return math.sqrt((bulk + 4 / 3 * shear) / self.density_kg_m3)

    @property
    def row(self) -> list[float]:
        """KIND, BULK, SHEAR, VISCOSITY, FRICTION, YIELD."""
        # In simple shear, shear stress over normal stress is tan(friction): a slope holds up to there.
        return [
            stress.SAND,
            self.young_pa / (3 * (1 - 2 * self.poisson)),
            self.young_pa / (2 * (1 + self.poisson)),
            0.0,
            math.sqrt(2) / 3 * math.tan(math.radians(self.friction_deg)),
            0.0,
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Meltable:
    """Solid that melts: enthalpy per mass is h = 0 for the solid at its melting point."""

    density_kg_m3: float = 900.0
    """Density, of solid and melt alike."""
    young_pa: float = 2e5
    """Young's modulus of the solid; softer than wax or ice, for the sake of the time step."""
    poisson: float = 0.35
    """Poisson's ratio."""
    yield_pa: float = 1e4
    """Yield stress of the solid."""
    viscosity_pa_s: float = 0.5
    """Dynamic viscosity of the melt."""
    melting_c: float = 0.0
    """Melting point in degrees Celsius."""
    latent_j_kg: float = 334e3
    """Latent heat of melting."""
    solid_heat_j_kg_k: float = 2100.0
    """Heat capacity of the solid."""
    liquid_heat_j_kg_k: float = 4190.0
    """Heat capacity of the melt."""
    conductivity_w_m_k: float = 2.2
    """Thermal conductivity, of solid and melt alike."""

    def __post_init__(self) -> None:
        positive(
            density_kg_m3=self.density_kg_m3,
            young_pa=self.young_pa,
            yield_pa=self.yield_pa,
            latent_j_kg=self.latent_j_kg,
            solid_heat_j_kg_k=self.solid_heat_j_kg_k,
            liquid_heat_j_kg_k=self.liquid_heat_j_kg_k,
        )
        not_negative(viscosity_pa_s=self.viscosity_pa_s, conductivity_w_m_k=self.conductivity_w_m_k)
        if not 0 <= self.poisson < 0.5:
            raise ValueError(f"poisson must be in [0, 0.5), got {self.poisson}")

    @property
    def sound_m_s(self) -> float:
        """Speed of pressure waves."""
        _, bulk, shear, *_ = self.row
        return math.sqrt((bulk + 4 / 3 * shear) / self.density_kg_m3)

    @property
    def row(self) -> list[float]:
        """KIND, BULK, SHEAR, VISCOSITY, FRICTION, YIELD."""
        return [
            stress.MELTABLE,
            self.young_pa / (3 * (1 - 2 * self.poisson)),
            self.young_pa / (2 * (1 + self.poisson)),
            self.viscosity_pa_s,
            0.0,
            self.yield_pa,
        ]


Material = Liquid | Sand | Meltable
