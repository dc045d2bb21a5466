"""Encode whole datasets to latents."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from phys4d.models.protocol import VideoModel, to_model_range
from phys4d.runtime.progress import progress


@torch.no_grad()
def encode_videos(
    model: VideoModel, rgb_NTHW3: UInt8[Tensor, "videos frames height width 3"], batch_size: int = 32
) -> Float[Tensor, "videos channels frames h w"]:
    """Normalised latents of every video, in the CPU's memory."""
    device = model.transformer.device
    parts = list(rgb_NTHW3.split(batch_size))
    return torch.cat(
        [
            model.encode_video(to_model_range(part.to(device))).float().cpu()
            for part in progress(parts, total=len(parts), desc="encode", unit="batch")
        ]
    )
