"""Where the samplers end up on data whose denoiser is known exactly.

Data ~ Normal(1, 0.25) in one dimension. The exact prediction is linear in x, so a step is x' = A x + B + S e,
and var' = A^2 var + S^2 follows the distribution without Monte Carlo. A and B are read off `step` itself.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from policy.samplers import step
from policy.schedules import Schedule, cogvideox_schedule, flow_schedule, unipc_flow_schedule

DATA_MEAN, DATA_VAR = 1.0, 0.25
EXACT = 1e-9
"""Largest deviation from the recursion written out: far below the 1e-4 that the table asks for."""


def half_a_digit(text: str) -> float:
    """What rounding took off a number at most."""
    return 0.5 * 10.0 ** -len(text.partition(".")[2]) + EXACT


def predicted(level: float, signal: float) -> tuple[float, float]:
    """Slopes in x of E[x_0 | x] and E[eps | x], where x = signal x_0 + level eps."""
    var = signal**2 * DATA_VAR + level**2
    return signal * DATA_VAR / var, level / var


def flow_variance(
    sampler: str, noise_level: float, levels: tuple[float, ...], *, clamp: bool = True
) -> float:
    """Final variance by the reverse SDE dx = (v - a^2 / 2 score) ds + a dw, or by CPS, without `step`."""
    var = 1.0
    for s, s_next in pairwise(levels):
        on_x0, on_eps = predicted(s, 1 - s)
        if sampler == "cps":
            std = s_next * math.sin(noise_level * math.pi / 2)
            slope = (1 - s_next) * on_x0 + math.sqrt(s_next**2 - std**2) * on_eps
        else:
            a = noise_level
            if sampler == "flow_sde":
                at = min(s, 0.999) if clamp and s < 1 else s
                a *= math.sqrt(at / (1 - (at if at < 1 else s_next)))
            slope = 1 - (s - s_next) * (on_eps - on_x0 + a**2 / 2 * on_eps / s)
            std = a * math.sqrt(s - s_next)
        var = slope**2 * var + std**2
    return var


def ddim_variance(eta: float, alpha_bars: tuple[float, ...]) -> float:
    """Final variance by DDIM's posterior, without `step`."""
    var = 1.0
    for now, after in pairwise(alpha_bars):
        on_x0, on_eps = predicted(math.sqrt(1 - now), math.sqrt(now))
        std = eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after))
        slope = math.sqrt(after) * on_x0 + math.sqrt(max(1 - after - std**2, 0.0)) * on_eps
        var = slope**2 * var + std**2
    return var


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
        ("flow_sde", 0.7, ".180 .211 .234 .2497"),
        ("dance_sde", 0.3, ".148 .193 .225 .2487"),
        ("ode", 0.0, ".137 .186 .222 .2485"),
        ("cps", 0.8, ".099 .122 .141 .1607"),
    ],
)
def test_flow_samplers_end_at_the_variances_of_the_table(
    sampler: str, noise_level: float, variances: str
) -> None:
    """T6: flow samplers tend to the variance of the data, .25; CPS does not.

    The table knows no clamp of sigma to .999, which takes 1.8e-4 off the Flow-SDE at 1000 steps.
    """
    for num_steps, told in zip((10, 20, 50, 1000), variances.split(), strict=True):
        schedule = flow_schedule(num_steps, shift=3.0)
        _, var = final_moments(
            schedule, exact_velocity, sampler=sampler, noise_level=noise_level, std_cap=None
        )
        assert var == pytest.approx(flow_variance(sampler, noise_level, schedule.levels), abs=EXACT)
        unclamped = flow_variance(sampler, noise_level, schedule.levels, clamp=False)
        assert unclamped == pytest.approx(float(told), abs=half_a_digit(told))
        assert var == pytest.approx(unclamped, abs=2e-4 if sampler == "flow_sde" else EXACT)


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
    ("eta", "variances"), [(0.0, ".218 .2457"), (0.3, ".217 .2454"), (1.0, ".201 .2412")]
)
def test_cogvideox_ddim_ends_at_the_variances_of_the_table(eta: float, variances: str) -> None:
    """T6 for v-prediction."""
    for num_steps, told in zip((50, 500), variances.split(), strict=True):
        schedule = cogvideox_schedule(num_steps, snr_shift_scale=1.0)
        _, var = final_moments(schedule, exact_v, sampler="ddim_v", noise_level=eta)
        assert var == pytest.approx(ddim_variance(eta, schedule.levels), abs=EXACT)
        assert var == pytest.approx(float(told), abs=half_a_digit(told))


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
