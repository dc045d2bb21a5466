"""The step function: densities, replay, limits, masks and rounding."""

import math
from typing import Any

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from policy.samplers import StepOut, kl_gaussian, step
from policy.schedules import (
    Schedule,
    cogvideox_schedule,
    flow_match_euler_schedule,
    flow_schedule,
    stable_diffusion_schedule,
    unipc_flow_schedule,
)

FLOW = flow_schedule(8, shift=3.0)
COGVIDEOX = cogvideox_schedule(50, snr_shift_scale=1.0)
STABLE_DIFFUSION = stable_diffusion_schedule(50)
SAMPLERS: list[tuple[str, Schedule, float]] = [
    ("flow_sde", FLOW, 0.7),
    ("dance_sde", FLOW, 0.3),
    ("cps", FLOW, 0.8),
    ("flow_grpo_wan", FLOW, 1.0),
    ("ddim_v", COGVIDEOX, 1.0),
    ("ddim_eps", STABLE_DIFFUSION, 1.0),
]
every_sampler = pytest.mark.parametrize(("sampler", "schedule", "noise_level"), SAMPLERS)
VIDEO = (2, 3, 4, 6, 6)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(seed: int, shape: tuple[int, ...] = VIDEO, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


class TinyDenoiser(nn.Module):
    """A frozen channel mix with a rank-2 adapter, over (batch, channels, ...)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.base = nn.Parameter(noise(90, (channels, channels)), requires_grad=False)
        self.lora_a = nn.Parameter(noise(91, (2, channels)))
        self.lora_b = nn.Parameter(torch.zeros(channels, 2))

    def forward(self, x: Tensor, *, adapter: bool = True) -> Tensor:
        weight = self.base + self.lora_b @ self.lora_a if adapter else self.base
        return torch.tanh(torch.einsum("dc,bc...->bd...", weight, x))


@every_sampler
def test_log_prob_is_the_mean_log_density_of_a_normal(
    sampler: Any, schedule: Schedule, noise_level: float
) -> None:
    for i in (0, 1, schedule.num_steps - 2):
        out = step(
            noise(1, dtype=torch.float64),
            noise(2, dtype=torch.float64),
            i,
            schedule=schedule,
            sampler=sampler,
            noise_level=noise_level,
            x_next=noise(3, dtype=torch.float64),
        )
        density = Normal(out.mean, out.std).log_prob(out.x_next).flatten(1).mean(1)
        torch.testing.assert_close(out.log_prob, density, rtol=1e-12, atol=0)


@every_sampler
def test_float32_steps_are_float64_steps_up_to_rounding(
    sampler: Any, schedule: Schedule, noise_level: float
) -> None:
    def run(dtype: torch.dtype) -> StepOut:
        x, prediction, x_next = (noise(seed).to(dtype) for seed in (1, 2, 3))
        return step(
            x, prediction, 3, schedule=schedule, sampler=sampler, noise_level=noise_level, x_next=x_next
        )

    single, double = run(torch.float32), run(torch.float64)
    assert single.mean.dtype == torch.float32
    torch.testing.assert_close(single.mean.double(), double.mean, rtol=0, atol=2e-6)
    assert single.log_prob is not None and double.log_prob is not None
    torch.testing.assert_close(single.log_prob.double(), double.log_prob, rtol=2e-6, atol=2e-6)


@every_sampler
def test_drawn_samples_have_the_mean_and_std_of_the_step(
    sampler: Any, schedule: Schedule, noise_level: float
) -> None:
    shape = (1, 200_000)
    out = step(
        torch.ones(shape),
        torch.ones(shape),
        2,
        schedule=schedule,
        sampler=sampler,
        noise_level=noise_level,
        generator=seeded(0),
    )
    # Four standard errors of a mean and of a std over 200 000 draws.
    residual = (out.x_next - out.mean) / out.std
    assert abs(residual.mean().item()) < 4 / math.sqrt(200_000)
    assert abs(residual.std().item() - 1) < 4 / math.sqrt(400_000)


@every_sampler
def test_replay_gives_the_very_log_prob_of_the_rollout(
    sampler: Any, schedule: Schedule, noise_level: float
) -> None:
    model, x = TinyDenoiser(3), noise(1)
    arguments: dict[str, Any] = {"schedule": schedule, "sampler": sampler, "noise_level": noise_level}
    with torch.no_grad():
        drawn = step(x, model(x), 2, **arguments, generator=seeded(5))
    replayed = step(x, model(x), 2, **arguments, x_next=drawn.x_next)
    assert drawn.log_prob is not None and replayed.log_prob is not None
    assert torch.equal(drawn.log_prob, replayed.log_prob)
    assert torch.equal(drawn.x_next, replayed.x_next)
    for b in range(len(x)):
        alone = step(x[b : b + 1], model(x[b : b + 1]), 2, **arguments, x_next=drawn.x_next[b : b + 1])
        torch.testing.assert_close(alone.log_prob, drawn.log_prob[b : b + 1], rtol=0, atol=1e-6)


@every_sampler
def test_the_first_ratio_is_one_and_a_changed_adapter_moves_it(
    sampler: Any, schedule: Schedule, noise_level: float
) -> None:
    model, x = TinyDenoiser(3), noise(1)
    arguments: dict[str, Any] = {"schedule": schedule, "sampler": sampler, "noise_level": noise_level}
    old = step(x, model(x), 2, **arguments, generator=seeded(5))

    def ratio() -> Tensor:
        new = step(x, model(x), 2, **arguments, x_next=old.x_next)
        assert new.log_prob is not None and old.log_prob is not None
        return torch.exp(new.log_prob - old.log_prob)

    assert (ratio() - 1).abs().max() <= 1e-6
    with torch.no_grad():
        model.lora_b += 1.0
    assert (ratio() - 1).abs().max() > 1e-4


@pytest.mark.parametrize("mode", ["ode", "sde"])
@pytest.mark.parametrize("sampler", ["flow_sde", "dance_sde", "cps", "flow_grpo_wan", "ode"])
def test_without_noise_every_flow_sampler_is_the_euler_step_of_diffusers(sampler: Any, mode: Any) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(10)
    schedule = flow_match_euler_schedule(10, shift=3.0)
    x, velocity = noise(1), noise(2)
    for i in range(10):
        expected = scheduler.step(velocity, scheduler.timesteps[i], x).prev_sample
        out = step(x, velocity, i, schedule=schedule, sampler=sampler, mode=mode, noise_level=0.0)
        torch.testing.assert_close(out.x_next, expected, rtol=0, atol=1e-6)
        assert out.std == 0.0 and out.log_prob is None


def test_without_noise_ddim_v_is_the_cogvideox_step_of_diffusers() -> None:
    scheduler = CogVideoXDDIMScheduler(
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        prediction_type="v_prediction",
    )
    scheduler.set_timesteps(50)
    x, v = noise(1), noise(2)
    for i in range(50):
        expected = scheduler.step(v, int(scheduler.timesteps[i]), x)[0]
        out = step(x, v, i, schedule=COGVIDEOX, sampler="ddim_v", mode="ode")
        torch.testing.assert_close(out.x_next, expected.float(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_eps_is_the_step_of_diffusers_with_eta(eta: float) -> None:
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    scheduler.set_timesteps(50)
    x, eps, d = noise(1), noise(2), noise(3)
    for i in range(50):
        expected = scheduler.step(eps, int(scheduler.timesteps[i]), x, eta=eta, variance_noise=d).prev_sample
        out = step(x, eps, i, schedule=STABLE_DIFFUSION, sampler="ddim_eps", noise_level=eta)
        # diffusers multiplies float32 products of 1000 factors; x / sqrt(A) is 15 x at the first step.
        torch.testing.assert_close(out.mean + out.std * d, expected, rtol=1e-5, atol=1e-5)


def test_the_last_cogvideox_step_is_deterministic_and_the_first_is_almost_pure_noise() -> None:
    x, v = noise(1), noise(2)
    first = step(x, v, 0, schedule=COGVIDEOX, sampler="ddim_v", noise_level=1.0)
    last = step(x, v, 49, schedule=COGVIDEOX, sampler="ddim_v", noise_level=1.0)
    assert first.std == pytest.approx(0.99996, abs=5e-6)
    assert last.std == 0.0 and last.log_prob is None
    assert torch.equal(last.x_next, last.mean)


def test_dance_and_flow_sde_share_their_drift_at_the_same_coefficient() -> None:
    x, velocity = noise(1, dtype=torch.float64), noise(2, dtype=torch.float64)
    for i in range(1, FLOW.num_steps):
        s, _ = FLOW.step_levels(i)
        eta = 0.3
        flow = step(
            x, velocity, i, schedule=FLOW, sampler="flow_sde", noise_level=eta / math.sqrt(s / (1 - s))
        )
        dance = step(x, velocity, i, schedule=FLOW, sampler="dance_sde", noise_level=eta)
        torch.testing.assert_close(flow.mean, dance.mean, rtol=0, atol=1e-12)
        assert flow.std == pytest.approx(dance.std, rel=1e-12)


def test_cps_keeps_the_total_noise_of_the_next_level() -> None:
    """The weight of eps_hat and the fresh noise have s' as their root sum of squares, at any noise level."""
    # x0_hat = 0 and eps_hat = 1: x = s, v = 1.
    for noise_level in (0.1, 0.5, 1.0):
        s, s_next = FLOW.step_levels(3)
        out = step(
            torch.full((1, 1), s, dtype=torch.float64),
            torch.ones(1, 1, dtype=torch.float64),
            3,
            schedule=FLOW,
            sampler="cps",
            noise_level=noise_level,
        )
        assert math.hypot(out.mean.item(), out.std) == pytest.approx(s_next, rel=1e-12)


def test_kl_is_that_of_torch_distributions_and_reaches_the_adapter() -> None:
    model, x = TinyDenoiser(3), noise(1)
    arguments: dict[str, Any] = {"schedule": FLOW, "sampler": "flow_sde", "noise_level": 0.7}

    def kl_and_gradient() -> tuple[Tensor, Tensor, StepOut, StepOut]:
        model.zero_grad()
        policy = step(x, model(x), 3, **arguments, x_next=x)
        with torch.no_grad():
            reference = step(x, model(x, adapter=False), 3, **arguments, x_next=x)
        kl = kl_gaussian(policy.mean, reference.mean, policy.std)
        kl.sum().backward()
        assert model.lora_b.grad is not None
        return kl.detach(), model.lora_b.grad.clone(), policy, reference

    kl, gradient, _, _ = kl_and_gradient()
    assert kl.eq(0).all()
    assert gradient.eq(0).all()

    with torch.no_grad():
        model.lora_b += 1.0
    kl, gradient, policy, reference = kl_and_gradient()
    exact = kl_divergence(Normal(policy.mean, policy.std), Normal(reference.mean, reference.std))
    torch.testing.assert_close(kl, exact.flatten(1).mean(1), rtol=1e-5, atol=0)
    assert gradient.abs().min() > 0


def test_kl_counts_generated_dims_only() -> None:
    """Means 3 apart on one of four dims, std 1.5: 2 nats on that dim."""
    mean = torch.tensor([[3.0, 0.0, 100.0, 100.0]])
    mask = torch.tensor([[1, 1, 0, 0]])
    assert kl_gaussian(mean, torch.zeros(1, 4), 1.5, mask).item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="std must be positive"):
        kl_gaussian(mean, mean, 0.0)


@every_sampler
def test_a_sample_does_not_depend_on_its_batch_when_batch_and_channels_agree(
    sampler: Any, schedule: Schedule, noise_level: float
) -> None:
    """Batch 3 with 3 channels, and a mask of its own for each sample."""
    shape = (3, 3, 4, 2, 2)
    x, prediction = noise(1, shape), noise(2, shape)
    mask = torch.ones(3, 1, 4, 1, 1)
    mask[0, :, :1], mask[1, :, :2] = 0, 0
    arguments: dict[str, Any] = {"schedule": schedule, "sampler": sampler, "noise_level": noise_level}
    generators = [seeded(b) for b in range(3)]
    together = step(x, prediction, 2, **arguments, mask=mask, generator=generators)
    assert together.log_prob is not None and together.log_prob.shape == (3,)
    for b in range(3):
        one = slice(b, b + 1)
        alone = step(x[one], prediction[one], 2, **arguments, mask=mask[one], generator=[seeded(b)])
        assert torch.equal(alone.x_next, together.x_next[one])
        torch.testing.assert_close(alone.log_prob, together.log_prob[one], rtol=0, atol=1e-6)


@pytest.mark.parametrize("sampler", ["flow_sde", "dance_sde", "flow_grpo_wan"])
@pytest.mark.parametrize("std_cap", [0.45, 0.05])
def test_the_cap_bounds_the_first_wan_step_and_its_drift(sampler: Any, std_cap: float) -> None:
    """sigma starts at .999999, where the Flow-SDE coefficient is 700 without clamp and 22 with it."""
    schedule = unipc_flow_schedule(20, shift=5.0)
    x, velocity = noise(1, dtype=torch.float64), noise(2, dtype=torch.float64)
    s, s_next = schedule.step_levels(0)
    assert s == 0.999999
    dt = s_next - s
    out = step(
        x, velocity, 0, schedule=schedule, sampler=sampler, noise_level=50.0, std_cap=std_cap, x_next=x
    )
    assert out.std == pytest.approx(std_cap, rel=1e-12)
    a = std_cap / math.sqrt(-dt)
    drift = velocity + a**2 / (2 * s) * (x + (1 - s) * velocity)
    torch.testing.assert_close(out.mean, x + drift * dt, rtol=0, atol=1e-12)
    assert out.log_prob is not None and out.log_prob.isfinite().all()


def test_without_cap_the_clamp_alone_keeps_the_first_wan_step_finite() -> None:
    schedule = unipc_flow_schedule(20, shift=5.0)
    s, s_next = schedule.step_levels(0)
    out = step(noise(1), noise(2), 0, schedule=schedule, sampler="flow_sde", noise_level=0.7, std_cap=None)
    assert out.std == pytest.approx(0.7 * math.sqrt(0.999 / 0.001 * (s - s_next)), rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_to_the_storage_dtype_comes_before_the_log_prob(dtype: torch.dtype) -> None:
    x, velocity = noise(1), noise(2)
    arguments: dict[str, Any] = {"schedule": FLOW, "sampler": "flow_sde", "noise_level": 0.7}
    drawn = step(x, velocity, 3, **arguments, generator=seeded(1), storage_dtype=dtype)
    stored = drawn.x_next.to(dtype)
    replayed = step(x, velocity, 3, **arguments, x_next=stored)
    assert torch.equal(stored.float(), drawn.x_next)
    assert drawn.log_prob is not None and replayed.log_prob is not None
    assert torch.equal(drawn.log_prob, replayed.log_prob)
    unrounded = step(x, velocity, 3, **arguments, generator=seeded(1))
    assert not torch.equal(unrounded.log_prob, replayed.log_prob)  # pyright: ignore[reportArgumentType]


@every_sampler
def test_the_conditioning_frame_has_no_say_in_the_log_prob(
    sampler: Any, schedule: Schedule, noise_level: float
) -> None:
    mask = torch.ones(1, 1, 4, 1, 1)
    mask[:, :, 0] = 0
    arguments: dict[str, Any] = {"schedule": schedule, "sampler": sampler, "noise_level": noise_level}
    x, x_next = noise(1), noise(3)
    prediction = noise(2).requires_grad_()
    out = step(x, prediction, 2, **arguments, x_next=x_next, mask=mask)
    assert out.log_prob is not None
    density = Normal(out.mean, out.std).log_prob(x_next)[:, :, 1:]
    torch.testing.assert_close(out.log_prob, density.flatten(1).mean(1), rtol=1e-5, atol=1e-6)

    out.log_prob.sum().backward()
    assert prediction.grad is not None
    assert prediction.grad[:, :, 0].eq(0).all()
    assert prediction.grad[:, :, 1:].ne(0).any()

    changed = [tensor.detach().clone() for tensor in (x, prediction, x_next)]
    for tensor in changed:
        tensor[:, :, 0] = math.nan
    other = step(changed[0], changed[1], 2, **arguments, x_next=changed[2], mask=mask)
    assert other.log_prob is not None
    assert torch.equal(out.log_prob.detach(), other.log_prob)


@pytest.mark.parametrize("mode", ["ode", "sde"])
def test_the_conditioning_frame_is_carried_unchanged(mode: Any) -> None:
    mask = torch.ones(2, 1, 4, 1, 1, dtype=torch.bool)
    mask[:, :, 0] = False
    x = noise(1)
    out = step(x, noise(2), 2, schedule=FLOW, sampler="flow_sde", mode=mode, noise_level=0.7, mask=mask)
    assert torch.equal(out.x_next[:, :, 0], x[:, :, 0])
    assert torch.equal(out.mean[:, :, 0], x[:, :, 0])
    assert out.x_next[:, :, 1:].ne(x[:, :, 1:]).all()


def test_the_sample_carries_no_gradient_and_the_mean_does() -> None:
    prediction = noise(2).requires_grad_()
    for mode in ("ode", "sde"):
        out = step(noise(1), prediction, 2, schedule=FLOW, sampler="flow_sde", mode=mode, noise_level=0.7)
        assert not out.x_next.requires_grad
        assert out.mean.requires_grad


def test_bad_input_is_refused_by_name() -> None:
    x = noise(1)
    good: dict[str, Any] = {"schedule": FLOW, "sampler": "flow_sde", "noise_level": 0.7}
    refusals: list[tuple[str, Tensor, dict[str, Any]]] = [
        ("prediction must have the shape of x", x[:1], {}),
        ("x_next must have the shape of x", x, {"x_next": x[:1]}),
        ("unknown sampler 'euler'", x, {"sampler": "euler"}),
        ("mode must be", x, {"mode": "both"}),
        ("needs a flow schedule", x, {"schedule": COGVIDEOX}),
        ("needs a noise_level", x, {"noise_level": None}),
        ("noise_level must be finite", x, {"noise_level": math.nan}),
        (r"noise_level of cps must be in \[0, 1\]", x, {"sampler": "cps", "noise_level": 1.1}),
        ("eta", x, {"sampler": "ddim_v", "schedule": COGVIDEOX, "noise_level": 1.1}),
        ("use ddim_v", x, {"sampler": "ddim_eps", "schedule": COGVIDEOX}),
        ("std_cap must be positive", x, {"std_cap": 0.0}),
        ("mask must have all 5 dims", x, {"mask": torch.ones(2)}),
        ("does not broadcast", x, {"mask": torch.ones(5, 1, 1, 1, 1)}),
        ("mask must be 1 on generated dims", x, {"mask": torch.full((1, 1, 1, 1, 1), 0.5)}),
        ("at least one generated dim", x, {"mask": torch.zeros(1, 1, 1, 1, 1)}),
        ("one generator per sample", x, {"generator": [seeded(0)]}),
    ]
    for message, prediction, changes in refusals:
        with pytest.raises(ValueError, match=message):
            step(x, prediction, 0, **(good | changes))
