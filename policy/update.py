"""The update from scored rollouts: one loop for all algorithms of `policy.algorithms`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from phys4d.models.protocol import VideoModel
from policy.advantages import Advantages
from policy.algorithms import ALGORITHMS, Batch
from policy.config import AlgorithmConfig
from policy.losses import LossStats
from policy.ranks import Ranks
from policy.rollout import Rollouts, SamplingRule

ON_POLICY_TOLERANCE = 1e-4
"""Largest |ratio - 1| of a policy that has not been updated since it sampled: float32 noise is 1e-6."""


@dataclass(frozen=True, kw_only=True)
class UpdateStats:
    """Means over the terms of one optimiser step."""

    num_terms: float
    """Trained terms, over all ranks; without any the means are 0 and say nothing."""
    policy_loss: float
    kl: float
    """Nats per generated dim to the reference."""
    ratio_max: float
    """Largest |ratio - 1|."""
    clip_fraction: float
    grad_norm: float
    skipped: bool
    """The gradient was not finite or nothing could be compared, so the weights were left alone."""
    non_finite: bool
    """The gradient was not finite."""


def update_policy(
    model: VideoModel,
    rule: SamplingRule,
    batches: Iterable[tuple[Rollouts, Advantages]],
    parameters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    config: AlgorithmConfig,
    *,
    on_policy: bool,
    max_terms: int | None = None,
    ranks: Ranks | None = None,
    old_policy: Callable[[], AbstractContextManager[None]] = nullcontext,
    epoch: int = 0,
) -> UpdateStats:
    """Differentiate batch after batch and take one optimiser step.

    Each step of a batch is replayed in one forward of the videos that took it, which is the whole batch
    where windows do not differ, so that the importance ratio of an unchanged policy is 1 to float32 rounding.
    Gradients add up over batches, steps and ranks and are divided by the number of trained terms of all of
    them, once.

    Args:
        batches: rollouts of this rank with their advantages. May be an iterator that waits for rewards: what
            has come is differentiated while the rest is scored.
        on_policy: the policy has not changed since it sampled; the ratio is then checked to be 1.
        max_terms: terms of the update if every video were trained, over all ranks; None counts `batches`.
        old_policy: as in `policy.algorithms.Batch`.
        epoch: pass over these rollouts.

    Raises:
        RuntimeError: replay hands the model other conditioning than rollout did, or an on-policy ratio is
            not 1.
    """
    algorithm = ALGORITHMS[config.name]
    if max_terms is None:
        batches = list(batches)
        max_terms = sum(
            len(advantages.trained) * algorithm.terms_per_video(config, rollouts.window_size)
            for rollouts, advantages in batches
        )
    optimiser.zero_grad(set_to_none=True)
    stats: list[LossStats] = []
    measured: list[LossStats] = []
    for rollouts, advantages in batches:
        batch = Batch(
            model=model,
            rule=rule,
            rollouts=rollouts,
            advantages=advantages,
            config=config,
            num_terms=max(1, max_terms),
            old_policy=old_policy,
            epoch=epoch,
        )
        for loss_stats, with_kl in algorithm.accumulate(batch):
            stats.append(loss_stats)
            if with_kl:
                measured.append(loss_stats)
    ranks = ranks or Ranks.alone()
    ratio_gap = ranks.largest(largest_gap(stats))
    if on_policy and not ratio_gap <= ON_POLICY_TOLERANCE:
        raise RuntimeError(
            f"the importance ratio of an unchanged policy must be 1, got {1 + ratio_gap:.6f}: "
            "replay differs from rollout"
        )
    total, kl_total, loss, kl, clipped = ranks.sums(
        sum(s.num_terms for s in stats),
        sum(s.num_terms for s in measured),
        sum(s.policy_loss * s.num_terms for s in stats),
        sum(s.kl * s.num_terms for s in measured),
        sum(s.clip_fraction * s.num_terms for s in stats),
    )
    _gather_gradients(parameters, ranks, scale=max_terms / max(1.0, total))
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    non_finite = total > 0 and not bool(torch.isfinite(grad_norm))
    skipped = total == 0 or non_finite
    if not skipped:
        optimiser.step()
    return UpdateStats(
        num_terms=total,
        policy_loss=loss / max(1.0, total),
        kl=kl / max(1.0, kl_total),
        ratio_max=ratio_gap,
        clip_fraction=clipped / max(1.0, total),
        grad_norm=float(grad_norm) if torch.isfinite(grad_norm) else 0.0,
        skipped=skipped,
        non_finite=non_finite,
    )


def largest_gap(stats: Iterable[LossStats]) -> float:
    """Largest |ratio - 1|; NaN where a ratio is."""
    gaps = [abs(ratio - 1) for s in stats for ratio in (s.ratio_max, s.ratio_min)]
    return float(torch.tensor([0.0, *gaps], dtype=torch.float64).max())


def _gather_gradients(parameters: list[nn.Parameter], ranks: Ranks, *, scale: float) -> None:
    """Sum gradients over ranks, and divide by the terms there were where that is less than all."""
    if ranks.num > 1:
        # A rank without a trained video has no gradient of its own.
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        ranks.sum_tensors([p.grad for p in parameters if p.grad is not None])
    if scale != 1.0:
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
