"""STDiT3, the transformer of Open-Sora v1.2, as a diffusers model.

Blocks come in pairs: attention within each frame, then attention over time at each place, both with
cross-attention to the text and modulated by timestep and frame rate. Frames given as conditioning carry
timestep 0. The state dict is the published checkpoint's, key for key.

Shape legend: B videos, C latent channels, T frames, h w latent cells, R rows and Q columns of tokens,
S = R Q tokens of a frame, D width, L text tokens.

Source: Zheng et al., Open-Sora: Democratizing Efficient Video Production for All, 2024, and its v1.2 report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.utils import BaseOutput
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from phys4d.models.open_sora.layers import (
    CaptionEmbedder,
    CrossAttention,
    FeedForward,
    RotaryFrequencies,
    ScalarEmbedder,
    SelfAttention,
    position_embedding,
)

Checkpoint = Callable[..., Tensor]
"""Calls a block and recomputes it in the backward pass."""


@dataclass
class STDiT3Output(BaseOutput):
    """What one call gives."""

    sample: Float[Tensor, "batch out_channels frames h w"]
    """float32; the first half of the channels is x0 - eps. Meaningless at conditioning frames."""
    features: tuple[Float[Tensor, "batch frames rows columns width"], ...] = ()
    """Outputs of the tapped pairs of blocks, in the order of `taps`."""


class STDiT3Block(nn.Module):
    """Modulated self-attention, cross-attention to the text, modulated feed-forward."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float, *, qk_norm: bool, temporal: bool
    ) -> None:
        super().__init__()
        self.temporal = temporal
        self.norm1 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.attn = SelfAttention(width, num_heads, qk_norm=qk_norm)
        self.cross_attn = CrossAttention(width, num_heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.mlp = FeedForward(width, int(width * mlp_ratio), width)
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(
        self,
        x_BTSD: Tensor,
        text_BLD: Tensor,
        text_mask_BL: Tensor | None,
        modulation_BT6D: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """
        Args:
            modulation_BT6D: shift, scale and gate of the attention, then of the feed-forward; one for all
                frames (T = 1) or one per frame.
            rotary: cosines and sines of the frames' angles; temporal blocks only.
        """
        x = x_BTSD
        parts = (self.scale_shift_table + modulation_BT6D).unsqueeze(2).unbind(3)
        shift_attn, scale_attn, gate_attn, shift_mlp, scale_mlp, gate_mlp = parts
        h = self.norm1(x) * (1 + scale_attn) + shift_attn
        if self.temporal:
            h = self.attn(h.transpose(1, 2).flatten(0, 1), rotary)
            h = h.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)
        else:
            h = self.attn(h.flatten(0, 1)).unflatten(0, x.shape[:2])
        x = x + gate_attn * h
        x = x + self.cross_attn(x.flatten(1, 2), text_BLD, text_mask_BL).unflatten(1, x.shape[1:3])
        h = self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp)
        return x + gate_mlp * h


class FinalLayer(nn.Module):
    """Modulated norm and the projection of tokens to patches."""

    def __init__(self, width: int, patch_volume: int, out_channels: int) -> None:
        super().__init__()
        self.norm_final = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.linear = nn.Linear(width, patch_volume * out_channels)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)

    def forward(self, x_BTSD: Tensor, level_BTD: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + level_BTD.unsqueeze(2)).unsqueeze(2).unbind(3)
        return self.linear(self.norm_final(x_BTSD) * (1 + scale) + shift)


class _PatchEmbedder(nn.Module):
    def __init__(self, patch_size: Sequence[int], channels: int, width: int) -> None:
        super().__init__()
        patch = cast(tuple[int, int, int], tuple(patch_size))
        self.proj = nn.Conv3d(channels, width, kernel_size=patch, stride=patch)


class STDiT3(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Predicts x0 - eps from noisy video latents; the defaults are Open-Sora v1.2's STDiT3-XL/2."""

    _supports_gradient_checkpointing = True
    _no_split_modules = ["STDiT3Block"]  # noqa: RUF012
    _keep_in_fp32_modules = ["rope"]  # noqa: RUF012

    @register_to_config
    def __init__(
        self,
        in_channels: int = 4,
        hidden_size: int = 1152,
        depth: int = 28,
        num_heads: int = 16,
        mlp_ratio: float = 4.0,
        patch_size: Sequence[int] = (1, 2, 2),
        caption_channels: int = 4096,
        model_max_length: int = 300,
        class_dropout_prob: float = 0.1,
        input_sq_size: int = 512,
        qk_norm: bool = True,
        pred_sigma: bool = True,
    ) -> None:
        """
        Args:
            hidden_size: width D; a multiple of 4 and, with an even quotient, of `num_heads`.
            depth: number of pairs of blocks.
            model_max_length: text tokens L.
            class_dropout_prob: how often training drops the text; see `draw_text_drop`.
            input_sq_size: pixels along the side of the square that positions are scaled to.
            pred_sigma: twice as many output as input channels, of which the second half is not used.
        """
        super().__init__()
        if hidden_size % 4 or hidden_size % (2 * num_heads):
            raise ValueError(
                f"hidden_size must be a multiple of 4 and of 2 num_heads = {2 * num_heads}, got {hidden_size}"
            )
        self.x_embedder = _PatchEmbedder(patch_size, in_channels, hidden_size)
        self.t_embedder = ScalarEmbedder(hidden_size)
        self.fps_embedder = ScalarEmbedder(hidden_size)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(hidden_size, 6 * hidden_size))
        self.y_embedder = CaptionEmbedder(caption_channels, hidden_size, model_max_length)
        self.rope = RotaryFrequencies(hidden_size // num_heads)

        def blocks(temporal: bool) -> nn.ModuleList:
            return nn.ModuleList(
                STDiT3Block(hidden_size, num_heads, mlp_ratio, qk_norm=qk_norm, temporal=temporal)
                for _ in range(depth)
            )

        self.spatial_blocks = blocks(temporal=False)
        self.temporal_blocks = blocks(temporal=True)
        self.out_channels = in_channels * (2 if pred_sigma else 1)
        patch_t, patch_h, patch_w = patch_size
        self.final_layer = FinalLayer(hidden_size, patch_t * patch_h * patch_w, self.out_channels)
        self.gradient_checkpointing = False

    @property
    def blocks(self) -> nn.ModuleList:
        """All blocks in the order in which they run."""
        return nn.ModuleList(chain.from_iterable(zip(self.spatial_blocks, self.temporal_blocks, strict=True)))

    def draw_text_drop(self, batch: int, generator: torch.Generator) -> Bool[Tensor, " batch"]:
        """Which videos of a training batch lose their text, for classifier-free guidance.

        `forward` never draws by itself, so that a call can be replayed.
        """
        drawn = torch.rand(batch, generator=generator, device=generator.device)
        return (drawn < self.config.class_dropout_prob).to(self.device)

    def forward(
        self,
        latents_BCThw: Float[Tensor, "batch channels frames h w"],
        timestep_B: Float[Tensor, " batch"],
        text_BLC: Float[Tensor, "batch tokens caption_channels"],
        *,
        height: float,
        width: float,
        fps: float = 24.0,
        text_mask_BL: Bool[Tensor, "batch tokens"] | None = None,
        generated_BT: Bool[Tensor, "batch frames"] | None = None,
        drop_text_B: Bool[Tensor, " batch"] | None = None,
        taps: Sequence[int] = (),
    ) -> STDiT3Output:
        """Denoise once.

        Args:
            timestep_B: noise level times 1000.
            height, width: of the video, in pixels; they scale the positions.
            fps: frames per second of the video.
            text_mask_BL: true at tokens that are not padding; every video needs one. None: all.
            generated_BT: false at frames given as conditioning, whose tokens carry timestep 0. None: all
                frames are generated.
            drop_text_B: true where the embedding of no text replaces the text, under the same mask.
            taps: pairs of blocks whose output is returned as a feature.
        """
        patch = self.config.patch_size
        batch, _, *size = latents_BCThw.shape
        frames, rows, columns = (-(-length // part) for length, part in zip(size, patch, strict=True))
        dtype, device = self.x_embedder.proj.weight.dtype, latents_BCThw.device
        has_values = text_mask_BL is not None and text_mask_BL.device.type != "meta"
        if text_mask_BL is not None and has_values and not bool(text_mask_BL.any(1).all()):
            raise ValueError("a video has no text token; give an empty prompt at least its end token")
        missing = [
            grid * part - length
            for grid, part, length in zip((frames, rows, columns), patch, size, strict=True)
        ]
        padded = F.pad(latents_BCThw.to(dtype), (0, missing[2], 0, missing[1], 0, missing[0]))
        x = self.x_embedder.proj(padded).flatten(3).permute(0, 2, 3, 1)
        scale = (height * width) ** 0.5 / self.config.input_sq_size
        x = x + position_embedding(rows, columns, x.shape[-1], scale=scale, device=device).to(dtype)

        fps_BD = self.fps_embedder(torch.full((batch,), float(fps), device=device))
        level_BTD = (self.t_embedder(timestep_B) + fps_BD).unsqueeze(1)
        modulation_BT6D = self._modulation(level_BTD)
        if generated_BT is not None:
            generated = generated_BT[:, :: patch[0], None]
            clean_B1D = (self.t_embedder(torch.zeros_like(timestep_B)) + fps_BD).unsqueeze(1)
            modulation_BT6D = torch.where(
                generated.unsqueeze(-1), modulation_BT6D, self._modulation(clean_B1D)
            )
            level_BTD = torch.where(generated, level_BTD, clean_B1D)
        text_BLD = self.y_embedder(text_BLC.to(dtype), drop_text_B)
        rotary = self.rope(frames)

        features: dict[int, Tensor] = {}
        for index, pair in enumerate(zip(self.spatial_blocks, self.temporal_blocks, strict=True)):
            for block in pair:
                arguments = (x, text_BLD, text_mask_BL, modulation_BT6D, rotary)
                if self.gradient_checkpointing and torch.is_grad_enabled():
                    x = cast(Checkpoint, self._gradient_checkpointing_func)(block, *arguments)
                else:
                    x = block(*arguments)
            if index in taps:
                features[index] = x.unflatten(2, (rows, columns))
        x = self.final_layer(x, level_BTD).float()
        return STDiT3Output(
            sample=self._unpatchify(x.unflatten(2, (rows, columns)))[:, :, : size[0], : size[1], : size[2]],
            features=tuple(features[index] for index in taps),
        )

    def _modulation(self, level_BTD: Tensor) -> Tensor:
        return self.t_block(level_BTD).unflatten(-1, (6, -1))

    def _unpatchify(self, x: Float[Tensor, "batch T R Q patch"]) -> Tensor:
        x = x.unflatten(-1, (*self.config.patch_size, self.out_channels))
        return x.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
