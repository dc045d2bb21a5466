"""Flow matching: the diffusion loss of the tiny base and of stage 2."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from phys4d.models.protocol import Conditioning, VideoModel


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1: shift s / (1 + (shift - 1) s). Source: Esser et al. 2024, eq. 23."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def logit_normal_levels(num: int, shift: float, generator: torch.Generator) -> Float[Tensor, " num"]:
    """Noise levels in (0, 1): the sigmoid of a standard normal, shifted.

    Source: Esser et al. 2024, section 3.1.
    """
    return shifted(torch.sigmoid(torch.randn(num, generator=generator)), shift)


def noised(latents: Tensor, noise: Tensor, sigma: Float[Tensor, " batch"]) -> Tensor:
    """x_s = (1 - s) x0 + s eps, one level per video."""
    level = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (1 - level) * latents + level * noise


def flow_matching_loss(
    model: VideoModel,
    latents_BCThw: Tensor,
    conditioning: Conditioning,
    sigma: Float[Tensor, " batch"],
    noise: Tensor,
    change_weight: float = 0.0,
) -> Float[Tensor, ""]:
    """`velocity_error` of the model on noised latents."""
    prediction = model.predict(noised(latents_BCThw, noise, sigma), sigma, conditioning)
    mask = model.generated_mask(latents_BCThw)
    return velocity_error(prediction.velocity_BCThw, latents_BCThw, noise, mask, change_weight)


def velocity_error(
    velocity: Tensor, latents: Tensor, noise: Tensor, mask: Tensor, change_weight: float
) -> Float[Tensor, ""]:
    """Mean of w (v - (eps - x0))^2 over generated dims.

    w is 1 + `change_weight` where a latent cell differs from frame 0 by more than half a standard deviation:
    most cells show background that only has to be copied, what moves is worth more.
    """
    change = (latents - latents[:, :, :1]).square().mean(1, keepdim=True)
    weight = mask * (1 + change_weight * (change > 0.25))
    error = (velocity - (noise - latents)).square()
    return (error * weight).sum() / weight.expand_as(error).sum()
