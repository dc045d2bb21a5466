"""Heat in material points against the heat equation and the first law."""

import math

import numpy as np
import pytest

from phys4d.scenes.solvers.materials import Liquid, Meltable
from phys4d.scenes.solvers.mpm import MaterialPoints, Tank, fill
from phys4d.scenes.solvers.mpm_heat import MeltingPoints, Outside

WAX = Meltable(
    density_kg_m3=900,
    melting_c=55,
    latent_j_kg=200e3,
    solid_heat_j_kg_k=2000,
    liquid_heat_j_kg_k=2300,
    conductivity_w_m_k=0.25,
)


def _block(low, high, temperature, **outside) -> MeltingPoints:
    tank = Tank(size_m=(0.24, 0.12, 0.12), cell_m=0.012)
    position = fill(lambda p: np.ones(len(p), bool), low, high, 0.006)
    points = MaterialPoints(
        tank=tank,
        materials=[WAX],
        material=np.zeros(len(position), int),
        position_m=position,
        velocity_m_s=np.zeros_like(position),
        spacing_m=0.006,
        timestep_s=1e-4,
    )
    values = {"air": Outside(), "floor": Outside()}
    return MeltingPoints(
        points, np.broadcast_to(temperature(position), len(position)), **{**values, **outside}
    )


def test_a_cosine_of_temperature_decays_at_the_rate_of_the_heat_equation() -> None:
    """T = T0 + A cos(k x) in an insulated bar: A falls as exp(-alpha k^2 t)."""
    k = math.pi / 0.24
    bar = _block((0, 0, 0), (0.24, 0.06, 0.06), lambda p: 30 + 10 * np.cos(k * p[:, 0]))
    before = bar.energy_j
    alpha = 0.25 / (900 * 2000)
    duration = 0.5 / (alpha * k**2)
    bar.conduct(duration)
    mode = np.cos(k * bar.points.position_m[:, 0])
    left = ((bar.temperature_c - 30) * mode).sum() / (mode**2).sum() / 10
    assert left == pytest.approx(math.exp(-0.5), rel=0.02)
    assert bar.energy_j == pytest.approx(before, rel=1e-12)
    assert bar.received_j == 0


def test_a_cold_cube_takes_up_heat_through_its_own_surface() -> None:
    """h A dT with A = 6 a^2, to 20 %: the particles' surface has rounded corners."""
    cube = _block(
        (0.06, 0.03, 0.03),
        (0.12, 0.09, 0.09),
        lambda p: 0 * p[:, 0],
        air=Outside(coefficient_w_m2_k=10, temperature_c=20),
    )
    cube.conduct(1.0)
    assert cube.received_j == pytest.approx(10 * 6 * 0.06**2 * 20, rel=0.2)


def test_melting_takes_the_heat_that_the_books_say() -> None:
    """Energy gained = heat received = m c (Tm - T0), + L for the melt, + c_l (T - Tm) where hotter."""
    cube = _block(
        (0.06, 0.03, 0.0),
        (0.12, 0.09, 0.06),
        lambda p: 0 * p[:, 0] + 20,
        floor=Outside(coefficient_w_m2_k=2000, temperature_c=90),
    )
    before, points = cube.energy_j, cube.points
    cube.conduct(600.0)
    assert 0.02 < cube.melted_kg / points.mass_kg.sum() < 0.9
    assert cube.energy_j - before == pytest.approx(cube.received_j, rel=1e-10)
    solid_part = points.mass_kg @ (2000 * (np.minimum(cube.temperature_c, 55) - 20))
    melt_part = 200e3 * cube.melted_kg + points.mass_kg @ (2300 * np.maximum(cube.temperature_c - 55, 0))
    assert solid_part + melt_part == pytest.approx(cube.received_j, rel=1e-10)
    # It melts from the hot floor upwards and never gets hotter than it.
    melted = points.liquid_share > 0.5
    assert points.position_m[melted, 2].mean() < points.position_m[~melted, 2].mean()
    assert cube.temperature_c.max() < 90


def test_a_solid_block_stands_and_its_melt_spreads() -> None:
    def width_after(temperature: float) -> float:
        block = _block((0.06, 0.03, 0.0), (0.12, 0.09, 0.06), lambda p: 0 * p[:, 0] + temperature)
        block.advance(2500)
        assert block.points.liquid_share.mean() == (temperature > 55)
        return float(np.ptp(block.points.position_m[:, 0]))

    assert width_after(40) == pytest.approx(0.054, abs=0.004)
    assert width_after(70) > 0.09


def test_heat_needs_meltable_materials() -> None:
    tank = Tank(size_m=(0.2, 0.2, 0.2), cell_m=0.02)
    points = MaterialPoints(
        tank=tank,
        materials=[Liquid()],
        material=np.zeros(1, int),
        position_m=np.full((1, 3), 0.1),
        velocity_m_s=np.zeros((1, 3)),
        spacing_m=0.01,
        timestep_s=1e-4,
    )
    with pytest.raises(ValueError, match="Meltable materials, got Liquid"):
        MeltingPoints(points, np.zeros(1), air=Outside(), floor=Outside())
