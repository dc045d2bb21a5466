"""Open-Sora v1.2's video autoencoder: an image autoencoder on every frame, then one over time on its latents.

Long videos are cut into pieces of 17 frames, which become 5 latent frames each and know nothing of one
another. Latents are normalised per channel to about zero mean and unit variance.

Shape legend: B videos, C latent channels, T frames (pixel or latent, as said), H W pixels, h w latent cells.

Source: Open-Sora v1.2 report; Podell et al., SDXL, 2023, for the image autoencoder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from phys4d.models.open_sora.temporal_vae import TemporalVae


class _SpatialVae(nn.Module):
    """Named so that the image autoencoder's keys start with `spatial_vae.module.`."""

    def __init__(self, module: AutoencoderKL) -> None:
        super().__init__()
        self.module: AutoencoderKL = module


class OpenSoraVae(ModelMixin, ConfigMixin):
    """Videos in [-1, 1] to normalised latents and back; the defaults are Open-Sora v1.2's."""

    @register_to_config
    def __init__(
        self,
        block_out_channels: Sequence[int] = (128, 256, 512, 512),
        layers_per_block: int = 2,
        norm_num_groups: int = 32,
        scaling_factor: float = 0.18215,
        temporal_filters: int = 128,
        temporal_num_res_blocks: int = 4,
        piece_frames: int = 17,
        frames_at_once: int = 4,
        latents_mean: Sequence[float] = (-0.10, 0.34, 0.27, 0.98),
        latents_std: Sequence[float] = (3.85, 2.32, 2.33, 3.06),
    ) -> None:
        """
        Args:
            block_out_channels, layers_per_block, norm_num_groups: of the image autoencoder.
            scaling_factor: of the image latents.
            temporal_filters, temporal_num_res_blocks: of the temporal autoencoder.
            piece_frames: frames that are encoded together, one more than a multiple of 4.
            frames_at_once: frames that the image autoencoder takes in one call; bounds memory.
            latents_mean, latents_std: of the latents, per channel; the buffers `shift` and `scale`.
        """
        super().__init__()
        if piece_frames % 4 != 1:
            raise ValueError(f"piece_frames must be one more than a multiple of 4, got {piece_frames}")
        self.shift: Tensor
        self.scale: Tensor
        levels = len(block_out_channels)
        # AutoencoderKL declares its tuples to have one item.
        tuples: dict[str, Any] = {
            "down_block_types": ("DownEncoderBlock2D",) * levels,
            "up_block_types": ("UpDecoderBlock2D",) * levels,
            "block_out_channels": tuple(block_out_channels),
        }
        image_vae = AutoencoderKL(
            layers_per_block=layers_per_block,
            latent_channels=len(latents_mean),
            norm_num_groups=norm_num_groups,
            **tuples,
        )
        self.spatial_vae = _SpatialVae(image_vae)
        self.temporal_vae = TemporalVae(len(latents_mean), temporal_filters, temporal_num_res_blocks)
        self.register_buffer("scale", torch.tensor(latents_std).view(1, -1, 1, 1, 1))
        self.register_buffer("shift", torch.tensor(latents_mean).view(1, -1, 1, 1, 1))
        self.spatial_stride = 2 ** (levels - 1)

    # Sizes

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames of a video.

        Raises:
            ValueError: where the last piece is not one more than a multiple of 4, so that its number of
                frames could not be told from its latents; names the nearest number that is.
        """
        piece = self.config.piece_frames
        if num_frames < 1 or not _fits(num_frames, piece):
            fitting = (n for n in range(1, max(num_frames, 0) + 5) if _fits(n, piece))
            nearest = min(fitting, key=lambda n: abs(n - num_frames))
            raise ValueError(
                f"num_frames must be a multiple of {piece}, or that plus 1, 5, 9, ..., got {num_frames}; "
                f"use {nearest}"
            )
        return sum(-(-length // 4) for length in self._pieces(num_frames))

    def num_frames(self, num_latent_frames: int) -> int:
        """Frames of the video that has so many latent frames."""
        full, rest = divmod(num_latent_frames, -(-self.config.piece_frames // 4))
        return full * self.config.piece_frames + max(0, 4 * rest - 3)

    def _pieces(self, num_frames: int) -> Iterator[int]:
        for start in range(0, num_frames, self.config.piece_frames):
            yield min(self.config.piece_frames, num_frames - start)

    # Pixels and latents

    def encode(self, video_BCTHW: Float[Tensor, "batch 3 frames height width"]) -> Tensor:
        """Normalised latents: the modes of both posteriors, so that a video always has the same."""
        batch, _, frames, _, _ = video_BCTHW.shape
        self.num_latent_frames(frames)
        images = video_BCTHW.transpose(1, 2).flatten(0, 1)
        parts = [
            self.spatial_vae.module.encode(part).latent_dist.mode()  # pyright: ignore[reportAttributeAccessIssue]
            for part in images.split(self.config.frames_at_once)
        ]
        x = torch.cat(parts).unflatten(0, (batch, frames)).transpose(1, 2) * self.config.scaling_factor
        pieces = [self.temporal_vae.encode(piece) for piece in x.split(self.config.piece_frames, dim=2)]
        return (torch.cat(pieces, dim=2) - self.shift) / self.scale

    def decode(self, latents_BCThw: Float[Tensor, "batch channels latent_frames h w"]) -> Tensor:
        """Pixels, not clamped."""
        batch, _, latent_frames, _, _ = latents_BCThw.shape
        z = latents_BCThw * self.scale + self.shift
        frames = self.num_frames(latent_frames)
        pieces = z.split(-(-self.config.piece_frames // 4), dim=2)
        x = torch.cat(
            [
                self.temporal_vae.decode(piece, length)
                for piece, length in zip(pieces, self._pieces(frames), strict=True)
            ],
            dim=2,
        )
        images = x.transpose(1, 2).flatten(0, 1) / self.config.scaling_factor
        parts = [
            self.spatial_vae.module.decode(part).sample  # pyright: ignore[reportAttributeAccessIssue]
            for part in images.split(self.config.frames_at_once)
        ]
        return torch.cat(parts).unflatten(0, (batch, frames)).transpose(1, 2)


def _fits(num_frames: int, piece: int) -> bool:
    rest = num_frames % piece
    return rest == 0 or rest % 4 == 1
