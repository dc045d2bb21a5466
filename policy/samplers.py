"""One reverse step of the policy, drawn in a rollout and scored in a replay by the same function."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from policy.schedules import Schedule
from policy.step_rules import STD_CAP, Mode, Sampler, step_coefficients

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass(frozen=True)
class StepOut:
    """What one step gives. Tensors are float32, or float64 where the input is."""

    x_next: Float[Tensor, "batch *dims"]
    """The sample, without gradient: drawn, or the recorded one. Conditioning dims are those of x."""
    mean: Float[Tensor, "batch *dims"]
    """Mean of the step, with gradient. Conditioning dims are those of x."""
    std: float
    """Full standard deviation S of the step, the same for every dim."""
    log_prob: Float[Tensor, " batch"] | None
    """Mean over generated dims of log Normal(x_next; mean, S^2); None for a deterministic step."""


def step(
    x: Float[Tensor, "batch *dims"],
    prediction: Float[Tensor, "batch *dims"],
    i: int,
    *,
    schedule: Schedule,
    sampler: Sampler,
    mode: Mode = "sde",
    noise_level: float | None = None,
    std_cap: float | None = STD_CAP,
    x_next: Float[Tensor, "batch *dims"] | None = None,
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    generator: Generators = None,
    storage_dtype: torch.dtype | None = None,
) -> StepOut:
    """Take one reverse step, or score a recorded one.

        x' ~ Normal(mean, S^2)
        log_prob = mean over generated dims of [ -(x' - mean)^2 / (2 S^2) - log S - log(2 pi) / 2 ]

    Without `x_next` the step is drawn (rollout); with it the recorded sample is scored (replay).
    The gradient of `log_prob` reaches `prediction` through the mean only.

    Args:
        x: latent at position `i`; any number of dims after the batch.
        prediction: the model's output after guidance: velocity for flow samplers, v or eps for DDIM.
        i: position in the schedule, 0 at noise.
        mode: `ode` is the deterministic step of the same family (noise level 0).
        noise_level: the sampler's noise (eta for Dance and DDIM); needed in `sde` mode.
        std_cap: largest std of a Flow-, Dance- or Wan-SDE step; None is no cap. Replay needs the rollout's.
        x_next: the recorded sample to score.
        mask: 1 on generated dims, 0 on conditioning and padding; broadcastable to `x`. Masked dims keep x.
        generator: one for the batch, or one per sample, which makes a sample independent of its batch.
        storage_dtype: dtype in which the rollout is kept; the sample is rounded to it before it is scored.

    Raises:
        ValueError: shapes, schedule, position, noise level or mask do not fit.
    """
    if prediction.shape != x.shape:
        raise ValueError(
            f"prediction must have the shape of x {tuple(x.shape)}, got {tuple(prediction.shape)}"
        )
    if x_next is not None and x_next.shape != x.shape:
        raise ValueError(f"x_next must have the shape of x {tuple(x.shape)}, got {tuple(x_next.shape)}")
    coefficients = step_coefficients(
        i, schedule=schedule, sampler=sampler, mode=mode, noise_level=noise_level, std_cap=std_cap
    )
    std = coefficients.std
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    x = x.to(dtype)
    generated = None if mask is None else generated_dims(mask, x)

    mean = coefficients.on_x * x + coefficients.on_prediction * prediction.to(dtype)
    if generated is not None:
        mean = torch.where(generated, mean, x)
    if x_next is not None:
        sample = x_next.detach()
    elif std > 0.0:
        sample = mean.detach() + std * _standard_normal(mean, generator)
    else:
        sample = mean.detach()
    if storage_dtype is not None:
        sample = sample.to(storage_dtype)
    sample = sample.to(dtype)
    if generated is not None:
        sample = torch.where(generated, sample, x.detach())

    log_prob = gaussian_log_prob(sample, mean, std, generated) if std > 0.0 else None
    return StepOut(sample, mean, std, log_prob)


def generated_dims(mask: Tensor, x: Float[Tensor, "batch *dims"]) -> Bool[Tensor, "batch *dims"]:
    """Expand a 0/1 mask (1 generated) to the shape of `x`.

    Raises:
        ValueError: a value besides 0 and 1, a shape that does not broadcast, a sample with no generated dim.
    """
    if mask.dtype != torch.bool and not ((mask == 0) | (mask == 1)).all():
        raise ValueError("mask must be 1 on generated dims and 0 on conditioning dims, got other values")
    if mask.ndim != x.ndim:
        raise ValueError(
            f"mask must have all {x.ndim} dims of x (size 1 broadcasts), got shape {tuple(mask.shape)}"
        )
    try:
        generated = mask.bool().to(x.device).expand(x.shape)
    except RuntimeError as error:
        raise ValueError(f"mask {tuple(mask.shape)} does not broadcast to x {tuple(x.shape)}") from error
    if not generated.flatten(1).any(dim=1).all():
        raise ValueError("every sample needs at least one generated dim, but mask is 0 on all dims of one")
    return generated


def gaussian_log_prob(
    sample: Float[Tensor, "batch *dims"],
    mean: Float[Tensor, "batch *dims"],
    std: float,
    generated: Bool[Tensor, "batch *dims"] | None = None,
) -> Float[Tensor, " batch"]:
    """Mean over generated dims of -(x - mean)^2 / (2 S^2) - log S - log(2 pi) / 2."""
    per_dim = -((sample - mean) ** 2) / (2.0 * std * std)
    return masked_mean(per_dim, generated) - (math.log(std) + 0.5 * math.log(2.0 * math.pi))


def kl_gaussian(
    mean: Float[Tensor, "batch *dims"],
    mean_ref: Float[Tensor, "batch *dims"],
    std: float,
    mask: Tensor | None = None,
) -> Float[Tensor, " batch"]:
    """KL(pi || pi_ref) of two steps with equal std, in nats per generated dim: (mean - mean_ref)^2 / (2 S^2).

    Exact, because both steps are Gaussian with one S. Times the number of generated dims it is in joint nats.
    """
    if not std > 0.0:
        raise ValueError(f"std must be positive for a KL, got {std}; train only steps with noise")
    if mean.shape != mean_ref.shape:
        raise ValueError(f"mean {tuple(mean.shape)} and mean_ref {tuple(mean_ref.shape)} must have one shape")
    generated = None if mask is None else generated_dims(mask, mean)
    return masked_mean((mean - mean_ref) ** 2 / (2.0 * std * std), generated)


def masked_mean(
    values: Float[Tensor, "batch *dims"], generated: Bool[Tensor, "batch *dims"] | None
) -> Float[Tensor, " batch"]:
    """Mean per sample over the dims where `generated` is true; what lies elsewhere, even NaN, is ignored."""
    if generated is None:
        return values.flatten(1).mean(dim=1)
    kept = torch.where(generated, values, torch.zeros_like(values)).flatten(1)
    return kept.sum(dim=1) / generated.flatten(1).sum(dim=1)


def _standard_normal(like: Tensor, generator: Generators) -> Tensor:
    """Unit noise in the shape of `like`, drawn on the generator's own device."""
    if generator is None:
        return torch.randn_like(like)
    if isinstance(generator, torch.Generator):
        noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
        return noise.to(like.device)
    if len(generator) != like.shape[0]:
        raise ValueError(f"one generator per sample is needed: {like.shape[0]} samples, got {len(generator)}")
    return torch.cat([_standard_normal(like[b : b + 1], g) for b, g in enumerate(generator)])
