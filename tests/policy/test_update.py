"""Rollout and replay on the real tiny Wan: what policy gradients stand on."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from phys4d.models.lora import add_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.wan import WanModel, tiny_wan
from policy.advantages import Advantages, compute_advantages
from policy.config import AlgorithmConfig
from policy.rollout import Rollouts, SamplingRule, replay, sample
from policy.schedules import flow_schedule
from policy.update import update_policy

CAPTIONS = ["a red ball falls from rest", "a blue box slides left at 1.25"]
RULE = SamplingRule(schedule=flow_schedule(6, shift=3.0), sampler="flow_sde", noise_level=0.7)
ALGORITHM = AlgorithmConfig(lora_rank=4, clip_range=1e-3)


@pytest.fixture
def policy() -> tuple[WanModel, list[torch.nn.Parameter]]:
    torch.manual_seed(0)
    model = tiny_wan(CAPTIONS, width=32, num_layers=2).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.2)
    return model, add_lora(model.transformer, "policy", rank=4, targets=model.lora_targets)


def conditioning(model: WanModel, group_size: int = 4) -> Conditioning:
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
    first = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(5))
    return Conditioning(text, first).repeat(group_size)


def roll(model: WanModel, **changes: Any) -> Rollouts:
    settings = {"window": (1, 2), "seeds": range(8)} | changes
    return sample(model, conditioning(model), RULE, num_latent_frames=3, **settings)


def advantages(size: int = 8) -> Advantages:
    rewards = torch.linspace(0, 1, size).double()
    return compute_advantages(rewards, [i // 4 for i in range(size)])


def perturb(parameters: list[torch.nn.Parameter]) -> None:
    generator = torch.Generator().manual_seed(2)
    for parameter in parameters:
        parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))


def update(
    model: WanModel, parameters: list[torch.nn.Parameter], rollouts: Rollouts, lr: float = 0.0, **changes
):
    optimiser = torch.optim.SGD(parameters, lr=lr)
    on_policy = changes.pop("on_policy", True)
    config = dataclasses.replace(ALGORITHM, **changes)
    return update_policy(
        model, RULE, [(rollouts, advantages())], parameters, optimiser, config, on_policy=on_policy
    )


def test_siblings_differ_and_a_rerun_is_identical(policy: tuple) -> None:
    model, _ = policy
    first, second = roll(model), roll(model)
    assert torch.equal(first.latents_BCThw, second.latents_BCThw)
    assert (first.latents_BCThw[0] - first.latents_BCThw[1]).abs().max() > 0.1


def test_a_video_does_not_depend_on_its_batch(policy: tuple) -> None:
    model, _ = policy
    full = roll(model)
    part = sample(
        model,
        conditioning(model).select(slice(0, 2)),
        RULE,
        num_latent_frames=3,
        window=(1, 2),
        seeds=range(2),
    )
    torch.testing.assert_close(part.latents_BCThw, full.latents_BCThw[:2], rtol=1e-4, atol=1e-5)


def test_replay_of_an_unchanged_policy_is_exact(policy: tuple) -> None:
    """T2 and T3: the same numbers, so every ratio is 1."""
    model, parameters = policy
    rollouts = roll(model)
    for recorded in rollouts.steps:
        out = RULE.take(
            model,
            recorded.x_BCThw,
            recorded.i,
            rollouts.conditioning,
            mode="sde",
            x_next=recorded.x_next_BCThw,
        )
        assert out.log_prob is not None
        torch.testing.assert_close(out.log_prob.detach(), recorded.log_prob_B, rtol=0, atol=1e-6)
    assert update(model, parameters, rollouts).ratio_max < 1e-6


def test_a_changed_policy_has_ratios_off_one_and_is_caught_when_it_claims_to_be_on_policy(
    policy: tuple,
) -> None:
    model, parameters = policy
    rollouts = roll(model)
    perturb(parameters)
    assert update(model, parameters, rollouts, on_policy=False).ratio_max > 1e-4
    for broken in (False, True):
        if broken:
            parameters[0].data.fill_(torch.nan)
        with pytest.raises(RuntimeError, match="ratio of an unchanged policy must be 1"):
            update(model, parameters, rollouts)


def swapped(values: Sequence) -> list:
    """Videos 0 and 4 change places: they are of different prompts."""
    return [values[v] for v in (4, 1, 2, 3, 0, 5, 6, 7)]


@pytest.mark.parametrize("name", ["grpo", "ddpo", "grpo_guard", "diffusion_nft"])
def test_changed_conditioning_is_caught_by_its_hash(policy: tuple, name: str) -> None:
    """Another prompt's embedding, another's first frame, and a change in place."""
    model, parameters = policy
    rollouts = roll(model, keep_means=True)
    text, first = rollouts.conditioning.text_BLD, rollouts.conditioning.first_frame_BChw
    others = [
        Conditioning(text[swapped(range(8))], first),
        Conditioning(text, first[swapped(range(8))]),
    ]
    for other in others:
        with pytest.raises(RuntimeError, match="other conditioning than rollout did, for 2 of 8 videos"):
            update(model, parameters, dataclasses.replace(rollouts, conditioning=other), name=name)
    first[3] += 1e-6
    with pytest.raises(RuntimeError, match="for 1 of 8 videos, the first at place 3"):
        update(model, parameters, rollouts, name=name)


def test_a_mix_up_of_siblings_at_replay_is_caught(policy: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong rows picked at replay: from a wrong list, and by a fault in what picks them."""
    model, parameters = policy
    windows = [(1,)] * 2 + [(2,)] * 4 + [(1,)] * 2
    rollouts = roll(model, windows=windows)
    first, second = rollouts.steps
    assert first.videos == (0, 1, 6, 7) and second.videos == (2, 3, 4, 5)
    update(model, parameters, rollouts)
    wrong = dataclasses.replace(rollouts, steps=(dataclasses.replace(first, videos=(6, 1, 0, 7)), second))
    with pytest.raises(RuntimeError, match="for 2 of 4 videos, the first at place 0"):
        update(model, parameters, wrong)
    select = Conditioning.select
    monkeypatch.setattr(Conditioning, "select", lambda self, index: select(self, (index + 1) % 8))
    with pytest.raises(RuntimeError, match="for 1 of 4 videos, the first at place 1"):
        replay(model, RULE, rollouts, second)


def test_siblings_that_share_a_start_are_handed_their_own_conditioning(policy: tuple) -> None:
    """The fast mode takes early steps once per group; what is recorded is of every sibling."""
    model, _ = policy
    rollouts = roll(model, window=(2,), groups=[0] * 4 + [1] * 4)
    assert list(rollouts.digests) == rollouts.conditioning.digests()
    assert rollouts.steps[0].digests == rollouts.digests and len(set(rollouts.digests)) == 2


def test_the_gradient_reaches_every_lora_matrix(policy: tuple) -> None:
    model, parameters = policy
    perturb(parameters)
    update(model, parameters, roll(model))
    assert len(parameters) == 40
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in parameters)


def test_an_update_makes_better_siblings_likelier(policy: tuple) -> None:
    """After a small step, sum of A log p rises: the sign of the gradient is right."""
    model, parameters = policy
    perturb(parameters)
    rollouts, weights = roll(model), advantages().values.float()

    def objective() -> float:
        total = 0.0
        for r in rollouts.steps:
            with torch.no_grad():
                out = RULE.take(
                    model, r.x_BCThw, r.i, rollouts.conditioning, mode="sde", x_next=r.x_next_BCThw
                )
            assert out.log_prob is not None
            total += float((out.log_prob * weights).sum())
        return total

    before = objective()
    update(model, parameters, rollouts, lr=3.0, max_grad_norm=1e9)
    assert objective() > before


def test_the_kl_is_zero_at_the_reference_and_positive_off_it(policy: tuple) -> None:
    model, parameters = policy
    assert update(model, parameters, roll(model)).kl == 0.0
    perturb(parameters)
    assert update(model, parameters, roll(model)).kl > 0.0


def test_without_a_comparable_group_the_weights_stay(policy: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    model, parameters = policy
    perturb(parameters)
    rollouts, before = roll(model), [p.detach().clone() for p in parameters]
    flat = compute_advantages(torch.full((8,), 0.5).double(), [i // 4 for i in range(8)])
    monkeypatch.setattr(model, "predict", lambda *_, **__: pytest.fail("nothing is trained, so no replay"))
    stats = update_policy(
        model,
        RULE,
        [(rollouts, flat)],
        parameters,
        torch.optim.SGD(parameters, 1.0),
        ALGORITHM,
        on_policy=True,
    )
    assert stats.skipped
    assert all(torch.equal(a, b) for a, b in zip(parameters, before, strict=True))


@pytest.mark.parametrize("storage", [None, torch.bfloat16])
def test_the_first_frame_is_the_condition_throughout(policy: tuple, storage: torch.dtype | None) -> None:
    """Also where the window is kept in half precision, and of what replay puts into the model."""
    model, _ = policy
    rule, first = dataclasses.replace(RULE, storage_dtype=storage), conditioning(model).first_frame_BChw
    seen, predict = [], model.predict

    def watched(latents: torch.Tensor, *args):
        seen.append(torch.equal(latents[:, :, 0], first))
        return predict(latents, *args)

    model.predict = watched
    rollouts = sample(model, conditioning(model), rule, num_latent_frames=3, window=(1, 2), seeds=range(8))
    out = replay(model, rule, rollouts, rollouts.steps[0])
    assert torch.equal(out.log_prob, rollouts.steps[0].log_prob_B)
    assert len(seen) == 7 and all(seen)
    assert torch.equal(rollouts.latents_BCThw[:, :, 0], first)


def test_a_window_that_holds_the_last_step_is_refused(policy: tuple) -> None:
    model, _ = policy
    with pytest.raises(ValueError, match=r"window positions must be in \[0, 5\)"):
        sample(model, conditioning(model), RULE, num_latent_frames=3, window=(5,), seeds=range(8))
