"""Noising: what a velocity says about data and noise, and diffusers' own scheduler as the witness."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from phys4d.models.noising import Flow, Noising, VPrediction


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(2, 5, 3, 2, 4, 4, generator=generator, dtype=torch.float64)
    return x0, eps


def test_a_flow_step_along_the_velocity_reaches_the_data() -> None:
    x0, eps = pair()
    level = torch.tensor([0.1, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)
    x, v = Flow().noised(x0, eps, level), Flow().velocity(x0, eps, level)
    torch.testing.assert_close(x - level.view(-1, 1, 1, 1, 1) * v, x0)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_noising_and_velocity_are_those_of_diffusers_at_every_kind_of_level(scale: float) -> None:
    noising = VPrediction(scale)
    scheduler = CogVideoXDDIMScheduler(
        snr_shift_scale=scale,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    x0, eps = pair()
    level = torch.tensor([0.001, 0.02, 0.5, 0.933, 1.0])
    timesteps = noising.timestep(level).long()
    assert timesteps.tolist() == [0, 19, 499, 932, 999]
    # The scheduler keeps alpha_bar in float32, whose rounding grows in 1 - A.
    torch.testing.assert_close(
        noising.noised(x0, eps, level), scheduler.add_noise(x0, eps, timesteps), atol=2e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        noising.velocity(x0, eps, level), scheduler.get_velocity(x0, eps, timesteps), atol=2e-5, rtol=1e-4
    )


def test_at_level_one_v_prediction_sees_noise_alone() -> None:
    x0, eps = pair()
    one = torch.ones(len(x0))
    assert torch.equal(VPrediction().noised(x0, eps, one), eps)
    assert torch.equal(VPrediction().velocity(x0, eps, one), -x0)


@pytest.mark.parametrize("noising", [Flow(), VPrediction()])
def test_training_levels_stay_in_range_and_a_shift_moves_them_towards_noise(noising: Noising) -> None:
    plain, moved = (noising.training_levels(4000, s, torch.Generator().manual_seed(0)) for s in (1.0, 3.0))
    assert plain.min() > 0 and moved.max() <= 1
    assert plain.mean() == pytest.approx(0.5, abs=0.02)
    assert (moved > plain).all()
