"""The losses: clipped policy gradients of DDPO and GRPO, the ratio of GRPO-Guard, and DiffusionNFT.

    rho = exp(logp - logp_old)
    L   = max(-A rho, -A clip(rho, 1 - eps, 1 + eps)) w + beta KL

A term is one trained step of one sample. Terms that are not trained (a failed reward, a group without spread)
have no loss, no gradient and no place in a denominator.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policy.samplers import masked_mean


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


def guarded_log_ratio(
    log_prob: Float[Tensor, " terms"],
    log_prob_old: Float[Tensor, " terms"],
    mean_shift: Float[Tensor, " terms"],
    std: float,
) -> Float[Tensor, " terms"]:
    """The log-ratio of GRPO-Guard: S (log rho + |mu - mu_old|^2 / (2 S^2)).

    log rho has mean -|mu - mu_old|^2 / (2 S^2) over the noise, and a spread of |mu - mu_old| / S. Added and
    multiplied away, what remains is noise . (mu - mu_old): centred on 0 and of one size at every step, so
    that the clip acts alike on too likely and too unlikely samples and on early and late steps.

    Args:
        mean_shift: (mu - mu_old)^2, mean over generated dims, with gradient.

    Source: Wang et al. 2025 (GRPO-Guard, arXiv 2510.22319), equation 8.
    """
    return std * (log_prob - log_prob_old.detach() + mean_shift / (2.0 * std * std))


def negative_aware_terms(
    velocity: Float[Tensor, "terms *dims"],
    velocity_old: Float[Tensor, "terms *dims"],
    noised: Float[Tensor, "terms *dims"],
    latents: Float[Tensor, "terms *dims"],
    advantages: Float[Tensor, " terms"],
    *,
    on_x: Float[Tensor, " terms"],
    on_velocity: Float[Tensor, " terms"],
    strength: float,
    advantage_clip: float,
    generated: Bool[Tensor, "terms *dims"] | None = None,
) -> Float[Tensor, " terms"]:
    """DiffusionNFT: pull the velocity towards good videos and push its mirror image away from bad ones.

        v+ = (1 - b) v_old + b v        v- = (1 + b) v_old - b v        r = 1/2 + A / (2 A_max)
        L  = A_max / b [ r D(x0_hat(v+), x_0) + (1 - r) D(x0_hat(v-), x_0) ]

    with x0_hat(v) = on_x x + on_velocity v and D the squared distance over its own mean absolute value,
    which carries no gradient. At v = v_old the gradient is that of A D, whatever b is.

    Args:
        velocity: of the policy, with gradient; `velocity_old` of the one that made the videos.
        noised: x_s made from `latents`, the finished videos.
        advantages: within [-advantage_clip, advantage_clip], else they are clipped.

    Source: Zheng et al. 2025 (DiffusionNFT, arXiv 2509.16117).
    """
    shape = (-1, *[1] * (latents.ndim - 1))
    to_data, from_velocity = on_x.view(shape), on_velocity.view(shape)
    share = 0.5 + 0.5 * (advantages / advantage_clip).clamp(-1.0, 1.0)
    velocity_old = velocity_old.detach()

    def distance(guess: Tensor) -> Tensor:
        error = to_data * noised + from_velocity * guess - latents
        scale = masked_mean(error.detach().abs(), generated).clamp(min=1e-5)
        return masked_mean(error.square(), generated) / scale

    positive = distance((1.0 - strength) * velocity_old + strength * velocity)
    negative = distance((1.0 + strength) * velocity_old - strength * velocity)
    return advantage_clip / strength * (share * positive + (1.0 - share) * negative)
