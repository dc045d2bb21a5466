"""Video autoencoders of four classes behind four functions; latents here are not yet normalised."""

from __future__ import annotations

from dataclasses import dataclass

from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan
from torch import Tensor

from phys4d.models.open_sora.vae import OpenSoraVae
from phys4d.models.patch_autoencoder import PatchAutoencoder

VideoAutoencoder = PatchAutoencoder | AutoencoderKLWan | AutoencoderKLCogVideoX | OpenSoraVae
CLASSES = {c.__name__: c for c in (PatchAutoencoder, AutoencoderKLWan, AutoencoderKLCogVideoX, OpenSoraVae)}


@dataclass(frozen=True)
class LatentFormat:
    """What an autoencoder's latents look like."""

    channels: int
    spatial_stride: int
    """Pixels per latent cell along each axis."""
    temporal_stride: int
    """Video frames per latent frame after the first, which stands for one frame alone."""
    mean: tuple[float, ...]
    """Per channel; normalised latents are (latents - mean) / std."""
    std: tuple[float, ...]
    piece_frames: int = 0
    """Latent frames of a piece of video that is encoded by itself and starts with a latent frame of one
    frame; 0 where a video is one piece."""


def latent_format(vae: VideoAutoencoder) -> LatentFormat:
    """Strides and statistics from the autoencoder's configuration."""
    config = vae.config
    if isinstance(vae, AutoencoderKLWan):
        return LatentFormat(
            config.z_dim,
            config.scale_factor_spatial,
            config.scale_factor_temporal,
            tuple(config.latents_mean),
            tuple(config.latents_std),
        )
    if isinstance(vae, OpenSoraVae):
        # It normalises by itself.
        channels = len(config.latents_mean)
        piece = vae.num_latent_frames(config.piece_frames)
        return LatentFormat(channels, vae.spatial_stride, 4, (0.0,) * channels, (1.0,) * channels, piece)
    channels = config.latent_channels
    if isinstance(vae, AutoencoderKLCogVideoX):
        stride = 2 ** (len(config.block_out_channels) - 1)
        std = 1.0 / config.scaling_factor
        return LatentFormat(
            channels, stride, int(config.temporal_compression_ratio), (0.0,) * channels, (std,) * channels
        )
    mean = config.latents_mean or [0.0] * channels
    std = config.latents_std or [1.0] * channels
    return LatentFormat(channels, config.patch_size, 1, tuple(mean), tuple(std))


def encode(vae: VideoAutoencoder, video_BCTHW: Tensor) -> Tensor:
    """Pixels in [-1, 1] to latents: the mode of the posterior where there is one."""
    if isinstance(vae, PatchAutoencoder):
        batch, _, frames, _, _ = video_BCTHW.shape
        latents = vae.encode(video_BCTHW.transpose(1, 2).flatten(0, 1))
        return latents.unflatten(0, (batch, frames)).transpose(1, 2)
    if isinstance(vae, OpenSoraVae):
        return vae.encode(video_BCTHW.to(vae.dtype))
    return vae.encode(video_BCTHW.to(vae.dtype)).latent_dist.mode()


def decode(vae: VideoAutoencoder, latents_BCThw: Tensor) -> Tensor:
    """Latents to pixels, about in [-1, 1]."""
    if isinstance(vae, PatchAutoencoder):
        batch, _, frames, _, _ = latents_BCThw.shape
        images = vae.decode(latents_BCThw.transpose(1, 2).flatten(0, 1))
        return images.unflatten(0, (batch, frames)).transpose(1, 2)
    if isinstance(vae, OpenSoraVae):
        return vae.decode(latents_BCThw.to(vae.dtype))
    return vae.decode(latents_BCThw.to(vae.dtype), return_dict=False)[0]


def check_video_size(
    num_frames: int, height: int, width: int, *, temporal_stride: int, multiple: int
) -> None:
    """Refuse a video that does not fit the strides.

    Args:
        multiple: pixels per token along each axis.

    Raises:
        ValueError: names the rule and the nearest valid value.
    """
    for name, size in (("height", height), ("width", width)):
        if size < multiple or size % multiple:
            nearest = max(multiple, round(size / multiple) * multiple)
            raise ValueError(f"{name} must be a multiple of {multiple}, got {size}; use {nearest}")
    if num_frames < 1 or (num_frames - 1) % temporal_stride:
        nearest = max(0, round((num_frames - 1) / temporal_stride)) * temporal_stride + 1
        raise ValueError(
            f"num_frames must be 1 more than a multiple of {temporal_stride}, got {num_frames}; use {nearest}"
        )
