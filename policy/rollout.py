"""Sample videos from the policy, keeping what replay needs.

Shape legend: B videos (siblings of a prompt are neighbours), C channels, T latent frames, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from phys4d.models.protocol import Conditioning, VideoModel
from policy.samplers import STD_CAP, Generators, Mode, Sampler, StepOut, step
from policy.schedules import Schedule, model_schedule
from policy.step_rules import step_coefficients


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplingRule:
    """How a step is taken; the same value serves rollout and replay."""

    schedule: Schedule
    sampler: Sampler
    noise_level: float
    std_cap: float | None = STD_CAP

    def take(
        self,
        model: VideoModel,
        latents_BCThw: Tensor,
        i: int,
        conditioning: Conditioning,
        *,
        mode: Mode,
        x_next: Tensor | None = None,
        generator: Generators = None,
    ) -> StepOut:
        """Predict at position `i` and take the step, or score the recorded `x_next`."""
        prediction = model.predict(latents_BCThw, self.schedule.model_level(i), conditioning)
        return step(
            latents_BCThw,
            prediction.velocity_BCThw,
            i,
            schedule=self.schedule,
            sampler=self.sampler,
            mode=mode,
            noise_level=self.noise_level,
            std_cap=self.std_cap,
            x_next=x_next,
            mask=model.generated_mask(latents_BCThw),
            generator=generator,
        )


def sampling_rule(
    model: VideoModel,
    num_steps: int,
    *,
    shift: float,
    sampler: Sampler | None = None,
    noise_level: float = 0.0,
) -> SamplingRule:
    """The rule for a model: a schedule of its noising, and a sampler of the same family.

    Args:
        sampler: None is the deterministic one of the family.

    Raises:
        ValueError: the sampler belongs to the other family.
    """
    schedule = model_schedule(model.noising, num_steps, shift=shift)
    if sampler is None:
        sampler = "ode" if schedule.family == "flow" else "ddim_v"
    step_coefficients(0, schedule=schedule, sampler=sampler, noise_level=noise_level)
    return SamplingRule(schedule=schedule, sampler=sampler, noise_level=noise_level)


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """A stochastic step of the window, as it was taken."""

    i: int
    """Position in the schedule."""
    x_BCThw: Float[Tensor, "batch channels frames h w"]
    x_next_BCThw: Float[Tensor, "batch channels frames h w"]
    log_prob_B: Float[Tensor, " batch"]
    """Mean over generated dims, under the policy that took the step."""


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Finished videos and the recorded window."""

    latents_BCThw: Float[Tensor, "batch channels frames h w"]
    conditioning: Conditioning
    steps: tuple[RecordedStep, ...]
    digests: tuple[str, ...]
    """Conditioning hash of each video when it was sampled."""


@torch.no_grad()
def sample(
    model: VideoModel,
    conditioning: Conditioning,
    rule: SamplingRule,
    *,
    num_frames: int,
    window: Sequence[int] = (),
    seeds: Sequence[int],
) -> Rollouts:
    """Denoise from pure noise: stochastic at the positions in `window`, the ODE elsewhere.

    Args:
        conditioning: one entry per video.
        num_frames: latent frames T.
        window: positions whose steps are stochastic and recorded. The last position is always the ODE.
        seeds: one per video, so that a video does not depend on its batch.
    """
    if len(seeds) != len(conditioning):
        raise ValueError(f"one seed per video is needed: {len(conditioning)} videos, got {len(seeds)} seeds")
    last = rule.schedule.num_steps - 1
    if any(not 0 <= i < last for i in window):
        raise ValueError(
            f"window positions must be in [0, {last}) (the last step is the ODE), got {tuple(window)}"
        )
    first = conditioning.first_frame_BChw
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = (first.shape[1], num_frames, *first.shape[2:])
    x = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(first)
    mask = model.generated_mask(x)
    x = mask * x + (1 - mask) * first.unsqueeze(2)
    recorded = []
    for i in range(rule.schedule.num_steps):
        stochastic = i in window
        out = rule.take(model, x, i, conditioning, mode="sde" if stochastic else "ode", generator=generators)
        if stochastic:
            assert out.log_prob is not None
            recorded.append(RecordedStep(i, x, out.x_next, out.log_prob))
        x = out.x_next
    return Rollouts(x, conditioning, tuple(recorded), tuple(conditioning.digests()))
