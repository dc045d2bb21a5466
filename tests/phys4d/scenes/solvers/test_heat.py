"""Heat conduction against series, steady states and conservation."""

import math

import numpy as np
import pytest

from phys4d.scenes.solvers.heat import Face, HeatBlock

COLD = Face(coefficient_w_m2_k=math.inf, temperature_c=0.0)


def _slab_error(n: int) -> float:
    """Root mean square error of a slab of 1 K that is cooled to 0 at both sides, at alpha t / L^2 = 0.05."""
    block = HeatBlock(
        temperature_c=np.ones((n, 1, 1)),
        cell_m=1 / n,
        conductivity_w_m_k=1.0,
        capacity_j_m3_k=1.0,
        faces={"-x": COLD, "+x": COLD},
    )
    block.advance(0.05)
    x = (np.arange(n) + 0.5) / n
    exact = sum(
        4 / (m * math.pi) * np.sin(m * math.pi * x) * math.exp(-((m * math.pi) ** 2) * 0.05)
        for m in range(1, 60, 2)
    )
    return float(np.sqrt(np.mean((block.temperature_c[:, 0, 0] - exact) ** 2)))


def test_a_cooling_slab_follows_fourier_s_series_to_second_order() -> None:
    coarse, fine = _slab_error(16), _slab_error(32)
    assert fine < 5e-4
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.2)


def test_an_insulated_block_of_mixed_materials_keeps_its_energy() -> None:
    rng = np.random.default_rng(0)
    block = HeatBlock(
        temperature_c=rng.uniform(0, 100, (9, 7, 5)),
        cell_m=0.01,
        conductivity_w_m_k=rng.uniform(0.1, 400, (9, 7, 5)),
        capacity_j_m3_k=rng.uniform(1e6, 4e6, (9, 7, 5)),
    )
    before, low, high = block.energy_j, block.temperature_c.min(), block.temperature_c.max()
    block.advance(20.0)
    assert block.energy_j == pytest.approx(before, rel=1e-12)
    assert low < block.temperature_c.min() < block.temperature_c.max() < high
    # The end is the mean weighted with heat capacity, everywhere.
    block.advance(4000.0)
    assert np.ptp(block.temperature_c) < 0.5


def test_what_comes_in_is_what_the_block_gains() -> None:
    block = HeatBlock(
        temperature_c=np.full((6, 4, 4), 20.0),
        cell_m=0.01,
        conductivity_w_m_k=50.0,
        capacity_j_m3_k=3e6,
        source_w_m3=1e5,
        faces={"-x": Face(flux_w_m2=2e4), "+z": Face(coefficient_w_m2_k=100, temperature_c=-10)},
    )
    before = block.energy_j
    block.advance(30.0)
    assert block.energy_j - before == pytest.approx(block.received_j, rel=1e-9)


def test_a_heated_wire_peaks_at_q_l_squared_over_8_k() -> None:
    n = 20
    block = HeatBlock(
        temperature_c=np.zeros((n, 1, 1)),
        cell_m=1 / n,
        conductivity_w_m_k=2.0,
        capacity_j_m3_k=1.0,
        source_w_m3=8.0,
        faces={"-x": COLD, "+x": COLD},
    )
    block.advance(3.0)
    x = (np.arange(n) + 0.5) / n
    # q x (1 - x) / (2 k) is a parabola, for which the cells' flows are exact; half a cell at the walls is
    # not.
    assert np.allclose(block.temperature_c[:, 0, 0], 2 * x * (1 - x), atol=0.006)


def test_two_layers_in_series_share_the_drop_as_their_resistances() -> None:
    """0 to 100 K over equal layers of 1 and 4 W/(m K): 80 % of the drop is in the poorer one."""
    k = np.where(np.arange(20) < 10, 1.0, 4.0)[:, None, None]
    block = HeatBlock(
        temperature_c=np.full((20, 1, 1), 50.0),
        cell_m=0.05,
        conductivity_w_m_k=k,
        capacity_j_m3_k=1.0,
        faces={"-x": COLD, "+x": Face(coefficient_w_m2_k=math.inf, temperature_c=100.0)},
    )
    block.advance(6.0)
    t = block.temperature_c[:, 0, 0]
    # Flow is uniform: 100 / (0.5 / 1 + 0.5 / 4) = 160 W/m2, and so T is linear in each layer.
    assert t[0] == pytest.approx(160 * 0.025, rel=1e-4)
    assert t[9] == pytest.approx(160 * 0.475, rel=1e-4)
    assert t[19] == pytest.approx(100 - 160 * 0.025 / 4, rel=1e-4)


def test_a_small_good_conductor_cools_as_an_exponential() -> None:
    """Biot number 4e-4: T - T_air = exp(-h A t / (rho c V))."""
    faces = {
        name: Face(coefficient_w_m2_k=20.0, temperature_c=20.0)
        for name in ("-x", "+x", "-y", "+y", "-z", "+z")
    }
    block = HeatBlock(
        temperature_c=np.full((4, 4, 4), 80.0),
        cell_m=0.005,
        conductivity_w_m_k=400.0,
        capacity_j_m3_k=3.4e6,
        faces=faces,
    )
    block.advance(300.0, longest_step_s=0.05)
    expected = 20 + 60 * math.exp(-20 * 6 / 0.02 / 3.4e6 * 300)
    assert block.temperature_c.mean() == pytest.approx(expected, abs=0.05)


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="faces are named"):
        HeatBlock(
            temperature_c=np.zeros((2, 2, 2)),
            cell_m=0.1,
            conductivity_w_m_k=1.0,
            capacity_j_m3_k=1.0,
            faces={"top": Face()},
        )
    with pytest.raises(ValueError, match="cell_m must be positive, got 0"):
        HeatBlock(temperature_c=np.zeros((2, 2, 2)), cell_m=0, conductivity_w_m_k=1.0, capacity_j_m3_k=1.0)
