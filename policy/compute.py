"""How much of the denoiser a run used, in calls of it for one video."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from phys4d.models.protocol import Conditioning, VideoModel
from policy.algorithms import ALGORITHMS
from policy.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Calls:
    """Denoiser calls for one video of an iteration; the work of autoencoder and scorers is not among them."""

    sampling: int
    reading: int
    """Of the heads; estimators look at decoded frames."""
    trained: int
    """Forward and backward."""
    compared: int
    """Of the reference for the KL, and of the old policy where there is one."""


def calls_per_video(config: TrainConfig) -> Calls:
    """What an iteration spends on one video, as if siblings shared no steps."""
    algorithm, kind = config.algorithm, ALGORITHMS[config.algorithm.name]
    terms = kind.terms_per_video(algorithm, config.rollout.window_size)
    references = terms if algorithm.kl_weight > 0 else 1
    return Calls(
        sampling=config.rollout.num_steps,
        reading=int(config.reward.reader == "heads"),
        trained=algorithm.inner_epochs * terms,
        compared=algorithm.inner_epochs * (references + (terms if kind.follows else 0)),
    )


def training_calls(config: TrainConfig, *, step_cost: float) -> float:
    """Denoiser calls that stage 3 spent on sampling, reading, replay and the KL.

    Args:
        step_cost: cost of one trained step, forward and backward, in calls.
    """
    videos = config.num_iterations * config.rollout.num_prompts * config.rollout.group_size
    calls = calls_per_video(config)
    return videos * (calls.sampling + calls.reading + calls.trained * step_cost + calls.compared)


def equal_candidates(calls: float, *, num_videos: int, calls_per_candidate: int) -> int:
    """N for which best-of-N costs as much as a training of `calls` and one video each afterwards.

    Training is paid once, best-of-N for every video, so N depends on how many videos are made.
    """
    if num_videos < 1:
        raise ValueError(f"num_videos must be at least 1, got {num_videos}")
    return 1 + int(calls / (num_videos * calls_per_candidate))


def step_cost(model: VideoModel, latents_BCThw: torch.Tensor, conditioning: Conditioning) -> float:
    """FLOPs of a forward and backward pass with trained adapters, over those of the forward pass."""

    def forward() -> torch.Tensor:
        return model.predict(latents_BCThw, 0.5, conditioning).velocity_BCThw.sum()

    with torch.no_grad():
        plain = _flops(forward)
    with torch.enable_grad():
        return _flops(lambda: forward().backward()) / plain


def _flops(call: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()
