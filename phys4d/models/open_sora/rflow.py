"""What is Open-Sora's own in its rectified flow: the shift for a video's size, and settings to save.

The flow itself is `phys4d.models.noising.Flow`. Upstream's timesteps t_i = 1000 (1 - i / N), shifted, are
those of a schedule of N steps.

Source: Open-Sora v1.2 report; Esser et al., Scaling Rectified Flow Transformers, 2024, section 5.3.2.
"""

from __future__ import annotations

import math

from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config


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
