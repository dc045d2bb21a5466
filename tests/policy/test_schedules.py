"""Grids against diffusers' schedulers and the figures of the literature."""

import math

import numpy as np
import pytest
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from policy.schedules import (
    Schedule,
    cogvideox_schedule,
    ddim_schedule,
    flow_match_euler_schedule,
    flow_schedule,
    scaled_linear_alpha_bar,
    stable_diffusion_schedule,
    unipc_flow_schedule,
)

FLOAT32_ROUNDING = 1e-7
"""diffusers keeps its grids in float32."""


def test_flow_match_euler_grid_is_shifted_twice() -> None:
    """The grid diffusers gives for shift 3 and 10 steps, rounded to four digits."""
    sigmas = flow_match_euler_schedule(10, shift=3.0).levels
    assert np.round(sigmas, 4).tolist() == [
        1.0,
        0.9601,
        0.9133,
        0.8577,
        0.7904,
        0.7073,
        0.6022,
        0.4649,
        0.278,
        0.0089,
        0.0,
    ]


@pytest.mark.parametrize(("num_steps", "shift"), [(1, 3.0), (10, 3.0), (28, 5.0), (50, 1.0)])
def test_flow_match_euler_grid_is_that_of_diffusers(num_steps: int, shift: float) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(num_steps)
    schedule = flow_match_euler_schedule(num_steps, shift=shift)
    np.testing.assert_allclose(schedule.levels, scheduler.sigmas, atol=FLOAT32_ROUNDING)
    np.testing.assert_allclose(schedule.timesteps, scheduler.timesteps, atol=1000 * FLOAT32_ROUNDING)


@pytest.mark.parametrize(("num_steps", "shift"), [(2, 3.0), (20, 5.0), (50, 3.0), (40, 12.0)])
def test_unipc_grid_is_that_of_diffusers_and_never_starts_at_one(num_steps: int, shift: float) -> None:
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    scheduler.set_timesteps(num_steps)
    schedule = unipc_flow_schedule(num_steps, shift=shift)
    assert schedule.levels[0] == 1.0 - 1e-6
    np.testing.assert_allclose(schedule.levels, scheduler.sigmas, atol=FLOAT32_ROUNDING)
    assert list(schedule.timesteps) == scheduler.timesteps.tolist()


@pytest.mark.parametrize("snr_shift_scale", [1.0, 3.0])
@pytest.mark.parametrize("num_steps", [16, 50])
def test_cogvideox_levels_are_those_of_diffusers_on_its_grid(num_steps: int, snr_shift_scale: float) -> None:
    scheduler = CogVideoXDDIMScheduler(
        timestep_spacing="trailing", rescale_betas_zero_snr=True, snr_shift_scale=snr_shift_scale
    )
    scheduler.set_timesteps(num_steps)
    schedule = cogvideox_schedule(num_steps, snr_shift_scale=snr_shift_scale)
    assert list(schedule.timesteps) == scheduler.timesteps.tolist()
    np.testing.assert_allclose(
        schedule.levels[:-1], scheduler.alphas_cumprod[scheduler.timesteps], atol=1e-14, rtol=0
    )
    assert schedule.levels[0] == 0.0
    assert schedule.levels[-1] == 1.0


def test_steps_are_found_by_position_where_timestep_arithmetic_is_wrong() -> None:
    """CogVideoX, 30 trailing steps: 966 is followed by 932, while 966 - 1000 // 30 is 933."""
    timesteps = cogvideox_schedule(30, snr_shift_scale=1.0).timesteps
    assert timesteps[:3] == (999.0, 966.0, 932.0)


def test_stable_diffusion_levels_are_those_of_diffusers() -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(50)
    schedule = stable_diffusion_schedule(50)
    assert list(schedule.timesteps) == scheduler.timesteps.tolist()
    # A product of 1000 float32 factors.
    np.testing.assert_allclose(schedule.levels[:-1], scheduler.alphas_cumprod[scheduler.timesteps], atol=1e-6)
    assert math.isclose(schedule.levels[-1], 1.0 - 0.00085)


def test_snr_shift_divides_the_signal_to_noise_ratio() -> None:
    plain, shifted = (
        scaled_linear_alpha_bar(beta_start=0.00085, beta_end=0.012, snr_shift_scale=scale)
        for scale in (1.0, 3.0)
    )
    np.testing.assert_allclose(plain / (1 - plain), 3.0 * shifted / (1 - shifted), rtol=1e-9)


def test_zero_terminal_snr_moves_the_last_level_to_zero_and_keeps_the_first() -> None:
    plain, rescaled = (
        scaled_linear_alpha_bar(beta_start=0.00085, beta_end=0.012, zero_terminal_snr=rescale)
        for rescale in (False, True)
    )
    assert rescaled[-1] == 0.0
    assert math.isclose(rescaled[0], plain[0], rel_tol=1e-14)


def test_unit_shift_leaves_even_steps_and_a_larger_one_holds_more_noise() -> None:
    np.testing.assert_allclose(flow_schedule(4, shift=1.0).levels, [1.0, 0.75, 0.5, 0.25, 0.0])
    np.testing.assert_allclose(flow_schedule(4, shift=3.0).levels, [1.0, 0.9, 0.75, 0.5, 0.0])
    assert flow_schedule(4, shift=3.0).timestep(1) == pytest.approx(900.0, abs=1e-10)


def test_positions_outside_the_schedule_are_refused() -> None:
    schedule = flow_schedule(4, shift=3.0)
    for i in (-1, 4):
        with pytest.raises(ValueError, match=rf"position must be in \[0, 4\).*got {i}"):
            schedule.step_levels(i)
        with pytest.raises(ValueError, match=rf"got {i}"):
            schedule.timestep(i)


def test_a_schedule_must_go_from_noise_to_data() -> None:
    with pytest.raises(ValueError, match="strictly fall"):
        Schedule(name="rising", family="flow", levels=(0.0, 1.0), timesteps=(0.0,))
    with pytest.raises(ValueError, match="strictly rise"):
        Schedule(name="falling", family="diffusion", levels=(1.0, 0.0), timesteps=(0.0,))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Schedule(name="wide", family="flow", levels=(2.0, 0.0), timesteps=(0.0,))
    with pytest.raises(ValueError, match=r"N timesteps and N \+ 1 levels"):
        Schedule(name="short", family="flow", levels=(1.0, 0.0), timesteps=(0.0, 1.0))


def test_bad_parameters_are_refused_by_name() -> None:
    alpha_bar = scaled_linear_alpha_bar(beta_start=0.00085, beta_end=0.012)
    with pytest.raises(ValueError, match="num_steps must be in"):
        flow_schedule(0, shift=3.0)
    with pytest.raises(ValueError, match="shift must be positive"):
        flow_schedule(4, shift=-1.0)
    with pytest.raises(ValueError, match="spacing must be"):
        ddim_schedule(4, alpha_bar, spacing="even", final_alpha_bar=1.0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="steps_offset belongs to leading"):
        ddim_schedule(4, alpha_bar, spacing="trailing", steps_offset=1, final_alpha_bar=1.0)
    with pytest.raises(ValueError, match="beta_start < beta_end"):
        scaled_linear_alpha_bar(beta_start=0.1, beta_end=0.01)


def test_the_log_line_holds_every_level() -> None:
    line = flow_schedule(2, shift=3.0).describe()
    assert line == "flow(num_steps=2, shift=3): sigma = 1, 0.75, 0"
