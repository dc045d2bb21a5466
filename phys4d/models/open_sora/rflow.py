"""The rectified flow of Open-Sora v1.2 with a mask over frames.

Conventions are this library's: x_s = (1 - s) x0 + s eps with s = t / 1000 falling from 1 to 0, and
v = eps - x0, so that x moves by v (s_next - s). Upstream's network predicts x0 - eps.

Shape legend: B videos, C channels, T latent frames, h w latent cells.

Source: Open-Sora v1.2 report; Liu et al., Flow Straight and Fast, 2022; Esser et al., Scaling Rectified
Flow Transformers, 2024, section 5.3.2, for the shift with resolution.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor

from phys4d.models.noising import Flow, shifted

Velocity = Callable[[Tensor, float, Bool[Tensor, "batch frames"]], Tensor]
"""v(x, s, generated): the velocity of latents whose `generated` frames are at level s, the others clean."""


class RFlowSettings(SchedulerMixin, ConfigMixin):
    """What a saved model says of its sampling; no pipeline of diffusers runs it."""

    @register_to_config
    def __init__(self, num_steps: int = 30, guidance_scale: float = 7.0, fps: float = 24.0) -> None:
        """
        Args:
            num_steps, guidance_scale: published ones of sampling.
            fps: frames per second that the transformer is told.
        """


def resolution_shift(height: int, width: int, num_frames: int) -> float:
    """How far a size shifts noise levels: sqrt(h w / 512^2) sqrt(5 floor(num_frames / 17)).

    Args:
        height, width: pixels.
        num_frames: pixel frames; 1 is an image, whose factor for time is 1.

    Raises:
        ValueError: a size below 1, or 2 to 16 frames, for which the formula gives 0: there the shift has to
            be chosen.
    """
    if min(height, width, num_frames) < 1:
        raise ValueError(f"height, width and num_frames must be at least 1, got {height, width, num_frames}")
    if 1 < num_frames < 17:
        raise ValueError(
            f"the shift is defined for 1 frame or at least 17, got num_frames {num_frames}; choose a shift"
        )
    latent_frames = 1 if num_frames == 1 else num_frames // 17 * 5
    return math.sqrt(height * width / 512**2) * math.sqrt(latent_frames)


def rflow_levels(num_steps: int, shift: float) -> Float[Tensor, " levels"]:
    """`num_steps` + 1 noise levels from 1 to 0, even and then shifted, float64."""
    if num_steps < 1 or not (shift > 0 and math.isfinite(shift)):
        raise ValueError(f"num_steps must be at least 1 and shift positive, got {num_steps} and {shift}")
    return shifted(torch.linspace(1.0, 0.0, num_steps + 1, dtype=torch.float64), shift)


def guided(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: u + scale (c - u)."""
    return unconditional + scale * (conditional - unconditional)


def sample(
    velocity: Velocity,
    latents_BCThw: Float[Tensor, "batch channels frames h w"],
    levels: Float[Tensor, " levels"],
    mask_BT: Float[Tensor, "batch frames"],
    generator: torch.Generator,
) -> Float[Tensor, "batch channels frames h w"]:
    """Integrate from noise to data where the mask says so.

    Args:
        latents_BCThw: noise at frames of mask 1, clean latents at all others.
        mask_BT: 1 generates a frame, 0 keeps it, m between edits it: the frame is kept until the level has
            fallen to m, gets fresh noise of that level and is generated from there.
    """
    x = latents_BCThw
    noisy = mask_BT == 1
    for level, level_next in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        generated = mask_BT >= level
        entering = (generated & ~noisy)[:, None, :, None, None]
        noise = torch.randn(x.shape, generator=generator, device=generator.device).to(x)
        x = torch.where(entering, Flow().noised(x, noise, torch.full((len(x),), level).to(x)), x)
        noisy = noisy | generated
        moved = x + velocity(x, level, generated) * (level_next - level)
        x = torch.where(generated[:, None, :, None, None], moved, x)
    return x
