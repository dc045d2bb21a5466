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

    def frames_of_latents(self, num_latent_frames: int) -> list[range]:
        """The video frames that each latent frame stands for."""
        spans, start = [], 0
        for i in range(num_latent_frames):
            starts_piece = i % (self.piece_frames or num_latent_frames) == 0
            spans.append(range(start, start + (1 if starts_piece else self.temporal_stride)))
            start = spans[-1].stop
        return spans


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
    """Pixels in [-1, 1] to latents in float32: the mode of the posterior where there is one."""
    video = video_BCTHW.to(vae.dtype)
    if isinstance(vae, PatchAutoencoder):
        images = vae.encode(video.transpose(1, 2).flatten(0, 1))
        return images.unflatten(0, (len(video), -1)).transpose(1, 2).float()
    encoded = vae.encode(video)
    return (encoded if isinstance(encoded, Tensor) else encoded.latent_dist.mode()).float()


def decode(vae: VideoAutoencoder, latents_BCThw: Tensor) -> Tensor:
    """Latents to pixels in float32, about in [-1, 1]."""
    latents = latents_BCThw.to(vae.dtype)
    if isinstance(vae, PatchAutoencoder):
        images = vae.decode(latents.transpose(1, 2).flatten(0, 1))
        return images.unflatten(0, (len(latents), -1)).transpose(1, 2).float()
    decoded = vae.decode(latents)
    return (decoded if isinstance(decoded, Tensor) else decoded.sample).float()


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
