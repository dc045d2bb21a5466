"""How data becomes noise, and what a model predicts along the way: a straight flow, or v-prediction.

A level s in [0, 1] says how noisy a latent is, 0 data and 1 noise, in the unit of the model's timesteps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

Family = Literal["flow", "diffusion"]
Levels = Float[Tensor, " batch"]


class Noising(Protocol):
    """A noising process and the velocity that a model of it predicts."""

    @property
    def family(self) -> Family:
        """Which samplers fit: those of rectified flow, or those of a diffusion with alpha_bar."""
        ...

    def timestep(self, level: Levels) -> Levels:
        """What the transformer is told, 0 to 1000."""
        ...

    def noised(self, latents: Tensor, noise: Tensor, level: Levels) -> Tensor:
        """x_s, one level per video."""
        ...

    def velocity(self, latents: Tensor, noise: Tensor, level: Levels) -> Tensor:
        """What the model is to predict from x_s."""
        ...

    def training_levels(self, num: int, shift: float, generator: torch.Generator) -> Levels:
        """Levels to train on; a shift above 1 moves them towards noise."""
        ...


def shifted(level: Tensor, shift: float) -> Tensor:
    """Move noise levels towards 1: shift s / (1 + (shift - 1) s). Source: Esser et al. 2024, eq. 23."""
    return shift * level / (1 + (shift - 1) * level)


@dataclass(frozen=True)
class Flow:
    """Rectified flow: x_s = (1 - s) x0 + s eps, velocity eps - x0, timestep 1000 s."""

    family: Literal["flow"] = "flow"

    def timestep(self, level: Levels) -> Levels:
        return 1000.0 * level

    def noised(self, latents: Tensor, noise: Tensor, level: Levels) -> Tensor:
        s = _per_video(level, latents)
        return (1 - s) * latents + s * noise

    def velocity(self, latents: Tensor, noise: Tensor, level: Levels) -> Tensor:
        return noise - latents

    def training_levels(self, num: int, shift: float, generator: torch.Generator) -> Levels:
        """The sigmoid of a standard normal, shifted. Source: Esser et al. 2024, section 3.1."""
        return shifted(torch.sigmoid(torch.randn(num, generator=generator)), shift)


@dataclass(frozen=True)
class VPrediction:
    """CogVideoX: x_s = sqrt(A) x0 + sqrt(1 - A) eps, velocity sqrt(A) eps - sqrt(1 - A) x0.

    A is alpha_bar at the integer timestep 1000 s - 1 (0 at least), so s = 1 is pure noise at timestep 999.

    Source: Salimans and Ho 2022, appendix D; Lin et al. 2024, algorithm 1.
    """

    snr_shift_scale: float = 1.0
    """Divides the signal-to-noise ratio: 3 for CogVideoX-2B, 1 for 5B."""
    family: Literal["diffusion"] = "diffusion"
    alpha_bar: Float64[np.ndarray, " timesteps"] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        alpha_bar = scaled_linear_alpha_bar(
            beta_start=0.00085,
            beta_end=0.012,
            snr_shift_scale=self.snr_shift_scale,
            zero_terminal_snr=True,
        )
        object.__setattr__(self, "alpha_bar", alpha_bar)

    def timestep(self, level: Levels) -> Levels:
        return ((1000.0 * level).round() - 1.0).clamp(0.0, 999.0)

    def noised(self, latents: Tensor, noise: Tensor, level: Levels) -> Tensor:
        signal, spread = self._signal_and_spread(latents, level)
        return signal * latents + spread * noise

    def velocity(self, latents: Tensor, noise: Tensor, level: Levels) -> Tensor:
        signal, spread = self._signal_and_spread(latents, level)
        return signal * noise - spread * latents

    def training_levels(self, num: int, shift: float, generator: torch.Generator) -> Levels:
        """Uniform, shifted. Source: Yang et al. 2024 (CogVideoX), section 3.4."""
        return shifted(torch.rand(num, generator=generator), shift)

    def _signal_and_spread(self, latents: Tensor, level: Levels) -> tuple[Tensor, Tensor]:
        index = self.timestep(level.double()).long().cpu()
        power = _per_video(torch.from_numpy(self.alpha_bar)[index], latents)
        return power.sqrt().to(latents), (1 - power).sqrt().to(latents)


def scaled_linear_alpha_bar(
    *, beta_start: float, beta_end: float, snr_shift_scale: float = 1.0, zero_terminal_snr: bool = False
) -> Float64[np.ndarray, " timesteps"]:
    """alpha_bar at the 1000 training timesteps.

    beta is linear in its square root. `snr_shift_scale` c maps A to A / (c + (1 - c) A), dividing the
    signal-to-noise ratio by c; then `zero_terminal_snr` maps sqrt(A) linearly so that A[999] = 0, A[0] stays.

    Source: Lin et al. 2024, Common Diffusion Noise Schedules and Sample Steps are Flawed, algorithm 1;
    CogVideoXDDIMScheduler of diffusers for the order of the two.
    """
    if not 0.0 < beta_start < beta_end < 1.0:
        raise ValueError(f"betas must satisfy 0 < beta_start < beta_end < 1, got {beta_start}, {beta_end}")
    if not snr_shift_scale > 0.0:
        raise ValueError(f"snr_shift_scale must be positive, got {snr_shift_scale}")
    betas = np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), 1000) ** 2
    alpha_bar = np.cumprod(1.0 - betas)
    alpha_bar = alpha_bar / (snr_shift_scale + (1.0 - snr_shift_scale) * alpha_bar)
    if zero_terminal_snr:
        root = np.sqrt(alpha_bar)
        alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return alpha_bar


def _per_video(values: Tensor, like: Tensor) -> Tensor:
    """Values of shape (B,) with the trailing axes of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1)).to(like.device)
