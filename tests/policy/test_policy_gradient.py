"""The policy gradient of a whole rollout against the exact gradient of the expected reward."""

import math
import statistics

import pytest
import torch
from torch import Tensor

from policy.advantages import compute_advantages
from policy.losses import clipped_policy_loss
from policy.samplers import step
from policy.schedules import Schedule, cogvideox_schedule, flow_schedule

NUM_SAMPLES = 100_000
TARGET = 0.5


def expected_reward(
    theta: Tensor, frozen: Tensor, schedule: Schedule, sampler: str, noise_level: float
) -> Tensor:
    """E[-(x_N - TARGET)^2], exact: the denoiser theta_0 x + theta_1 keeps x Gaussian.

    The last step is deterministic and uses `frozen`, because a score-function gradient has no pathwise term.
    """
    mean = torch.zeros((), dtype=torch.float64)
    var = torch.ones((), dtype=torch.float64)
    last = schedule.num_steps - 1
    for i in range(schedule.num_steps):
        parameters = frozen if i == last else theta
        x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        out = step(
            x,
            parameters[0] * x + parameters[1],
            i,
            schedule=schedule,
            sampler=sampler,  # pyright: ignore[reportArgumentType]
            mode="ode" if i == last else "sde",
            noise_level=noise_level,
        )
        slope = out.mean[1, 0] - out.mean[0, 0]
        mean, var = slope * mean + out.mean[0, 0], slope**2 * var + out.std**2
    return -((mean - TARGET) ** 2 + var)


@pytest.mark.parametrize(
    ("sampler", "noise_level", "schedule"),
    [
        ("flow_sde", 0.7, flow_schedule(4, shift=3.0)),
        ("dance_sde", 0.5, flow_schedule(4, shift=3.0)),
        ("cps", 0.5, flow_schedule(4, shift=3.0)),
        ("ddim_v", 1.0, cogvideox_schedule(4, snr_shift_scale=1.0)),
    ],
)
def test_policy_gradient_is_the_gradient_of_the_expected_reward(
    sampler: str, noise_level: float, schedule: Schedule
) -> None:
    """Within three standard errors in both parameters, and more than ten away from no gradient at all."""
    theta = torch.tensor([0.4, -0.2], dtype=torch.float64)
    shift = 1e-5
    exact = torch.zeros(2, dtype=torch.float64)
    for k in range(2):
        change = torch.zeros(2, dtype=torch.float64)
        change[k] = shift
        up, down = (
            expected_reward(theta + sign * change, theta, schedule, sampler, noise_level) for sign in (1, -1)
        )
        exact[k] = (up - down) / (2 * shift)

    generator = torch.Generator().manual_seed(0)
    # One copy of the parameters per sample, so that one backward gives every sample's own gradient.
    copies = theta.expand(NUM_SAMPLES, 2).clone().requires_grad_()
    x = torch.randn(NUM_SAMPLES, 1, generator=generator, dtype=torch.float64)
    log_probs = []
    last = schedule.num_steps - 1
    for i in range(schedule.num_steps):
        out = step(
            x,
            copies[:, :1] * x + copies[:, 1:],
            i,
            schedule=schedule,
            sampler=sampler,  # pyright: ignore[reportArgumentType]
            mode="ode" if i == last else "sde",
            noise_level=noise_level,
            generator=generator,
        )
        if out.log_prob is not None:
            log_probs.append(out.log_prob)
        x = out.x_next
    assert len(log_probs) == last

    rewards = -((x[:, 0] - TARGET) ** 2)
    log_prob = torch.cat(log_probs)
    advantages = (rewards - rewards.mean()).repeat(last)
    loss = clipped_policy_loss(log_prob, log_prob.detach(), advantages, clip_range=1e-4).loss
    loss.backward()
    assert copies.grad is not None
    per_sample = -copies.grad * NUM_SAMPLES * last
    estimate, error = per_sample.mean(0), per_sample.std(0) / math.sqrt(NUM_SAMPLES)
    assert ((estimate - exact).abs() < 3 * error).all(), (estimate, exact, error)
    assert (exact.abs() > 10 * error).all(), (exact, error)


def train_toy(seed: int, num_iterations: int = 40) -> list[float]:
    """Mean reward of each iteration of GRPO on the denoiser theta_0 x + theta_1."""
    schedule = flow_schedule(4, shift=3.0)
    theta = torch.tensor([0.4, -0.2], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([theta], lr=0.05)
    generator = torch.Generator().manual_seed(seed)
    history = []
    for _ in range(num_iterations):
        x = torch.randn(256, 1, generator=generator, dtype=torch.float64)
        log_probs = []
        for i in range(schedule.num_steps):
            out = step(
                x,
                theta[0] * x + theta[1],
                i,
                schedule=schedule,
                sampler="flow_sde",
                mode="ode" if i == schedule.num_steps - 1 else "sde",
                noise_level=0.7,
                generator=generator,
            )
            if out.log_prob is not None:
                log_probs.append(out.log_prob)
            x = out.x_next
        rewards = -((x[:, 0] - TARGET) ** 2)
        history.append(rewards.mean().item())
        advantages = compute_advantages(rewards, [k // 16 for k in range(256)])
        log_prob = torch.cat(log_probs)
        repeated = advantages.values.repeat(len(log_probs))
        optimiser.zero_grad()
        clipped_policy_loss(log_prob, log_prob.detach(), repeated, clip_range=1e-3).loss.backward()
        optimiser.step()
    return history


def test_a_trained_policy_earns_more_than_a_frozen_one_with_every_seed() -> None:
    """T21: over five seeds the reward rises by more than a frozen policy's scatters over its noise."""
    gains = []
    for seed in range(5):
        history = train_toy(seed)
        gains.append(statistics.mean(history[-5:]) - history[0])
    frozen = [train_toy(100 + seed, 1)[0] for seed in range(5)]
    assert min(gains) > 5 * statistics.stdev(frozen), (gains, frozen)
    assert statistics.mean(gains) > 0.2
