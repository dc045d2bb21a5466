"""The algorithms' gradients in closed form, and on the real tiny Wan through the one loop."""

import contextlib
import dataclasses
import math

import pytest
import torch

from phys4d.models.lora import add_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.wan import WanModel, tiny_wan
from policy.advantages import Advantages, compute_advantages
from policy.algorithms import ALGORITHMS
from policy.config import AlgorithmConfig
from policy.losses import guarded_log_ratio, negative_aware_terms
from policy.rollout import RecordedStep, Rollouts, SamplingRule, sample
from policy.samplers import gaussian_log_prob, step
from policy.schedules import cogvideox_schedule, flow_schedule
from policy.step_rules import STD_CAP, longcat_weight, step_coefficients
from policy.update import update_policy

CAPTIONS = ["a red ball falls from rest", "a blue box slides left at 1.25"]
RULE = SamplingRule(schedule=flow_schedule(6, shift=3.0), sampler="flow_sde", noise_level=0.7)
NO_CLIP = 1e9


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Closed forms


def test_the_guarded_ratio_is_the_noise_times_the_shift_of_the_mean() -> None:
    """With x = mu_old + S eps: S (log rho + |d|^2 / 2 S^2) = mean of eps d, and its gradient is eps / D."""
    noise, old, std = draw(1, 4, 30), draw(2, 4, 30), 0.3
    mean = (old + 0.05 * draw(3, 4, 30)).requires_grad_()
    sample = old + std * noise
    log_ratio = guarded_log_ratio(
        gaussian_log_prob(sample, mean, std),
        gaussian_log_prob(sample, old, std),
        ((mean - old) ** 2).mean(1),
        std,
    )
    torch.testing.assert_close(log_ratio, (noise * (mean - old)).mean(1), rtol=1e-9, atol=1e-12)
    (gradient,) = torch.autograd.grad(log_ratio.sum(), mean)
    torch.testing.assert_close(gradient, noise / 30, rtol=1e-9, atol=1e-12)


def test_the_plain_ratio_is_biased_below_one_and_the_guarded_one_is_not() -> None:
    """Over the noise, log rho has mean -|d|^2 / 2 S^2, here -.5, and the guarded log-ratio mean 0."""
    noise, std = draw(1, 4000, 1), 0.3
    mean = torch.full_like(noise, std)
    sample = std * noise
    new, old = gaussian_log_prob(sample, mean, std), gaussian_log_prob(sample, 0 * mean, std)
    guarded = guarded_log_ratio(new, old, (mean**2).mean(1), std)
    assert (new - old).mean().item() == pytest.approx(-0.5, abs=0.05)
    assert guarded.mean().item() / std == pytest.approx(0.0, abs=0.05)


@pytest.mark.parametrize("std_cap", [None, STD_CAP])
def test_longcat_weights_make_every_step_move_the_velocity_alike(std_cap: float | None) -> None:
    """|d log p / d v| w = |eps| / D at every step, capped or not: no step's gradient vanishes.

    Of Flow-SDE steps without a cap the weights have the ratios of LongCat's sqrt(s / (1 - s)) / sqrt|dt|.
    """
    schedule, noise, published = flow_schedule(8, shift=3.0), draw(1, 1, 20), []
    for i in range(1, 7):
        velocity = draw(2, 1, 20).requires_grad_()
        x = draw(3, 1, 20)
        arguments = {"schedule": schedule, "sampler": "flow_sde", "noise_level": 0.7, "std_cap": std_cap}
        drawn = step(x, velocity, i, x_next=x, **arguments)
        out = step(x, velocity, i, x_next=drawn.mean.detach() + drawn.std * noise, **arguments)
        assert out.log_prob is not None
        weight = longcat_weight(step_coefficients(i, **arguments))
        (gradient,) = torch.autograd.grad(out.log_prob.sum() * weight, velocity)
        torch.testing.assert_close(gradient, -noise / 20, rtol=1e-9, atol=1e-12)
        s, s_next = schedule.step_levels(i)
        published.append(math.sqrt(s / (1 - s) / (s - s_next)) / weight)
    alike = max(published) / min(published) - 1 < 1e-9
    assert alike == (std_cap is None), "the cap binds at this schedule's first steps"


@pytest.mark.parametrize("strength", [0.1, 1.0])
def test_at_the_old_policy_nfts_gradient_is_that_of_the_advantage_times_the_distance(strength: float) -> None:
    """d L / d v = 2 A on_velocity (x0_hat - x0) / (D mean|x0_hat - x0|), for every strength."""
    velocity = draw(1, 3, 10).requires_grad_()
    noised, latents = draw(2, 3, 10), draw(3, 3, 10)
    advantages = torch.tensor([2.0, -1.0, 0.0], dtype=torch.float64)
    level = torch.tensor([0.9, 0.5, 0.7], dtype=torch.float64)
    terms = negative_aware_terms(
        velocity,
        velocity.detach(),
        noised,
        latents,
        advantages,
        on_x=torch.ones(3, dtype=torch.float64),
        on_velocity=-level,
        strength=strength,
        advantage_clip=5.0,
    )
    (gradient,) = torch.autograd.grad(terms.sum(), velocity)
    error = noised - level[:, None] * velocity.detach() - latents
    expected = 2 * advantages[:, None] * -level[:, None] * error / (10 * error.abs().mean(1, keepdim=True))
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)


def test_nft_pulls_towards_the_best_and_away_from_the_worst_video() -> None:
    """At A = A_max only the positive policy is judged, at -A_max only its mirror image about the old one."""
    latents, noised = torch.zeros(2, 4), torch.zeros(2, 4)
    velocity, old = torch.full((2, 4), 3.0), torch.full((2, 4), 1.0)
    terms = negative_aware_terms(
        velocity,
        old,
        noised,
        latents,
        torch.tensor([5.0, -5.0]),
        on_x=torch.ones(2),
        on_velocity=-torch.ones(2),
        strength=0.5,
        advantage_clip=5.0,
    )
    # v+ = .5 x 1 + .5 x 3 = 2 and v- = 1.5 x 1 - .5 x 3 = 0; |2|^2 / |2| = 2, times A_max / strength = 10.
    assert terms.tolist() == [20.0, 0.0]


def test_the_clean_video_follows_from_velocity_in_both_families() -> None:
    for schedule in (flow_schedule(6, shift=3.0), cogvideox_schedule(6, snr_shift_scale=1.0)):
        data, noise, i = draw(1, 5), draw(2, 5), 2
        level, _ = schedule.step_levels(i)
        if schedule.family == "flow":
            noised, velocity = (1 - level) * data + level * noise, noise - data
        else:
            signal, spread = math.sqrt(level), math.sqrt(1 - level)
            noised, velocity = signal * data + spread * noise, signal * noise - spread * data
        on_x, on_velocity = schedule.data_from_velocity(i)
        torch.testing.assert_close(on_x * noised + on_velocity * velocity, data, rtol=1e-9, atol=1e-12)


# Through the loop, on the tiny Wan


@pytest.fixture(scope="module")
def model() -> WanModel:
    torch.manual_seed(0)
    model = tiny_wan(CAPTIONS, width=32, num_layers=2).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.2)
    parameters = add_lora(model.transformer, "policy", rank=4, targets=model.lora_targets)
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters:
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def parameters_of(model: WanModel) -> list[torch.nn.Parameter]:
    return [p for p in model.transformer.parameters() if p.requires_grad]


def conditioning(model: WanModel) -> Conditioning:
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
    first = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(5))
    return Conditioning(text, first).repeat(4)


def roll(model: WanModel, rule: SamplingRule = RULE, **changes) -> Rollouts:
    settings = {"window": (1, 2), "seeds": range(8), "keep_means": True} | changes
    return sample(model, conditioning(model), rule, num_latent_frames=3, **settings)


def advantages(size: int = 8) -> Advantages:
    return compute_advantages(torch.linspace(0, 1, size).double(), [i // 4 for i in range(size)])


def gradients(model: WanModel, batches: list, rule: SamplingRule = RULE, **changes) -> list[torch.Tensor]:
    config = dataclasses.replace(
        AlgorithmConfig(lora_rank=4, clip_range=1e-3, max_grad_norm=NO_CLIP), **changes
    )
    parameters = parameters_of(model)
    update_policy(model, rule, batches, parameters, torch.optim.SGD(parameters, 0.0), config, on_policy=True)
    return [p.grad.clone() for p in parameters if p.grad is not None]


def part(rollouts: Rollouts, chosen: slice) -> Rollouts:
    """Some of the videos."""
    return Rollouts(
        rollouts.latents_BCThw[chosen],
        rollouts.conditioning.select(chosen),
        tuple(
            RecordedStep(
                s.i,
                s.x_BCThw[chosen],
                s.x_next_BCThw[chosen],
                s.log_prob_B[chosen],
                s.digests[chosen],
                s.mean_BCThw[chosen],
            )
            for s in rollouts.steps
        ),
        rollouts.digests[chosen],
        rollouts.seeds[chosen],
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_eight_videos_at_once_are_eight_times_one(model: WanModel, name: str) -> None:
    """T16: gradients of samples x steps are divided once, by the terms of all calls."""
    rollouts, whole = roll(model), advantages()
    parts = [
        (
            part(rollouts, slice(k, k + 1)),
            dataclasses.replace(whole, values=whole.values[k : k + 1], trained=whole.trained[k : k + 1]),
        )
        for k in range(8)
    ]
    at_once, one_by_one = gradients(model, [(rollouts, whole)], name=name), gradients(model, parts, name=name)
    for a, b in zip(at_once, one_by_one, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_missing_reward_leaves_the_gradient_of_the_others_as_it_is(model: WanModel, name: str) -> None:
    """Gradients of the first group alone, whether the second is absent or has no rewards."""
    rollouts = roll(model)
    rewards = torch.cat([torch.linspace(0, 1, 4), torch.full((4,), math.nan)]).double()
    with_missing = compute_advantages(rewards, [0] * 4 + [1] * 4)
    alone = compute_advantages(rewards[:4], [0] * 4)
    first = gradients(model, [(rollouts, with_missing)], name=name)
    second = gradients(model, [(part(rollouts, slice(0, 4)), alone)], name=name)
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


def test_on_policy_guarded_steps_have_grpos_gradient_over_their_size(model: WanModel) -> None:
    """At ratio 1 both are REINFORCE; the guard multiplies by S and divides by |dt|."""
    rollouts = roll(model, window=(1,))
    plain = gradients(model, [(rollouts, advantages())])
    guarded = gradients(model, [(rollouts, advantages())], name="grpo_guard")
    level, next_level = RULE.schedule.step_levels(1)
    factor = RULE.coefficients(1).std / (level - next_level)
    for a, b in zip(plain, guarded, strict=True):
        torch.testing.assert_close(b, factor * a, rtol=1e-3, atol=1e-4 * float(b.abs().max()))


def test_longcat_weights_scale_the_gradient_of_their_step(model: WanModel) -> None:
    rollouts = roll(model, window=(1,))
    plain = gradients(model, [(rollouts, advantages())])
    weighted = gradients(model, [(rollouts, advantages())], step_weight="longcat")
    factor = longcat_weight(RULE.coefficients(1))
    for a, b in zip(plain, weighted, strict=True):
        torch.testing.assert_close(b, factor * a, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_nft_needs_finished_videos_only_and_brings_the_better_ones_nearer(model: WanModel) -> None:
    """After a small step the mean of A times the distance of x0_hat from the videos has fallen."""
    rollouts = roll(model, window=(), keep_means=False)
    assert not rollouts.steps
    kept = [p.detach().clone() for p in parameters_of(model)]
    config = AlgorithmConfig(lora_rank=4, name="diffusion_nft", max_grad_norm=NO_CLIP)
    parameters = parameters_of(model)

    def loss(rate: float) -> float:
        return update_policy(
            model,
            RULE,
            [(rollouts, advantages())],
            parameters,
            torch.optim.SGD(parameters, rate),
            config,
            on_policy=True,
        ).policy_loss

    before = loss(0.5)
    # The old policy is what it was: only then does the loss tell how far the new one has come.
    new = [p.detach().clone() for p in parameters]

    @contextlib.contextmanager
    def old_policy():
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.data.copy_(value)
        yield
        for parameter, value in zip(parameters, new, strict=True):
            parameter.data.copy_(value)

    after = update_policy(
        model,
        RULE,
        [(rollouts, advantages())],
        parameters,
        torch.optim.SGD(parameters, 0.0),
        config,
        on_policy=False,
        old_policy=old_policy,
    ).policy_loss
    for parameter, value in zip(parameters, kept, strict=True):
        parameter.data.copy_(value)
    assert after < before


def test_a_gradient_that_is_not_finite_skips_the_step_and_says_so(model: WanModel) -> None:
    rollouts = roll(model)
    broken = dataclasses.replace(rollouts.steps[0], x_next_BCThw=rollouts.steps[0].x_next_BCThw * math.nan)
    rollouts = dataclasses.replace(rollouts, steps=(broken, rollouts.steps[1]))
    parameters = parameters_of(model)
    before = [p.detach().clone() for p in parameters]
    optimiser = torch.optim.AdamW(parameters, 1.0)
    stats = update_policy(
        model,
        RULE,
        [(rollouts, advantages())],
        parameters,
        optimiser,
        AlgorithmConfig(lora_rank=4),
        on_policy=False,
    )
    assert stats.skipped
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))
    assert not optimiser.state, "its moments have seen nothing"


def test_siblings_of_the_fast_mode_share_the_steps_before_the_window(model: WanModel) -> None:
    """One noise and one ODE path per prompt, the same as sampling it alone; then siblings part."""
    fast = roll(model, window=(2, 3), groups=[7] * 4 + [8] * 4)
    start = fast.steps[0].x_BCThw
    assert torch.equal(start[0], start[3]) and not torch.equal(start[0], start[4])
    latents = fast.latents_BCThw
    assert (latents[0] - latents[1]).abs().max() > 0.1
    alone = sample(
        model, conditioning(model).select(slice(0, 1)), RULE, num_latent_frames=3, window=(2,), seeds=[7]
    )
    torch.testing.assert_close(start[:1], alone.steps[0].x_BCThw, rtol=1e-4, atol=1e-5)
    gradients(model, [(fast, advantages())])


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast mode"])
def test_groups_sampled_together_with_windows_of_their_own_are_what_each_is_alone(
    model: WanModel, fast: bool
) -> None:
    """Videos, log-probabilities and gradients; every ratio is 1."""
    windows, whole = [(0, 1)] * 4 + [(1, 2)] * 4, advantages()
    seeds = [7] * 4 + [8] * 4 if fast else None
    together = roll(model, windows=windows, groups=seeds)
    steps = [(recorded.i, recorded.videos) for recorded in together.steps]
    assert steps == [(0, (0, 1, 2, 3)), (1, None), (2, (4, 5, 6, 7))]
    assert together.window_size == 2
    batches = []
    for part in (slice(0, 4), slice(4, 8)):
        alone = sample(
            model,
            conditioning(model).select(part),
            RULE,
            num_latent_frames=3,
            window=windows[part][0],
            seeds=range(8)[part],
            groups=seeds[part] if seeds else None,
            keep_means=True,
        )
        torch.testing.assert_close(together.latents_BCThw[part], alone.latents_BCThw, rtol=1e-4, atol=1e-5)
        for recorded in alone.steps:
            joint = next(step for step in together.steps if step.i == recorded.i)
            rows = slice(0, 4) if joint.videos else part
            torch.testing.assert_close(joint.log_prob_B[rows], recorded.log_prob_B, rtol=0, atol=1e-5)
        kept = dataclasses.replace(whole, values=whole.values[part], trained=whole.trained[part])
        batches.append((alone, kept))
    for name in ("grpo", "grpo_guard"):
        joint = gradients(model, [(together, whole)], name=name)
        for a, b in zip(joint, gradients(model, batches, name=name), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))
    with pytest.raises(ValueError, match=r"one group has one window, got \(0, 1\) and \(1, 2\)"):
        roll(model, windows=windows, groups=[7] * 8)
    with pytest.raises(ValueError, match="one window per video is needed: 8 videos, got 2 windows"):
        roll(model, windows=[(0, 1), (1, 2)])


def test_latents_kept_in_bfloat16_replay_with_a_ratio_of_one(model: WanModel) -> None:
    """T13 on a model: what is rounded is rounded before the log-probability is taken."""
    rule = dataclasses.replace(RULE, storage_dtype=torch.bfloat16)
    rollouts = roll(model, rule)
    assert {s.x_BCThw.dtype for s in rollouts.steps} == {torch.bfloat16}
    gradients(model, [(rollouts, advantages())], rule)
    parameters = parameters_of(model)
    stats = update_policy(
        model,
        rule,
        [(rollouts, advantages())],
        parameters,
        torch.optim.SGD(parameters, 0.0),
        AlgorithmConfig(lora_rank=4),
        on_policy=True,
    )
    assert stats.ratio_max < 1e-6
