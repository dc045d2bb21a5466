"""Where the samplers end up on data whose denoiser is known exactly.

Data ~ Normal(1, 0.25) in one dimension. The exact prediction is linear in x, so a step is x' = A x + B + S e,
and var' = A^2 var + S^2 follows the distribution without Monte Carlo. A and B are read off `step` itself.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from policy.samplers import step
from policy.schedules import Schedule, cogvideox_schedule, flow_schedule, unipc_flow_schedule

DATA_MEAN, DATA_VAR = 1.0, 0.25


def exact_velocity(x: Tensor, s: float) -> Tensor:
    """E[eps - x_0 | x_s = x]."""
    residual = (x - (1 - s) * DATA_MEAN) / ((1 - s) ** 2 * DATA_VAR + s**2)
    return s * residual - (DATA_MEAN + (1 - s) * DATA_VAR * residual)


def exact_v(x: Tensor, alpha_bar: float) -> Tensor:
    """E[sqrt(A) eps - sqrt(1 - A) x_0 | x]."""
    signal, noise = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    residual = (x - signal * DATA_MEAN) / (alpha_bar * DATA_VAR + 1 - alpha_bar)
    return signal * noise * residual - noise * (DATA_MEAN + signal * DATA_VAR * residual)


def final_moments(
    schedule: Schedule, exact: Callable[[Tensor, float], Tensor], **arguments: Any
) -> tuple[float, float]:
    """Mean and variance after all steps, from Normal(0, 1)."""
    mean, var = 0.0, 1.0
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for i in range(schedule.num_steps):
        prediction = exact(x, schedule.levels[i])
        out = step(x, prediction, i, schedule=schedule, x_next=x, **arguments)
        offset = out.mean[0].item()
        slope = out.mean[1].item() - offset
        mean, var = slope * mean + offset, slope**2 * var + out.std**2
    return mean, var


@pytest.mark.parametrize(
    ("sampler", "noise_level", "variances"),
    [
        ("flow_sde", 0.7, (0.180, 0.211, 0.234, 0.2497)),
        ("dance_sde", 0.3, (0.148, 0.193, 0.225, 0.2487)),
        ("ode", 0.0, (0.137, 0.186, 0.222, 0.2485)),
        ("cps", 0.8, (0.099, 0.122, 0.141, 0.1607)),
    ],
)
def test_flow_samplers_end_at_the_variances_of_the_table(
    sampler: str, noise_level: float, variances: tuple[float, ...]
) -> None:
    """Flow samplers tend to the variance of the data, .25; CPS does not."""
    for num_steps, variance in zip((10, 20, 50, 1000), variances, strict=True):
        schedule = flow_schedule(num_steps, shift=3.0)
        _, var = final_moments(
            schedule, exact_velocity, sampler=sampler, noise_level=noise_level, std_cap=None
        )
        # The table has three digits, four at 1000 steps, where the clamp of sigma to .999 acts on two steps
        # of the Flow-SDE and takes 1.3e-4 off.
        tolerance = 5.1e-4
        if num_steps == 1000:
            tolerance = 2e-4 if sampler == "flow_sde" else 0.6e-4
        assert var == pytest.approx(variance, abs=tolerance)


@pytest.mark.parametrize(("sampler", "noise_level"), [("dance_sde", 0.5), ("ode", 0.0)])
def test_twice_the_steps_halve_the_error_of_the_variance(sampler: str, noise_level: float) -> None:
    """The Euler schemes are of first order where the coefficient does not diverge at sigma = 1."""
    errors = [
        DATA_VAR
        - final_moments(
            flow_schedule(n, shift=3.0), exact_velocity, sampler=sampler, noise_level=noise_level
        )[1]
        for n in (400, 800)
    ]
    assert errors[0] / errors[1] == pytest.approx(2.0, abs=0.02)


def test_every_flow_sampler_keeps_the_mean_of_the_data() -> None:
    for sampler, noise_level in (("flow_sde", 0.7), ("dance_sde", 0.3), ("ode", 0.0), ("cps", 0.8)):
        mean, _ = final_moments(
            flow_schedule(1000, shift=3.0), exact_velocity, sampler=sampler, noise_level=noise_level
        )
        assert mean == pytest.approx(DATA_MEAN, abs=2e-3)


@pytest.mark.parametrize(
    ("eta", "variances"), [(0.0, (0.218, 0.2457)), (0.3, (0.217, 0.2454)), (1.0, (0.201, 0.2412))]
)
def test_cogvideox_ddim_ends_at_the_variances_of_the_table(
    eta: float, variances: tuple[float, float]
) -> None:
    for num_steps, variance in zip((50, 500), variances, strict=True):
        schedule = cogvideox_schedule(num_steps, snr_shift_scale=1.0)
        _, var = final_moments(schedule, exact_v, sampler="ddim_v", noise_level=eta)
        assert var == pytest.approx(variance, abs=6e-4 if num_steps == 50 else 1e-4)


def test_capping_the_coefficient_keeps_the_marginal_and_capping_the_noise_alone_breaks_it() -> None:
    """Cap .1 and 50 steps: .229 with drift and noise capped together, .135 with the noise alone."""
    schedule = flow_schedule(50, shift=3.0)
    arguments: dict[str, Any] = {"schedule": schedule, "sampler": "flow_sde", "noise_level": 0.7}
    _, together = final_moments(exact=exact_velocity, std_cap=0.1, **arguments)
    assert together == pytest.approx(0.229, abs=6e-4)

    noise_alone = 1.0
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    for i in range(schedule.num_steps):
        velocity = exact_velocity(x, schedule.levels[i])
        out = step(x, velocity, i, **arguments, std_cap=None, x_next=x)
        slope = (out.mean[1] - out.mean[0]).item()
        noise_alone = slope**2 * noise_alone + min(out.std, 0.1) ** 2
    assert noise_alone == pytest.approx(0.135, abs=6e-4)


def test_the_wan_grid_needs_the_cap() -> None:
    """sigma starts at .999999: uncapped, ten steps triple the variance; capped, it is that from sigma = 1."""
    arguments: dict[str, Any] = {"sampler": "flow_sde", "noise_level": 0.7}
    wan = unipc_flow_schedule(10, shift=3.0)
    _, uncapped = final_moments(wan, exact_velocity, std_cap=None, **arguments)
    _, capped = final_moments(wan, exact_velocity, **arguments)
    _, from_one = final_moments(flow_schedule(10, shift=3.0), exact_velocity, **arguments)
    assert uncapped > 0.7
    assert capped == pytest.approx(from_one, abs=1e-3)
