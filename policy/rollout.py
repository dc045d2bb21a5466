"""Sample videos from the policy, keeping what replay needs.

Shape legend: B videos (siblings of a prompt are neighbours), C channels, T latent frames, h w latent cells.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from phys4d.models.beside import velocity_beside
from phys4d.models.protocol import Conditioning, VideoModel
from policy.samplers import STD_CAP, Generators, Mode, Sampler, StepOut, step
from policy.schedules import Schedule, model_schedule
from policy.step_rules import StepCoefficients, step_coefficients


@dataclass(frozen=True, kw_only=True, eq=False)
class SamplingRule:
    """How a step is taken; the same value serves rollout and replay."""

    schedule: Schedule
    sampler: Sampler
    noise_level: float
    std_cap: float | None = STD_CAP
    storage_dtype: torch.dtype | None = None
    """What recorded latents are kept in; None is that of the maths."""

    def coefficients(self, i: int) -> StepCoefficients:
        """Mean and std of the stochastic step at position `i`."""
        return step_coefficients(
            i,
            schedule=self.schedule,
            sampler=self.sampler,
            noise_level=self.noise_level,
            std_cap=self.std_cap,
        )

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
        unconditional: Conditioning | None = None,
        guidance_scale: float = 1.0,
    ) -> StepOut:
        """Predict at position `i` and take the step, or score the recorded `x_next`.

        With `unconditional`, u of it and c of `conditioning`, the velocity is u + guidance_scale (c - u).
        """
        level = self.schedule.model_level(i)
        velocity = velocity_beside(model, latents_BCThw, level, conditioning)
        if unconditional is not None:
            without = velocity_beside(model, latents_BCThw, level, unconditional)
            velocity = without + guidance_scale * (velocity - without)
        return step(
            latents_BCThw,
            velocity,
            i,
            schedule=self.schedule,
            sampler=self.sampler,
            mode=mode,
            noise_level=self.noise_level,
            std_cap=self.std_cap,
            x_next=x_next,
            mask=model.generated_mask(latents_BCThw),
            generator=generator,
            storage_dtype=self.storage_dtype if mode == "sde" else None,
        )


def sampling_rule(
    model: VideoModel,
    num_steps: int,
    *,
    shift: float,
    sampler: Sampler | None = None,
    noise_level: float = 0.0,
    storage_dtype: torch.dtype | None = None,
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
    return SamplingRule(
        schedule=schedule, sampler=sampler, noise_level=noise_level, storage_dtype=storage_dtype
    )


@dataclass(frozen=True, eq=False)
class RecordedStep:
    """A stochastic step of the window, as it was taken."""

    i: int
    """Position in the schedule."""
    x_BCThw: Float[Tensor, "batch channels frames h w"]
    x_next_BCThw: Float[Tensor, "batch channels frames h w"]
    log_prob_B: Float[Tensor, " batch"]
    """Mean over generated dims, under the policy that took the step."""
    mean_BCThw: Float[Tensor, "batch channels frames h w"] | None = None
    """Mean of the step, for algorithms that compare it."""


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Finished videos and the recorded window."""

    latents_BCThw: Float[Tensor, "batch channels frames h w"]
    conditioning: Conditioning
    steps: tuple[RecordedStep, ...]
    digests: tuple[str, ...]
    """Conditioning hash of each video when it was sampled."""
    seeds: tuple[int, ...] = ()
    """Of each video."""


@torch.no_grad()
def sample(
    model: VideoModel,
    conditioning: Conditioning,
    rule: SamplingRule,
    *,
    num_latent_frames: int,
    window: Sequence[int] = (),
    seeds: Sequence[int],
    groups: Sequence[int] | None = None,
    keep_means: bool = False,
    guidance_scale: float = 1.0,
) -> Rollouts:
    """Denoise from pure noise: stochastic at the positions in `window`, the ODE elsewhere.

    Args:
        conditioning: one entry per video.
        num_latent_frames: T, of `VideoModel.latent_shape`.
        window: positions whose steps are stochastic and recorded. The last position is always the ODE.
        seeds: one per video, so that a video does not depend on its batch.
        groups: the fast mode: a seed per video, equal for siblings. They start from that seed's noise, and
            the steps before the window are taken once for all of them.
        keep_means: record the means of stochastic steps too.
        guidance_scale: of classifier-free guidance; 1 is none. Recorded steps are scored without it.

    Source of guidance: Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
    """
    if guidance_scale != 1.0 and window:
        raise ValueError(
            f"steps to be replayed have no guidance, so guidance_scale must be 1, got {guidance_scale:g}"
        )
    if len(seeds) != len(conditioning):
        raise ValueError(f"one seed per video is needed: {len(conditioning)} videos, got {len(seeds)} seeds")
    last = rule.schedule.num_steps - 1
    if any(not 0 <= i < last for i in window):
        raise ValueError(
            f"window positions must be in [0, {last}) (the last step is the ODE), got {tuple(window)}"
        )
    if groups is not None and (len(groups) != len(seeds) or not window):
        raise ValueError(
            f"groups need a window and one entry per video, {len(seeds)}, got window {tuple(window)} and "
            f"{len(groups)} groups"
        )
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    if groups is None:
        x = _noise(model, conditioning, generators, num_latent_frames)
        start = 0
    else:
        distinct = list(dict.fromkeys(groups))
        one_of_each = torch.tensor([list(groups).index(group) for group in distinct])
        prompts = conditioning.select(one_of_each)
        x = _noise(model, prompts, [torch.Generator().manual_seed(g) for g in distinct], num_latent_frames)
        start = min(window)
        for i in range(start):
            x = rule.take(model, x, i, prompts, mode="ode").x_next
        x = x[torch.tensor([distinct.index(group) for group in groups])]
    unconditional = model.without_text(conditioning) if guidance_scale != 1.0 else None
    recorded = []
    for i in range(start, rule.schedule.num_steps):
        stochastic = i in window
        if stochastic and rule.storage_dtype is not None:
            # Replay starts from what was kept, and from the given first frame as it was.
            x = _given(model, x.to(rule.storage_dtype).to(x.dtype), conditioning)
        out = rule.take(
            model,
            x,
            i,
            conditioning,
            mode="sde" if stochastic else "ode",
            generator=generators,
            unconditional=unconditional,
            guidance_scale=guidance_scale,
        )
        if stochastic:
            assert out.log_prob is not None
            stored = rule.storage_dtype or x.dtype
            recorded.append(
                RecordedStep(
                    i,
                    x.to(stored),
                    out.x_next.to(stored),
                    out.log_prob,
                    out.mean if keep_means else None,
                )
            )
        x = out.x_next
    return Rollouts(x, conditioning, tuple(recorded), tuple(conditioning.digests()), tuple(seeds))


def sample_all(
    model: VideoModel,
    conditioning: Conditioning,
    rule: SamplingRule,
    *,
    num_latent_frames: int,
    seeds: Sequence[int],
    batch_size: int,
) -> Float[Tensor, "batch channels frames h w"]:
    """Latents of many videos by the ODE, `batch_size` in a forward."""
    parts = [
        sample(
            model,
            conditioning.select(slice(start, start + batch_size)),
            rule,
            num_latent_frames=num_latent_frames,
            seeds=seeds[start : start + batch_size],
        ).latents_BCThw
        for start in range(0, len(seeds), batch_size)
    ]
    return torch.cat(parts)


def _noise(
    model: VideoModel,
    conditioning: Conditioning,
    generators: Sequence[torch.Generator],
    num_latent_frames: int,
) -> Tensor:
    """Where sampling starts: noise, and the condition where a model holds it in its latents."""
    first = conditioning.first_frame_BChw
    shape = (first.shape[1], num_latent_frames, *first.shape[2:])
    x = torch.stack([torch.randn(shape, generator=g) for g in generators]).to(first)
    return _given(model, x, conditioning)


def _given(model: VideoModel, x: Tensor, conditioning: Conditioning) -> Tensor:
    """`x` with the condition where a model holds it in its latents."""
    mask = model.generated_mask(x)
    return mask * x + (1 - mask) * conditioning.first_frame_BChw.unsqueeze(2)


def replay(model: VideoModel, rule: SamplingRule, rollouts: Rollouts, recorded: RecordedStep) -> StepOut:
    """Score a recorded step under the model as it now is."""
    dtype = rollouts.latents_BCThw.dtype
    return rule.take(
        model,
        _given(model, recorded.x_BCThw.to(dtype), rollouts.conditioning),
        recorded.i,
        rollouts.conditioning,
        mode="sde",
        x_next=recorded.x_next_BCThw.to(dtype),
    )
