"""The diffusion loss of the tiny base and of stage 2: squared error of the model's own velocity."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from phys4d.models.protocol import Conditioning, VideoModel


def diffusion_loss(
    model: VideoModel,
    latents_BCThw: Tensor,
    conditioning: Conditioning,
    level: Float[Tensor, " batch"],
    noise: Tensor,
    change_weight: float = 0.0,
) -> Float[Tensor, ""]:
    """`velocity_error` of the model on noised latents."""
    prediction = model.predict(model.noising.noised(latents_BCThw, noise, level), level, conditioning)
    target = model.noising.velocity(latents_BCThw, noise, level)
    mask = model.generated_mask(latents_BCThw)
    return velocity_error(prediction.velocity_BCThw, target, latents_BCThw, mask, change_weight)


@torch.no_grad()
def held_out_diffusion_loss(
    model: VideoModel,
    latents_BCThw: Tensor,
    conditioning: Conditioning,
    level: Float[Tensor, " batch"],
    noise: Tensor,
    batch_size: int = 8,
) -> float:
    """`diffusion_loss` of many videos, some at a time."""
    total = 0.0
    for start in range(0, len(latents_BCThw), batch_size):
        part = slice(start, start + batch_size)
        latents = latents_BCThw[part]
        loss = diffusion_loss(model, latents, conditioning.select(part), level[part], noise[part])
        total += loss.item() * len(latents)
    return total / len(latents_BCThw)


def velocity_error(
    velocity: Tensor, target: Tensor, latents: Tensor, mask: Tensor, change_weight: float
) -> Float[Tensor, ""]:
    """Mean of w (velocity - target)^2 over generated dims.

    w is 1 + `change_weight` where a latent cell differs from frame 0 by more than half a standard deviation:
    most cells show background that only has to be copied, what moves is worth more.
    """
    change = (latents - latents[:, :, :1]).square().mean(1, keepdim=True)
    weight = mask * (1 + change_weight * (change > 0.25))
    error = (velocity - target).square()
    return (error * weight).sum() / weight.expand_as(error).sum()
