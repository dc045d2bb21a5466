"""Depth and motion heads that read a video diffusion transformer's features.

A small dense-prediction decoder. Each tapped block is normalised, modulated by the noise level, projected,
unfolded to video frames, convolved with neighbouring frames and reassembled at a resolution of its own: the
deepest at that of the tokens, each shallower one at twice the last. Fusion goes from deep to shallow.
Source: Ranftl et al., Vision Transformers for Dense Prediction, 2021, section 3; noise-level modulation
as in Perez et al., FiLM, 2018. Frames and unfolding are ours.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from phys4d.models.geometry_losses import arrived_depth
from phys4d.models.loading import check_safetensors
from phys4d.runtime.files import atomic_write_bytes

MEDIAN_DEPTH_M = 3.0
MOTION_UNIT = (4.0, 4.0, 0.1)
_OTHER_VERSION = "holds heads of another version of Phys4D; train them again with `make pretrain`"


@dataclass(frozen=True, eq=False)
class Geometry:
    """What the heads read from one batch of videos."""

    depth_BTHW: Float[Tensor, "batch frames height width"]
    """z-depth in metres after stage 2; up to one scale per video after stage 1."""
    motion_BTHW3: Float[Tensor, "batch frames-1 height width 3"]
    """(du px, dv px, dz m) from frame t to t + 1; of 2-channel heads dz follows from depth and (du, dv)."""
    has_dz: bool = True
    """Whether dz was predicted."""

    @property
    def carried_BTHW3(self) -> Float[Tensor, "batch frames-1 height width 3"]:
        """Motion as the warp loss takes it: a dz that follows from depth would make it 0 by construction."""
        return self.motion_BTHW3 * torch.tensor([1, 1, int(self.has_dz)], device=self.motion_BTHW3.device)


class GeometryHeads(nn.Module):
    """Depth and motion per pixel and frame, at any noise level."""

    def __init__(
        self,
        width: int,
        num_taps: int = 3,
        channels: int = 64,
        upsampling: int = 16,
        temporal_stride: int = 1,
        piece_frames: int = 0,
        motion_channels: int = 3,
    ) -> None:
        """
        Args:
            width: transformer width D.
            num_taps: tapped blocks.
            channels: decoder channels at token resolution.
            upsampling: pixels per token along each axis, a power of two.
            temporal_stride: video frames per latent frame after the first, which stands for one frame alone.
            piece_frames: latent frames after which a new piece starts, with a latent frame of one frame
                again; 0 where a video is one piece.
            motion_channels: 3 predicts (du, dv, dz); 2 predicts (du, dv), and dz is depth at the arrival
                pixel minus depth at the start.
        """
        super().__init__()
        if upsampling < 2 or upsampling & (upsampling - 1):
            raise ValueError(f"upsampling must be a power of two of at least 2, got {upsampling}")
        if motion_channels not in (2, 3):
            raise ValueError(f"motion_channels must be 2 or 3, got {motion_channels}")
        self.config = {
            "width": width,
            "num_taps": num_taps,
            "channels": channels,
            "upsampling": upsampling,
            "temporal_stride": temporal_stride,
            "piece_frames": piece_frames,
            "motion_channels": motion_channels,
        }
        doublings = int(math.log2(upsampling)) - 1
        widths = [
            channels if level < 2 else max(16, channels >> (level - 1)) for level in range(doublings + 1)
        ]
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_taps))
        self.film = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), nn.Linear(64, 2 * channels * num_taps))
        self.project = nn.ModuleList(nn.Linear(width, channels) for _ in range(num_taps))
        self.unfold = nn.ModuleList(
            nn.Conv3d(channels, channels * temporal_stride, 1)
            for _ in range(num_taps if temporal_stride > 1 else 0)
        )
        self.temporal = nn.ModuleList(nn.Conv3d(channels, channels, 3, padding=1) for _ in range(num_taps))
        self.refine = nn.Conv3d(channels, channels, 3, padding=1)
        levels = [min(num_taps - 1 - tap, doublings) for tap in range(num_taps)]
        self.reassemble = nn.ModuleList(
            _Reassemble(channels, widths[level], 2**level) for level in levels[:-1]
        )
        self.up = nn.ModuleList(_UpBlock(before, after) for before, after in itertools.pairwise(widths))
        current = widths[-1]
        self.to_output = nn.Conv2d(current, (1 + motion_channels) * 4, 3, padding=1)
        nn.init.zeros_(self.to_output.weight)
        nn.init.zeros_(cast(Tensor, self.to_output.bias))

    def forward(self, features: tuple[Tensor, ...], sigma: float | Tensor) -> Geometry:
        """Read geometry.

        Args:
            features: taps on the token grid, each (B, T, rows, columns, D) with latent frames T.
            sigma: noise level the features were taken at, a number or one per video.
        """
        if len(features) != len(self.norms):
            raise ValueError(f"the heads read {len(self.norms)} taps, got {len(features)}")
        batch = features[0].shape[0]
        level = torch.as_tensor(sigma, dtype=torch.float32, device=features[0].device).expand(batch)
        film_BK2C = self.film(_fourier(level)).view(batch, len(self.norms), 2, -1)
        taps: list[Tensor] = []
        for k, (norm, project, tap) in enumerate(zip(self.norms, self.project, features, strict=True)):
            scale, shift = film_BK2C[:, k, :, None, None, None, :].unbind(1)
            x = project(norm(tap.float())) * (1 + scale) + shift
            x = self._unfolded(x.movedim(-1, 1), k)
            taps.append(x + self.temporal[k](F.silu(x)))
        *shallow, x = taps
        frames = x.shape[2]
        x = _frames(x + self.refine(F.silu(x)))
        for doublings, up in enumerate([nn.Identity(), *self.up]):
            x = up(x)
            for tap, reassemble in zip(shallow, self.reassemble, strict=True):
                if reassemble.enlargement == 2**doublings:
                    x = x + reassemble(_frames(tap))
        x = F.pixel_shuffle(self.to_output(F.silu(x)), 2).unflatten(0, (batch, frames)).float()
        depth = MEDIAN_DEPTH_M * torch.exp(x[:, :, 0].clamp(-3, 3))
        has_dz = self.config["motion_channels"] == 3
        unit = torch.tensor(MOTION_UNIT if has_dz else MOTION_UNIT[:2], device=x.device)
        motion = x[:, :-1, 1:].movedim(2, -1) * unit
        if not has_dz:
            change = arrived_depth(depth.detach(), motion.detach()) - depth[:, :-1].detach()
            motion = torch.cat([motion, change.unsqueeze(-1)], -1)
        return Geometry(depth, motion, has_dz)

    @torch.no_grad()
    def with_motion_channels(self, motion_channels: int) -> GeometryHeads:
        """These heads with 2 motion channels, or themselves.

        Raises:
            ValueError: 2-channel heads have no third channel to give.
        """
        if motion_channels == self.config["motion_channels"]:
            return self
        if motion_channels == 3:
            raise ValueError(
                "the heads of stage 1 have 2 motion channels; train them with --motion-channels 3"
            )
        fewer = GeometryHeads(**{**self.config, "motion_channels": motion_channels})
        kept = (1 + motion_channels) * 4
        state = self.state_dict()
        for name in ("to_output.weight", "to_output.bias"):
            state[name] = state[name][:kept]
        fewer.load_state_dict(state)
        fewer.to(self.to_output.weight)
        return fewer.train(self.training)

    def _unfolded(self, x_BCThw: Tensor, tap: int) -> Tensor:
        """Latent frames to video frames, each after the first to `temporal_stride` of them."""
        if not self.unfold:
            return x_BCThw
        parts: list[Tensor] = []
        for piece in x_BCThw.split(self.config["piece_frames"] or x_BCThw.shape[2], dim=2):
            parts.append(piece[:, :, :1])
            if piece.shape[2] > 1:
                rest = self.unfold[tap](piece[:, :, 1:]).unflatten(1, (x_BCThw.shape[1], -1))
                parts.append(rest.transpose(2, 3).flatten(2, 3))
        return torch.cat(parts, dim=2)

    def save(self, path: Path) -> None:
        """Write weights and sizes as one safetensors file, whole or not at all."""
        sizes = {name: str(value) for name, value in self.config.items()}
        atomic_write_bytes(path, to_safetensors(self.state_dict(), metadata=sizes))

    @classmethod
    def load(cls, path: Path, model_sizes: Mapping[str, int] | None = None) -> GeometryHeads:
        """Read what `save` wrote.

        Args:
            model_sizes: `head_sizes` of the model whose features they are to read; None does not compare.

        Raises:
            FileNotFoundError: there are none; says which stage makes them.
            ValueError: the file is damaged, or the heads belong to another model.
        """
        if not path.is_file():
            raise FileNotFoundError(f"no heads at {path}; train them with `make pretrain`")
        check_safetensors(path)
        with safe_open(path, "pt") as file:
            noted = file.metadata() or {}
            if "width" not in noted:
                raise ValueError(f"{path} holds no heads of this project; train them with `make pretrain`")
            if not set(noted) <= set(inspect.signature(cls).parameters):
                raise ValueError(f"{path} {_OTHER_VERSION}")
            sizes = {name: int(value) for name, value in noted.items()}
            for name, needed in (model_sizes or {}).items():
                if sizes.get(name) != needed:
                    raise ValueError(
                        f"{path} holds heads of another model: their {name} is {sizes.get(name)}, the "
                        f"model's {needed}; train them with `make pretrain`"
                    )
            heads = cls(**sizes)
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        wanted = {name: value.shape for name, value in heads.state_dict().items()}
        if {name: value.shape for name, value in state.items()} != wanted:
            raise ValueError(f"{path} {_OTHER_VERSION}")
        heads.load_state_dict(state)
        return heads.eval()


class _Reassemble(nn.Module):
    """Bring a tap to its resolution (a transposed convolution of stride s), then a residual convolution."""

    def __init__(self, channels_in: int, channels_out: int, enlargement: int) -> None:
        super().__init__()
        self.enlargement = enlargement
        self.enlarge = nn.ConvTranspose2d(channels_in, channels_out, enlargement, stride=enlargement)
        self.inner = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enlarge(x)
        return x + self.inner(F.silu(x))


class _UpBlock(nn.Module):
    """Double the resolution, then a residual pair of convolutions."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.inner = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.enter(F.silu(x))
        return x + self.inner(F.silu(x))


def _frames(x_BCThw: Tensor) -> Tensor:
    """Every frame as an image."""
    return x_BCThw.transpose(1, 2).flatten(0, 1)


def _fourier(level: Float[Tensor, " batch"]) -> Float[Tensor, "batch 16"]:
    """Sines and cosines of the noise level at eight octaves."""
    angles = level.unsqueeze(-1) * (math.pi * 2.0 ** torch.arange(8, device=level.device) / 4)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
