"""Read depth and motion from videos: with the heads, or with estimators on RGB."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor
from transformers import DepthAnythingForDepthEstimation

from phys4d.models.estimators import DisFlow, estimate_depth
from phys4d.models.geometry_losses import sample_at
from phys4d.models.heads import Geometry, GeometryHeads
from phys4d.models.protocol import Conditioning, VideoModel

READING_SIGMA = 0.02
"""Noise level at which the heads read a finished video's features."""


@torch.no_grad()
def read_with_heads(
    model: VideoModel,
    heads: GeometryHeads,
    latents_BCThw: Float[Tensor, "batch channels frames h w"],
    conditioning: Conditioning,
    batch_size: int = 16,
) -> Geometry:
    """Depth and motion of finished videos, from the features of one more denoiser call at low noise."""
    parts: list[Geometry] = []
    for start in range(0, len(latents_BCThw), batch_size):
        chosen = slice(start, start + batch_size)
        prediction = model.predict(
            latents_BCThw[chosen], READING_SIGMA, conditioning.select(chosen), features=True
        )
        parts.append(heads(prediction.features, READING_SIGMA))
    return join(parts)


def join(parts: Iterable[Geometry]) -> Geometry:
    """Concatenate batches."""
    parts = list(parts)
    return Geometry(torch.cat([p.depth_BTHW for p in parts]), torch.cat([p.motion_BTHW3 for p in parts]))


Flow = tuple[
    Float32[np.ndarray, "frames-1 height width 2"],
    Float32[np.ndarray, "frames-1 height width 2"],
    Bool[np.ndarray, "frames-1 height width"],
]
"""Of a video: flow there, flow back, and where it is trusted; see `DisFlow.there_and_back`."""


def read_with_estimators(
    estimator: DepthAnythingForDepthEstimation, rgb_BTHW3: UInt8[Tensor, "batch frames height width 3"]
) -> tuple[Geometry, Bool[Tensor, "batch frames-1 height width"]]:
    """Depth and motion from RGB alone, and where the flow passed its forward-backward check.

    Motion's third channel is depth at the arrival pixel minus depth at the start.
    """
    geometry, flows = read_with_flow(estimator, rgb_BTHW3)
    return geometry, torch.from_numpy(np.stack([trusted for _, _, trusted in flows]))


def read_with_flow(
    estimator: DepthAnythingForDepthEstimation, rgb_BTHW3: UInt8[Tensor, "batch frames height width 3"]
) -> tuple[Geometry, list[Flow]]:
    """`read_with_estimators`, and each video's flow for whoever measures that too."""
    batch, frames = rgb_BTHW3.shape[:2]
    depth = estimate_depth(estimator, rgb_BTHW3.flatten(0, 1)).unflatten(0, (batch, frames))
    dis = DisFlow()
    flows = [dis.there_and_back(video) for video in rgb_BTHW3.numpy()]
    uv = torch.from_numpy(np.stack([forward for forward, _, _ in flows]))
    height, width = depth.shape[-2:]
    rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
    target = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) + uv
    arrived = sample_at(depth[:, 1:].flatten(0, 1), target.flatten(0, 1)).unflatten(0, (batch, frames - 1))
    motion = torch.cat([uv, (arrived - depth[:, :-1]).unsqueeze(-1)], -1)
    return Geometry(depth, motion), flows


def to_numpy(geometry: Geometry) -> tuple[Float32[np.ndarray, ...], Float32[np.ndarray, ...]]:
    """Depth (B, T, H, W) and motion (B, T-1, H, W, 3) as float32 arrays."""
    return geometry.depth_BTHW.float().numpy(), geometry.motion_BTHW3.float().numpy()
