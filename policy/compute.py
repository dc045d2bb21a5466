"""How much of the denoiser a run used, in calls of it for one video."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from phys4d.models.protocol import Conditioning, VideoModel
from policy.config import TrainConfig


def training_calls(config: TrainConfig, *, step_cost: float) -> float:
    """Denoiser calls that stage 3 spent on sampling, reading, replay and the watched KL.

    Args:
        step_cost: cost of one trained step, forward and backward, in calls.
    """
    rollout, algorithm = config.rollout, config.algorithm
    videos = config.num_iterations * rollout.num_prompts * rollout.group_size
    reference = rollout.window_size if algorithm.kl_weight > 0 else 1
    return videos * (generation_calls(rollout.num_steps) + rollout.window_size * step_cost + reference)


def generation_calls(num_steps: int) -> int:
    """Calls to sample a video and to read its depth and motion with the heads."""
    return num_steps + 1


def equal_candidates(calls: float, *, num_videos: int, num_steps: int) -> int:
    """N for which best-of-N costs as much as a training of `calls` and one video each afterwards.

    Training is paid once, best-of-N for every video, so N depends on how many videos are made.
    """
    if num_videos < 1:
        raise ValueError(f"num_videos must be at least 1, got {num_videos}")
    return 1 + int(calls / (num_videos * generation_calls(num_steps)))


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
