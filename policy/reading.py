"""From finished latents to rollouts for the reward service."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from phys4d.models.estimators import DepthEstimator
from phys4d.models.heads import Geometry, GeometryHeads
from phys4d.models.protocol import Conditioning, VideoModel, to_uint8
from phys4d.models.reading import read_with_estimators, read_with_heads, to_numpy
from phys4d.types import Rollout
from policy.prompts import Prompt


class Reader:
    """Reads depth and motion from generated videos.

    The heads read features of the reference policy, its adapters off: reading them from the policy
    itself would let it learn to change what the heads say instead of what the video shows.
    """

    def __init__(
        self,
        model: VideoModel,
        heads: GeometryHeads | None,
        estimator: DepthEstimator | None,
        batch_size: int = 32,
    ) -> None:
        """`batch_size` is of the videos that are decoded, or read by the heads, together."""
        self.batch_size = batch_size
        self.model = model
        self.heads = heads
        self.estimator = estimator

    @torch.no_grad()
    def decode(self, latents_BCThw: Tensor) -> Tensor:
        """uint8 RGB (B, T, H, W, 3), in the host's memory."""
        return torch.cat(
            [
                to_uint8(self.model.decode_video(part).float()).cpu()
                for part in latents_BCThw.split(self.batch_size)
            ]
        )

    def geometry(self, latents_BCThw: Tensor, conditioning: Conditioning) -> Geometry:
        """Depth and motion by the heads where there are any, else by the estimators."""
        if self.heads is not None:
            with self.model.reference():
                return read_with_heads(
                    self.model, self.heads, latents_BCThw, conditioning, min(8, self.batch_size)
                )
        assert self.estimator is not None, "a reader needs heads or an estimator"
        return read_with_estimators(self.estimator, self.decode(latents_BCThw))[0]

    def rollouts(
        self,
        latents_BCThw: Tensor,
        conditioning: Conditioning,
        prompts: Sequence[Prompt],
        ids: Sequence[str],
        *,
        rgb: bool = False,
    ) -> list[Rollout]:
        """One rollout per video; `prompts` and `ids` have one entry per video; `rgb` decodes videos too."""
        depth, motion = to_numpy(self.geometry(latents_BCThw, conditioning))
        videos = list(self.decode(latents_BCThw).numpy()) if rgb else [None] * len(prompts)
        return [
            prompt.rollout(sample_id, np.ascontiguousarray(d), np.ascontiguousarray(m), video)
            for prompt, sample_id, d, m, video in zip(prompts, ids, depth, motion, videos, strict=True)
        ]
