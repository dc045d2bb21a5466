"""Open-Sora v1.2's temporal autoencoder: four frames of image latents to one, causal in time.

All convolutions see the present and the past only. Videos are padded with zero frames at the front to a
multiple of four, so that frame 0 of 4 k + 1 frames is alone in its latent frame. Space is not compressed.

Source: Yu et al., Language Model Beats Diffusion (MAGVIT-v2), 2024, section 3.1 and appendix A; Open-Sora
v1.2 report. Names follow the published checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

NUM_GROUPS = 32


class CausalConv3d(nn.Module):
    """A convolution whose output at frame t depends on frames up to t only; zeros stand before frame 0."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, *, time_stride: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        side = kernel // 2
        self.padding = (side, side, side, side, kernel - time_stride if kernel > 1 else 0, 0)
        self.conv = nn.Conv3d(channels_in, channels_out, kernel, stride=(time_stride, 1, 1), bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, self.padding))


class ResidualBlock(nn.Module):
    """Two causal convolutions beside the identity, or beside a projection where the channels change."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NUM_GROUPS, channels_in)
        self.conv1 = CausalConv3d(channels_in, channels_out, 3, bias=False)
        self.norm2 = nn.GroupNorm(NUM_GROUPS, channels_out)
        self.conv2 = CausalConv3d(channels_out, channels_out, 3, bias=False)
        if channels_in != channels_out:
            self.conv3 = CausalConv3d(channels_in, channels_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.conv3(x) if hasattr(self, "conv3") else x)


def _residual_blocks(channels_in: int, channels_out: int, num: int) -> nn.ModuleList:
    return nn.ModuleList(
        ResidualBlock(channels_in if i == 0 else channels_out, channels_out) for i in range(num)
    )


class Encoder(nn.Module):
    """Latents of frames to the moments of a quarter as many frames."""

    def __init__(
        self, channels: int, widths: Sequence[int], num_res_blocks: int, downsample: Sequence[bool]
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(channels, widths[0], 3, bias=False)
        self.block_res_blocks = nn.ModuleList(
            _residual_blocks(widths[max(0, i - 1)], width, num_res_blocks) for i, width in enumerate(widths)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, width, 3, time_stride=2) if down else nn.Identity()
            for width, down in zip(widths[:-1], downsample, strict=True)
        )
        self.res_blocks = _residual_blocks(widths[-1], widths[-1], num_res_blocks)
        self.norm1 = nn.GroupNorm(NUM_GROUPS, widths[-1])
        self.conv2 = CausalConv3d(widths[-1], 2 * channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for level, blocks in enumerate(self.block_res_blocks):
            for block in blocks:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
            if level < len(self.conv_blocks):
                x = self.conv_blocks[level](x)
        for block in self.res_blocks:
            x = block(x)
        return self.conv2(F.silu(self.norm1(x)))


class Decoder(nn.Module):
    """The encoder's mirror; time is upsampled by splitting channels into frames."""

    def __init__(
        self, channels: int, widths: Sequence[int], num_res_blocks: int, downsample: Sequence[bool]
    ) -> None:
        super().__init__()
        self.conv1 = CausalConv3d(channels, widths[-1], 3)
        self.res_blocks = _residual_blocks(widths[-1], widths[-1], num_res_blocks)
        deeper = [*widths[1:], widths[-1]]
        self.block_res_blocks = nn.ModuleList(
            _residual_blocks(before, width, num_res_blocks)
            for before, width in zip(deeper, widths, strict=True)
        )
        self.conv_blocks = nn.ModuleList(
            CausalConv3d(width, 2 * width, 3) if down else nn.Identity()
            for width, down in zip(widths[1:], downsample, strict=True)
        )
        self.upsample = tuple(downsample)
        self.norm1 = nn.GroupNorm(NUM_GROUPS, widths[0])
        self.conv_out = CausalConv3d(widths[0], channels, 3)

    def forward(self, z: Tensor) -> Tensor:
        x = self.conv1(z)
        for block in self.res_blocks:
            x = block(x)
        for level in reversed(range(len(self.block_res_blocks))):
            for block in self.block_res_blocks[level]:  # pyright: ignore[reportGeneralTypeIssues]
                x = block(x)
            if level > 0:
                x = self.conv_blocks[level - 1](x)
                if self.upsample[level - 1]:
                    x = x.unflatten(1, (-1, 2)).permute(0, 1, 3, 2, 4, 5).flatten(2, 3)
        x = self.norm1(x)
        return self.conv_out(F.silu(x))


class TemporalVae(nn.Module):
    """Image latents of a video to and from a quarter as many frames of as many channels."""

    def __init__(
        self,
        channels: int = 4,
        filters: int = 128,
        num_res_blocks: int = 4,
        multipliers: Sequence[int] = (1, 2, 2, 4),
        downsample: Sequence[bool] = (False, True, True),
    ) -> None:
        super().__init__()
        widths = [filters * multiplier for multiplier in multipliers]
        self.time_stride = 2 ** sum(downsample)
        self.encoder = Encoder(channels, widths, num_res_blocks, downsample)
        self.quant_conv = CausalConv3d(2 * channels, 2 * channels, 1)
        self.post_quant_conv = CausalConv3d(channels, channels, 1)
        self.decoder = Decoder(channels, widths, num_res_blocks, downsample)

    def num_padded(self, num_frames: int) -> int:
        """Zero frames put before a video's first."""
        return -num_frames % self.time_stride

    def encode(
        self, x_BCThw: Float[Tensor, "batch channels frames h w"]
    ) -> Float[Tensor, "batch channels latent_frames h w"]:
        """The mean (which is the mode) of the posterior."""
        x = F.pad(x_BCThw, (0, 0, 0, 0, self.num_padded(x_BCThw.shape[2]), 0))
        return self.quant_conv(self.encoder(x)).chunk(2, dim=1)[0]

    def decode(
        self, z_BCThw: Float[Tensor, "batch channels latent_frames h w"], num_frames: int
    ) -> Float[Tensor, "batch channels frames h w"]:
        """The `num_frames` frames that were encoded to `z_BCThw`."""
        frames = self.decoder(self.post_quant_conv(z_BCThw))
        if frames.shape[2] != num_frames + self.num_padded(num_frames):
            raise ValueError(
                f"{z_BCThw.shape[2]} latent frames decode to {frames.shape[2] - self.time_stride + 1} to "
                f"{frames.shape[2]} frames, got num_frames {num_frames}"
            )
        return frames[:, :, self.num_padded(num_frames) :]
