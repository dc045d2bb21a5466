"""Hot air against what Boussinesq's equations give by hand."""

import numpy as np
import pytest

from phys4d.scenes.solvers.smoke import HotAir


def _bubble(
    shape: tuple[int, int, int], cell: float, radius: float, warmth: float
) -> tuple[np.ndarray, np.ndarray]:
    """Warmth of a sphere at the middle, its edge spread over the cells it cuts; distance from there."""
    axes = [(np.arange(n) + 0.5) * cell - 0.5 * n * cell for n in shape]
    r = np.sqrt(sum(np.square(g) for g in np.meshgrid(*axes, indexing="ij")))
    return warmth * np.clip((radius - r) / cell + 0.5, 0, 1), r


def test_a_warm_sphere_starts_with_two_thirds_of_its_buoyancy() -> None:
    """It must push half its own volume of air aside: a = g beta dT / (1 + 1/2).

    Source: Batchelor, An Introduction to Fluid Dynamics, section 6.8. The box's walls are 5 radii apart.
    """
    warmth, r = _bubble((40, 40, 40), 0.025, 0.1, 10.0)
    air = HotAir(warmth_k=warmth, cell_m=0.025, viscosity_m2_s=0.0, diffusivity_m2_s=0.0)
    air.advance(0.01)
    rise = 0.5 * (air.w[:, :, 1:] + air.w[:, :, :-1])
    inside = r < 0.08
    expected = 9.81 * 10 / 293.15 * 2 / 3 * 0.01
    assert rise[inside].mean() == pytest.approx(expected, rel=0.06)
    # Between the walls it comes down, and no air is lost on the way.
    assert rise.sum() == pytest.approx(0, abs=1e-9)


def test_layered_air_stays_at_rest() -> None:
    """Warm above cold is balanced by pressure alone."""
    warmth = np.broadcast_to(np.linspace(0, 20, 16) ** 1.5, (12, 10, 16))
    air = HotAir(warmth_k=warmth, cell_m=0.05, diffusivity_m2_s=0.0)
    air.advance(0.5)
    assert air.fastest_m_s < 1e-12
    assert np.allclose(air.warmth_k, warmth, atol=1e-10)


def test_a_plume_keeps_its_heat_its_bounds_and_the_volume_of_air() -> None:
    warmth, _ = _bubble((20, 20, 28), 0.04, 0.15, 20.0)
    rng = np.random.default_rng(0)
    air = HotAir(warmth_k=warmth, cell_m=0.04, tracers_m=rng.uniform(0, 0.8, (200, 3)))
    total, height = warmth.sum(), (warmth.sum((0, 1)) * np.arange(28)).sum() / warmth.sum()
    air.advance(1.2)
    assert air.warmth_k.sum() == pytest.approx(total, rel=1e-11)
    assert air.warmth_k.min() > -0.3 and air.warmth_k.max() < 20.3
    assert np.abs(air.divergence()).max() < 1e-10
    assert (air.warmth_k.sum((0, 1)) * np.arange(28)).sum() / total > height + 3
    assert (air.tracers_m >= 0).all() and (air.tracers_m <= [0.8, 0.8, 1.12]).all()


def test_no_motion_gains_energy_from_nothing() -> None:
    """Kinetic energy after warmth is gone can only fall."""
    warmth, _ = _bubble((16, 16, 16), 0.05, 0.15, 20.0)
    air = HotAir(warmth_k=warmth, cell_m=0.05)
    air.advance(0.5)
    air.warmth_k[:] = 0.0
    energy = []
    for _ in range(10):
        energy.append(float(sum((f**2).sum() for f in (air.u, air.v, air.w))))
        air.advance(0.05)
    assert np.all(np.diff(energy) < 0)


def test_a_heater_warms_by_what_it_gives() -> None:
    heat = np.zeros((8, 8, 8))
    heat[3:5, 3:5, 1] = 30.0
    air = HotAir(warmth_k=np.zeros((8, 8, 8)), cell_m=0.05, heat_k_s=heat)
    air.advance(0.5)
    assert air.warmth_k.sum() == pytest.approx(4 * 30 * 0.5, rel=1e-9)


def test_two_runs_are_bitwise_equal() -> None:
    warmth, _ = _bubble((12, 12, 16), 0.05, 0.2, 15.0)

    def run() -> bytes:
        air = HotAir(warmth_k=warmth, cell_m=0.05, tracers_m=np.full((1, 3), 0.3))
        air.advance(0.4)
        return air.warmth_k.tobytes() + air.tracers_m.tobytes()

    assert run() == run()


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 4 cells"):
        HotAir(warmth_k=np.zeros((3, 8, 8)), cell_m=0.1)
    with pytest.raises(ValueError, match="cell_m must be positive, got -1"):
        HotAir(warmth_k=np.zeros((8, 8, 8)), cell_m=-1)


def test_a_shear_layer_fades_at_the_rate_of_its_viscosity() -> None:
    """cos(pi x / L) between slippery walls, n cells of dx: the rate is nu (2 - 2 cos(pi / n)) / dx^2."""
    n, dx, nu, dt = 16, 0.05, 1e-3, 0.02
    air = HotAir(warmth_k=np.zeros((n, 6, 6)), cell_m=dx, viscosity_m2_s=nu)
    wave = np.cos(np.pi * (np.arange(n) + 0.5) / n)[:, None, None] * np.ones((n, 6, 7))
    faded = air._carry_velocity(wave, (0.5, 0.5, 0.0), dt / dx)
    rate = nu * (2 - 2 * np.cos(np.pi / n)) / dx**2
    assert np.allclose(faded, (1 - rate * dt) * wave, atol=1e-12)
