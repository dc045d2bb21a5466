"""The policy-gradient update from scored rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from phys4d.models.protocol import VideoModel
from policy.advantages import Advantages
from policy.config import AlgorithmConfig
from policy.losses import LossStats, clipped_policy_loss
from policy.rollout import RecordedStep, Rollouts, SamplingRule
from policy.samplers import kl_gaussian

ON_POLICY_TOLERANCE = 1e-4
"""Largest |ratio - 1| of a policy that has not been updated since it sampled: float32 noise is 1e-6."""


@dataclass(frozen=True, kw_only=True)
class UpdateStats:
    """Means over the terms of one optimiser step."""

    policy_loss: float
    kl: float
    """Nats per generated dim to the reference."""
    ratio_max: float
    """Largest |ratio - 1|."""
    clip_fraction: float
    grad_norm: float
    skipped: bool
    """The gradient was not finite or nothing could be compared, so the weights were left alone."""


def update_policy(
    model: VideoModel,
    rule: SamplingRule,
    batches: Sequence[tuple[Rollouts, Advantages]],
    parameters: Sequence[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    config: AlgorithmConfig,
    *,
    on_policy: bool,
) -> UpdateStats:
    """Replay the recorded steps and take one optimiser step.

    Each batch is replayed as it was sampled, in one forward of the same shape, so that the importance
    ratio of an unchanged policy is 1 to float32 rounding.

    Args:
        batches: rollouts with their advantages.
        on_policy: the policy has not changed since it sampled; the ratio is then checked to be 1.

    Raises:
        RuntimeError: replay saw other conditioning than rollout, or an on-policy ratio is not 1.
    """
    optimiser.zero_grad(set_to_none=True)
    num_terms = sum(int(adv.trained.sum()) * len(rollouts.steps) for rollouts, adv in batches)
    stats: list[LossStats] = []
    measured: list[LossStats] = []
    for rollouts, advantages in batches:
        if tuple(rollouts.conditioning.digests()) != rollouts.digests:
            raise RuntimeError("replay sees other conditioning than rollout did: its hash has changed")
        for recorded in rollouts.steps:
            # Without a price on it the KL is only watched: one recorded step of each batch will do.
            with_kl = config.kl_weight > 0 or recorded is rollouts.steps[0]
            stats.append(
                _accumulate(model, rule, rollouts, recorded, advantages, num_terms, config, with_kl=with_kl)
            )
            if with_kl:
                measured.append(stats[-1])
    ratio_gap = max((max(s.ratio_max - 1, 1 - s.ratio_min) for s in stats), default=0.0)
    if on_policy and ratio_gap > ON_POLICY_TOLERANCE:
        raise RuntimeError(
            f"the importance ratio of an unchanged policy must be 1, got {1 + ratio_gap:.6f}: "
            "replay differs from rollout"
        )
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    skipped = num_terms == 0 or not bool(torch.isfinite(grad_norm))
    if not skipped:
        optimiser.step()
    total = max(1, sum(s.num_terms for s in stats))
    return UpdateStats(
        policy_loss=sum(s.policy_loss * s.num_terms for s in stats) / total,
        kl=sum(s.kl * s.num_terms for s in measured) / max(1, sum(s.num_terms for s in measured)),
        ratio_max=ratio_gap,
        clip_fraction=sum(s.clip_fraction * s.num_terms for s in stats) / total,
        grad_norm=float(grad_norm) if torch.isfinite(grad_norm) else 0.0,
        skipped=skipped,
    )


def _accumulate(
    model: VideoModel,
    rule: SamplingRule,
    rollouts: Rollouts,
    recorded: RecordedStep,
    advantages: Advantages,
    num_terms: int,
    config: AlgorithmConfig,
    *,
    with_kl: bool,
) -> LossStats:
    """Add one recorded step's gradient."""

    def replay() -> tuple[Tensor, Tensor, float]:
        out = rule.take(
            model,
            recorded.x_BCThw,
            recorded.i,
            rollouts.conditioning,
            mode="sde",
            x_next=recorded.x_next_BCThw,
        )
        assert out.log_prob is not None
        return out.log_prob, out.mean, out.std

    log_prob, mean, std = replay()
    kl = None
    if with_kl:
        with torch.no_grad(), model.reference():
            _, reference_mean, _ = replay()
        kl = kl_gaussian(mean, reference_mean, std, model.generated_mask(mean))
    result = clipped_policy_loss(
        log_prob,
        recorded.log_prob_B,
        advantages.values.to(log_prob),
        clip_range=config.clip_range,
        trained=advantages.trained,
        kl=kl,
        beta=config.kl_weight,
        num_terms=max(1, num_terms),
    )
    result.loss.backward()
    return result.stats
