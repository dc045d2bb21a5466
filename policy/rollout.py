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
        """Predict at position `i` and take the step, or score the recorded `x_next`."""
        velocity = self.velocity(
            model, latents_BCThw, i, conditioning, unconditional=unconditional, guidance_scale=guidance_scale
        )
        return self.step(model, latents_BCThw, velocity, i, mode=mode, x_next=x_next, generator=generator)

    def velocity(
        self,
        model: VideoModel,
        latents_BCThw: Tensor,
        i: int,
        conditioning: Conditioning,
        *,
        unconditional: Conditioning | None = None,
        guidance_scale: float = 1.0,
    ) -> Tensor:
        """The prediction at position `i`.

        With `unconditional`, u of it and c of `conditioning`, the velocity is u + guidance_scale (c - u).
        """
        level = self.schedule.model_level(i)
        velocity = velocity_beside(model, latents_BCThw, level, conditioning)
        if unconditional is not None:
            without = velocity_beside(model, latents_BCThw, level, unconditional)
            velocity = without + guidance_scale * (velocity - without)
        return velocity

    def step(
        self,
        model: VideoModel,
        latents_BCThw: Tensor,
        velocity_BCThw: Tensor,
        i: int,
        *,
        mode: Mode,
        x_next: Tensor | None = None,
        generator: Generators = None,
    ) -> StepOut:
        """Take the step from position `i` with a prediction, or score the recorded `x_next`."""
        return step(
            latents_BCThw,
            velocity_BCThw,
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
    """A stochastic step as it was taken, of the videos whose window it is in."""

    i: int
    """Position in the schedule."""
    x_BCThw: Float[Tensor, "batch channels frames h w"]
    x_next_BCThw: Float[Tensor, "batch channels frames h w"]
    log_prob_B: Float[Tensor, " batch"]
    """Mean over generated dims, under the policy that took the step."""
    digests: tuple[str, ...]
    """Hash of the conditioning that the model was handed at this step, of each of these videos."""
    mean_BCThw: Float[Tensor, "batch channels frames h w"] | None = None
    """Mean of the step, for algorithms that compare it."""
    videos: tuple[int, ...] | None = None
    """Which videos of the batch these are; None is all."""

    def of(self, values: Tensor) -> Tensor:
        """Rows of these videos, from one row for each video of the batch."""
        return values if self.videos is None else values[list(self.videos)]


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Finished videos and the recorded window."""

    latents_BCThw: Float[Tensor, "batch channels frames h w"]
    conditioning: Conditioning
    steps: tuple[RecordedStep, ...]
    digests: tuple[str, ...]
    """Hash of the conditioning that the model was handed last, of each video."""
    seeds: tuple[int, ...] = ()
    """Of each video."""

    @property
    def window_size(self) -> int:
        """Recorded steps of each video."""
        return sum(len(recorded.log_prob_B) for recorded in self.steps) // len(self.latents_BCThw)


@torch.no_grad()
def sample(
    model: VideoModel,
    conditioning: Conditioning,
    rule: SamplingRule,
    *,
    num_latent_frames: int,
    window: Sequence[int] = (),
    windows: Sequence[Sequence[int]] | None = None,
    seeds: Sequence[int],
    groups: Sequence[int] | None = None,
    keep_means: bool = False,
    guidance_scale: float = 1.0,
) -> Rollouts:
    """Denoise from pure noise: stochastic at the positions in a video's window, the ODE elsewhere.

    All videos take each position in one forward, whichever of them are stochastic there.

    Args:
        conditioning: one entry per video.
        num_latent_frames: T, of `VideoModel.latent_shape`.
        window: positions whose steps are stochastic and recorded. The last position is always the ODE.
        windows: one per video, where they differ; stands for `window`.
        seeds: one per video, so that a video does not depend on its batch.
        groups: the fast mode: a seed per video, equal for siblings. They start from that seed's noise, and
            the steps before their window are taken once for all of them.
        keep_means: record the means of stochastic steps too.
        guidance_scale: of classifier-free guidance; 1 is none. Recorded steps are scored without it.

    Source of guidance: Ho and Salimans, Classifier-Free Diffusion Guidance, 2022.
    """
    windows = [window] * len(seeds) if windows is None else windows
    _check_sampling(rule, conditioning, windows, seeds, groups, guidance_scale)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    starts = [0] * len(seeds) if groups is None else [min(w) for w in windows]
    leaders = range(len(seeds)) if groups is None else [list(groups).index(group) for group in groups]
    first = generators if groups is None else [torch.Generator().manual_seed(group) for group in groups]
    x = _noise(model, conditioning, first, num_latent_frames)
    unconditional = model.without_text(conditioning) if guidance_scale != 1.0 else None
    recorded, handed = [], conditioning
    for i in range(rule.schedule.num_steps):
        # Before their window siblings of the fast mode are one video.
        taken_by = [v if i >= starts[v] else leaders[v] for v in range(len(seeds))]
        distinct = sorted(set(taken_by))
        stochastic = [v for v in distinct if i in windows[v]]
        if stochastic and rule.storage_dtype is not None:
            # Replay starts from what was kept, and from the given first frame as it was.
            rows = torch.tensor(stochastic, device=x.device)
            kept = x[rows].to(rule.storage_dtype).to(x.dtype)
            x = x.index_copy(0, rows, _given(model, kept, conditioning.select(rows)))
        rows = torch.tensor(distinct)
        handed = conditioning.select(rows)
        velocity = rule.velocity(
            model,
            x[rows],
            i,
            handed,
            unconditional=None if unconditional is None else unconditional.select(rows),
            guidance_scale=guidance_scale,
        )
        moved: dict[int, Tensor] = {}
        if rest := [v for v in distinct if v not in stochastic]:
            chosen = velocity[[distinct.index(v) for v in rest]]
            moved |= zip(rest, rule.step(model, x[rest], chosen, i, mode="ode").x_next, strict=True)
        if stochastic:
            places = [distinct.index(v) for v in stochastic]
            noise = [generators[v] for v in stochastic]
            out = rule.step(model, x[stochastic], velocity[places], i, mode="sde", generator=noise)
            assert out.log_prob is not None
            stored = rule.storage_dtype or x.dtype
            recorded.append(
                RecordedStep(
                    i,
                    x[stochastic].to(stored),
                    out.x_next.to(stored),
                    out.log_prob,
                    tuple(handed.select(torch.tensor(places)).digests()),
                    out.mean if keep_means else None,
                    tuple(stochastic) if len(stochastic) < len(seeds) else None,
                )
            )
            moved |= zip(stochastic, out.x_next, strict=True)
        x = torch.stack([moved[v] for v in taken_by])
    # Siblings that were one video before their window are themselves at the last position.
    return Rollouts(x, conditioning, tuple(recorded), tuple(handed.digests()), tuple(seeds))


def _check_sampling(
    rule: SamplingRule,
    conditioning: Conditioning,
    windows: Sequence[Sequence[int]],
    seeds: Sequence[int],
    groups: Sequence[int] | None,
    guidance_scale: float,
) -> None:
    """Refuse what `sample` cannot do."""
    if guidance_scale != 1.0 and any(windows):
        raise ValueError(
            f"steps to be replayed have no guidance, so guidance_scale must be 1, got {guidance_scale:g}"
        )
    if len(seeds) != len(conditioning):
        raise ValueError(f"one seed per video is needed: {len(conditioning)} videos, got {len(seeds)} seeds")
    if len(windows) != len(seeds):
        raise ValueError(f"one window per video is needed: {len(seeds)} videos, got {len(windows)} windows")
    last = rule.schedule.num_steps - 1
    for window in windows:
        if any(not 0 <= i < last for i in window):
            raise ValueError(
                f"window positions must be in [0, {last}) (the last step is the ODE), got {tuple(window)}"
            )
    if groups is None:
        return
    if len(groups) != len(seeds) or not all(windows):
        raise ValueError(
            f"groups need a window and one entry per video, {len(seeds)}, got windows "
            f"{[tuple(w) for w in windows]} and {len(groups)} groups"
        )
    of_group: dict[int, tuple[int, ...]] = {}
    for group, window in zip(groups, windows, strict=True):
        if of_group.setdefault(group, tuple(window)) != tuple(window):
            raise ValueError(
                f"siblings share the steps before their window, so one group has one window, got "
                f"{of_group[group]} and {tuple(window)}"
            )


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
    """Score a recorded step, of the videos that took it, under the model as it now is.

    Raises:
        RuntimeError: see `check_conditioning`.
    """
    dtype = rollouts.latents_BCThw.dtype
    conditioning = rollouts.conditioning
    if recorded.videos is not None:
        conditioning = conditioning.select(torch.tensor(recorded.videos))
    check_conditioning(conditioning, recorded.digests)
    return rule.take(
        model,
        _given(model, recorded.x_BCThw.to(dtype), conditioning),
        recorded.i,
        conditioning,
        mode="sde",
        x_next=recorded.x_next_BCThw.to(dtype),
    )


def check_conditioning(handed: Conditioning, digests: Sequence[str]) -> None:
    """Compare what the model is about to be handed with what it was handed in the rollout.

    An importance ratio of 1 does not show that: both sides of it may have been given another prompt's.

    Raises:
        RuntimeError: they differ.
    """
    found = handed.digests()
    differ = [k for k, pair in enumerate(zip(found, digests, strict=True)) if pair[0] != pair[1]]
    if differ:
        raise RuntimeError(
            f"replay hands the model other conditioning than rollout did, for {len(differ)} of {len(found)} "
            f"videos, the first at place {differ[0]}: the hash is another"
        )
