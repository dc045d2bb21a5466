"""The algorithms, in one registry: each turns a batch of scored rollouts into gradients.

`policy.update` is the only loop. An algorithm says what a rollout is compared with, what it needs of a
rollout, and how its terms are differentiated; a term is one trained step, or noise level, of one video.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from phys4d.models.beside import velocity_beside
from phys4d.models.protocol import VideoModel
from phys4d.runtime.seeding import derive_seed
from policy.advantages import Advantages
from policy.config import AlgorithmConfig, TrainConfig
from policy.losses import (
    LossStats,
    PolicyLoss,
    clipped_policy_loss,
    guarded_log_ratio,
    negative_aware_terms,
)
from policy.rollout import RecordedStep, Rollouts, SamplingRule, check_conditioning, replay
from policy.samplers import StepOut, generated_dims, kl_gaussian, masked_mean
from policy.step_rules import longcat_weight


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What an algorithm differentiates."""

    model: VideoModel
    rule: SamplingRule
    rollouts: Rollouts
    advantages: Advantages
    config: AlgorithmConfig
    num_terms: int
    """Terms of the whole update, by which each loss is divided."""
    old_policy: Callable[[], AbstractContextManager[None]]
    """Within this context the weights are those that sampled; only DiffusionNFT asks for it."""
    epoch: int = 0
    """Pass over the same rollouts."""


Accumulate = Callable[[Batch], list[tuple[LossStats, bool]]]
"""Adds a batch's gradients; statistics of each loss and whether its KL was measured."""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """One way to learn from scored rollouts."""

    accumulate: Accumulate
    compares: Literal["siblings", "batch"] = "siblings"
    """What a rollout's reward is compared with."""
    records_steps: bool = True
    """It replays a stochastic window; else it needs finished videos only, sampled by the ODE."""
    keeps_means: bool = False
    """It needs the means of recorded steps."""
    follows: bool = False
    """Videos are sampled by an old policy that follows the trained one slowly."""

    def terms_per_video(self, config: AlgorithmConfig, window_size: int) -> int:
        """Terms of each trained video in one pass."""
        return window_size if self.records_steps else config.nft_levels


def _clipped(batch: Batch) -> list[tuple[LossStats, bool]]:
    """PPO's clip on the ratio of each recorded step. Source: Black et al. 2023; Liu et al. 2025."""

    def loss(batch: Batch, recorded: RecordedStep, out: StepOut, kl: Tensor | None) -> PolicyLoss:
        assert out.log_prob is not None
        weights = None
        if batch.config.step_weight == "longcat":
            weight = longcat_weight(batch.rule.coefficients(recorded.i))
            weights = torch.full_like(out.log_prob.detach(), weight)
        return _policy_loss(batch, out.log_prob, recorded.log_prob_B, weights, kl)

    return _replayed(batch, loss)


def _guarded(batch: Batch) -> list[tuple[LossStats, bool]]:
    """The clip on the regulated ratio, divided by |dt| so that no step outweighs the others.

    With v-prediction, which has no dt, the step's factor on the prediction stands for it.
    """

    def loss(batch: Batch, recorded: RecordedStep, out: StepOut, kl: Tensor | None) -> PolicyLoss:
        assert out.log_prob is not None and recorded.mean_BCThw is not None
        schedule = batch.rule.schedule
        generated = generated_dims(batch.model.generated_mask(out.mean), out.mean)
        shift = masked_mean((out.mean - recorded.mean_BCThw) ** 2, generated)
        log_ratio = guarded_log_ratio(out.log_prob, recorded.log_prob_B, shift, out.std)
        if schedule.family == "flow":
            level, next_level = schedule.step_levels(recorded.i)
            size = level - next_level
        else:
            size = abs(batch.rule.coefficients(recorded.i).on_prediction)
        weights = torch.full_like(log_ratio.detach(), 1.0 / size)
        return _policy_loss(batch, log_ratio, torch.zeros_like(log_ratio), weights, kl)

    return _replayed(batch, loss)


def _policy_loss(
    batch: Batch, log_prob: Tensor, log_prob_old: Tensor, weights: Tensor | None, kl: Tensor | None
) -> PolicyLoss:
    return clipped_policy_loss(
        log_prob,
        log_prob_old,
        batch.advantages.values.to(log_prob),
        clip_range=batch.config.clip_range,
        trained=batch.advantages.trained.to(log_prob.device),
        weights=weights,
        kl=kl,
        beta=batch.config.kl_weight,
        num_terms=batch.num_terms,
    )


def _replayed(
    batch: Batch, loss: Callable[[Batch, RecordedStep, StepOut, Tensor | None], PolicyLoss]
) -> list[tuple[LossStats, bool]]:
    """Replay each recorded step in one forward of the videos that took it."""
    if not batch.advantages.trained.any():
        return []
    results = []
    watched: set[int] = set()
    for recorded in batch.rollouts.steps:
        whole = batch.advantages
        part = dataclasses.replace(
            whole, values=recorded.of(whole.values), trained=recorded.of(whole.trained)
        )
        if not part.trained.any():
            continue
        # Without a price on it the KL is only watched: the first recorded step of each video tells of all.
        videos = set(recorded.videos or range(len(whole.values)))
        with_kl = batch.config.kl_weight > 0 or not videos <= watched
        watched |= videos
        out = replay(batch.model, batch.rule, batch.rollouts, recorded)
        kl = None
        if with_kl:
            with torch.no_grad(), batch.model.reference():
                reference = replay(batch.model, batch.rule, batch.rollouts, recorded)
            kl = kl_gaussian(out.mean, reference.mean, out.std, batch.model.generated_mask(out.mean))
            if not batch.config.kl_weight:
                kl = kl * _over_window(batch, recorded).to(kl)
        result = loss(dataclasses.replace(batch, advantages=part), recorded, out, kl)
        result.loss.backward()
        results.append((result.stats, with_kl))
    return results


def _negative_aware(batch: Batch) -> list[tuple[LossStats, bool]]:
    """DiffusionNFT: finished videos, noised anew at `nft_levels` positions of the schedule.

    Level and noise come from each video's seed. The KL is that of a step of the configured sampler at the
    level, in nats per dim, so that it means the same in every algorithm.
    """
    if not batch.advantages.trained.any():
        return []
    model, schedule, config = batch.model, batch.rule.schedule, batch.config
    latents, conditioning = batch.rollouts.latents_BCThw, batch.rollouts.conditioning
    check_conditioning(conditioning, batch.rollouts.digests)
    mask = model.generated_mask(latents)
    generated = generated_dims(mask, latents)
    first = conditioning.first_frame_BChw.unsqueeze(2)
    generators = [
        torch.Generator().manual_seed(derive_seed("noise of nft", seed, batch.epoch))
        for seed in batch.rollouts.seeds
    ]
    num_positions = schedule.num_steps - 1
    positions = torch.stack([torch.randperm(num_positions, generator=g) for g in generators])
    results = []
    for draw in range(config.nft_levels):
        chosen = positions[:, draw].tolist()
        noise = torch.stack([torch.randn(latents.shape[1:], generator=g) for g in generators]).to(latents)
        levels = torch.tensor([schedule.model_level(i) for i in chosen], device=latents.device)
        noised = model.noising.noised(latents, noise, levels)
        noised = mask * noised + (1 - mask) * first

        def velocity(noised: Tensor = noised, levels: Tensor = levels) -> Tensor:
            return velocity_beside(model, noised, levels, conditioning)

        with_kl = config.kl_weight > 0 or draw == 0
        kl = torch.zeros(len(latents), device=latents.device)
        with torch.no_grad(), batch.old_policy():
            old = velocity()
        new = velocity()
        if with_kl:
            with torch.no_grad(), model.reference():
                reference = velocity()
            kl = kl + _kl_factors(batch.rule, chosen).to(new) * masked_mean((new - reference) ** 2, generated)
        factors = torch.tensor([schedule.data_from_velocity(i) for i in chosen]).to(latents)
        trained = batch.advantages.trained.to(latents.device)
        terms = negative_aware_terms(
            new,
            old,
            noised,
            latents,
            batch.advantages.values.to(latents),
            on_x=factors[:, 0],
            on_velocity=factors[:, 1],
            strength=config.nft_strength,
            advantage_clip=config.advantage_clip,
            generated=generated,
        )
        kept = torch.where(trained, terms + config.kl_weight * kl, torch.zeros_like(terms))
        (kept.sum() / max(1, batch.num_terms)).backward()
        num = max(1, int(trained.sum()))
        stats = LossStats(
            num_terms=int(trained.sum()),
            policy_loss=float(terms.detach()[trained].sum()) / num,
            kl=float(kl.detach()[trained].sum()) / num,
            ratio_mean=1.0,
            ratio_min=1.0,
            ratio_max=1.0,
            clip_fraction=0.0,
        )
        results.append((stats, with_kl))
    return results


def _over_window(batch: Batch, recorded: RecordedStep) -> Tensor:
    """By what the mean KL of a video's recorded steps is more than that of this one, where the velocity is
    equally far from the reference at all of them: later steps are less noisy."""
    windows: dict[int, list[int]] = {}
    for step in batch.rollouts.steps:
        for video in step.videos or range(len(batch.rollouts.latents_BCThw)):
            windows.setdefault(video, []).append(step.i)
    here = _kl_factors(batch.rule, [recorded.i])
    videos = recorded.videos or range(len(batch.rollouts.latents_BCThw))
    means = [_kl_factors(batch.rule, windows[video]).mean() for video in videos]
    return torch.stack(means) / here


def _kl_factors(rule: SamplingRule, positions: list[int]) -> Tensor:
    """KL of a step in nats per dim, over the squared distance of velocities: on_prediction^2 / (2 S^2)."""
    steps = [rule.coefficients(i) for i in positions]
    return torch.tensor([0.5 * (step.on_prediction / step.std) ** 2 for step in steps])


ALGORITHMS: dict[str, Algorithm] = {
    "grpo": Algorithm(accumulate=_clipped),
    "ddpo": Algorithm(accumulate=_clipped, compares="batch"),
    "grpo_guard": Algorithm(accumulate=_guarded, keeps_means=True),
    "diffusion_nft": Algorithm(accumulate=_negative_aware, records_steps=False, follows=True),
}
"""Name in `AlgorithmConfig`: the algorithm."""


def has_old_policy(config: TrainConfig) -> bool:
    """Whether other weights sample videos than those that are trained on them."""
    return ALGORITHMS[config.algorithm.name].follows or config.rollout.one_step_off_policy
