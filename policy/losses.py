"""The clipped policy-gradient loss of DDPO and GRPO.

    rho = exp(logp - logp_old)
    L   = max(-A rho, -A clip(rho, 1 - eps, 1 + eps)) w + beta KL

A term is one trained step of one sample. Terms that are not trained (a failed reward, a group without spread)
have no loss, no gradient and no place in a denominator.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class LossStats:
    """What one loss says about the update; means and extremes are over the trained terms."""

    num_terms: int
    """Trained terms in this call."""
    policy_loss: float
    """Mean of the clipped objective."""
    kl: float
    """Mean KL to the reference in nats per generated dim; 0 if none was given."""
    ratio_mean: float
    ratio_min: float
    ratio_max: float
    clip_fraction: float
    """Share of terms whose ratio left [1 - eps, 1 + eps]."""


@dataclass(frozen=True, kw_only=True)
class PolicyLoss:
    """A loss to differentiate and its statistics."""

    loss: Float[Tensor, ""]
    stats: LossStats


def clipped_policy_loss(
    log_prob: Float[Tensor, " terms"],
    log_prob_old: Float[Tensor, " terms"],
    advantages: Float[Tensor, " terms"],
    *,
    clip_range: float,
    trained: Bool[Tensor, " terms"] | None = None,
    weights: Float[Tensor, " terms"] | None = None,
    kl: Float[Tensor, " terms"] | None = None,
    beta: float = 0.0,
    num_terms: int | None = None,
) -> PolicyLoss:
    """Sum of the terms' losses divided by `num_terms`.

    Args:
        log_prob: of the policy being trained, mean over generated dims, with gradient.
        log_prob_old: of the policy that drew the rollout.
        advantages: one per term; that of a sample is repeated over its steps.
        clip_range: eps on the ratio of mean log-probs, so of the order of 1e-4.
        trained: terms that count; all if None. Others may be NaN.
        weights: factor w of a term, 1 if None.
        kl: exact KL of each term to the reference, with gradient.
        beta: weight of the KL.
        num_terms: trained terms of the whole update. Give it when gradients are accumulated over several
            calls, so that the sum of them is divided once; None divides by the trained terms of this call.

    Without any trained term the loss is 0 with zero gradient.

    Source: Schulman et al. 2017 (PPO), equation 7; Black et al. 2023 (DDPO); Shao et al. 2024 (DeepSeekMath).
    """
    if trained is None:
        trained = torch.ones_like(log_prob, dtype=torch.bool)
    given = {
        "log_prob_old": log_prob_old,
        "advantages": advantages,
        "trained": trained,
        "weights": weights,
        "kl": kl,
    }
    for name, tensor in given.items():
        if tensor is not None and (tensor.shape != log_prob.shape or tensor.ndim != 1):
            raise ValueError(
                f"{name} must be one per term, {tuple(log_prob.shape)}, got {tuple(tensor.shape)}"
            )
    if not 0.0 < clip_range < 1.0:
        raise ValueError(f"clip_range must be in (0, 1), got {clip_range}")
    if beta < 0.0 or (beta > 0.0 and kl is None):
        raise ValueError(f"beta must not be negative and needs a kl when positive, got beta {beta}, kl {kl}")
    num_here = int(trained.sum())
    if num_terms is None:
        num_terms = num_here
    elif num_terms < num_here:
        raise ValueError(f"num_terms counts the whole update: at least {num_here} here, got {num_terms}")

    def only_trained(values: Tensor) -> Tensor:
        return torch.where(trained, values, torch.zeros_like(values))

    advantages = only_trained(advantages.detach()).to(log_prob.dtype)
    ratio = torch.exp(only_trained(log_prob - log_prob_old.detach()))
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    objective = torch.maximum(-advantages * ratio, -advantages * clipped)
    if weights is not None:
        objective = objective * only_trained(weights.detach())
    kl_terms = torch.zeros_like(objective) if kl is None else only_trained(kl)
    loss = (objective + beta * kl_terms).sum() / max(num_terms, 1)

    seen = ratio.detach()[trained]
    if num_here == 0:
        seen = torch.ones(1)
    return PolicyLoss(
        loss=loss,
        stats=LossStats(
            num_terms=num_here,
            policy_loss=objective.detach().sum().item() / max(num_here, 1),
            kl=kl_terms.detach().sum().item() / max(num_here, 1),
            ratio_mean=seen.mean().item(),
            ratio_min=seen.min().item(),
            ratio_max=seen.max().item(),
            clip_fraction=((seen - 1.0).abs() > clip_range).double().mean().item(),
        ),
    )
