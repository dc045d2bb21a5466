"""Layers of STDiT3: attention over frames or over space, cross-attention to text, embeddings.

Attention is torch's `scaled_dot_product_attention`; padding tokens of the text are masked, not packed away.

Shape legend: N attention batch, S tokens, D width, A heads, K width per head, B videos, L text tokens.

Source: Zheng et al., Open-Sora: Democratizing Efficient Video Production for All, 2024; Chen et al.,
PixArt-α, 2023, for the shared modulation and the text embedder. Names follow the published checkpoint.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F


class HeadNorm(nn.Module):
    """Root-mean-square norm of queries or keys over the width of a head, computed in float32."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), x.shape[-1:], self.weight.float(), self.eps).to(x.dtype)


class RotaryFrequencies(nn.Module):
    """Frequencies of the rotary embedding over frames. The checkpoint has them; they do not train."""

    def __init__(self, head_width: int) -> None:
        super().__init__()
        exponents = torch.arange(0, head_width, 2).float() / head_width
        self.freqs = nn.Parameter(10000.0**-exponents, requires_grad=False)

    def forward(self, num_frames: int) -> tuple[Float[Tensor, "frames K"], Float[Tensor, "frames K"]]:
        """Cosines and sines of every frame's angles, each angle for two neighbouring channels."""
        freqs = self.freqs.detach().float()
        angles = torch.arange(num_frames, device=freqs.device).float().outer(freqs)
        angles = angles.repeat_interleave(2, dim=-1)
        return angles.cos(), angles.sin()


def rotate(x_NASK: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the channel pairs (0, 1), (2, 3), ... by their position's angles.

    Source: Su et al., RoFormer, 2021, eq. 34.
    """
    cos, sin = rotary
    even, odd = x_NASK.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-odd, even), dim=-1).flatten(-2)
    return (x_NASK.float() * cos + turned * sin).to(x_NASK.dtype)


class SelfAttention(nn.Module):
    """Attention within the tokens of a frame, or within the frames at a place."""

    def __init__(self, width: int, num_heads: int, *, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = HeadNorm(width // num_heads) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(width // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(width, width)

    def forward(self, x_NSD: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        qkv = self.qkv(x_NSD).unflatten(-1, (3, self.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).flatten(2))


class CrossAttention(nn.Module):
    """Attention of all video tokens to the text."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(
        self, x_BSD: Tensor, text_BLD: Tensor, text_mask_BL: Bool[Tensor, "batch tokens"] | None
    ) -> Tensor:
        q = self.q_linear(x_BSD).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        k, v = (
            self.kv_linear(text_BLD).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        )
        mask = None if text_mask_BL is None else text_mask_BL[:, None, None, :]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers around GELU in its tanh form."""

    def __init__(self, width_in: int, hidden: int, width_out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width_in, hidden)
        self.fc2 = nn.Linear(hidden, width_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class ScalarEmbedder(nn.Module):
    """Timesteps or frame rates to vectors: 128 cosines and sines, then two linear layers."""

    num_frequencies = 128

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * self.num_frequencies, width), nn.SiLU(), nn.Linear(width, width)
        )

    def forward(self, values: Float[Tensor, " batch"]) -> Float[Tensor, "batch D"]:
        steps = torch.arange(self.num_frequencies, device=values.device).float()
        frequencies = torch.exp(-math.log(10000.0) * steps / self.num_frequencies)
        angles = values.float().unsqueeze(-1) * frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
        return self.mlp(waves.to(cast(nn.Linear, self.mlp[0]).weight.dtype))


class CaptionEmbedder(nn.Module):
    """Project text embeddings to the transformer's width; holds what stands for no text."""

    def __init__(self, caption_channels: int, width: int, num_tokens: int) -> None:
        super().__init__()
        self.y_embedding: Tensor
        self.y_proj = FeedForward(caption_channels, width, width)
        self.register_buffer("y_embedding", torch.randn(num_tokens, caption_channels) / caption_channels**0.5)

    def forward(self, text_BLC: Tensor, drop_B: Bool[Tensor, " batch"] | None = None) -> Tensor:
        """Embed text; where `drop_B` is true, the embedding of no text in its place."""
        if drop_B is not None:
            if text_BLC.shape[1:] != self.y_embedding.shape:
                raise ValueError(
                    f"to drop text it must be padded to {tuple(self.y_embedding.shape)} tokens and channels, "
                    f"got {tuple(text_BLC.shape[1:])}"
                )
            text_BLC = torch.where(drop_B[:, None, None], self.y_embedding.to(text_BLC.dtype), text_BLC)
        return self.y_proj(text_BLC)


def position_embedding(
    rows: int, columns: int, width: int, *, scale: float, device: torch.device
) -> Float[Tensor, "tokens D"]:
    """Sines and cosines of every token's column, then of its row, float32.

    Positions run over a square of the same number of tokens, divided by `scale`, so that videos of any
    aspect and resolution cover the range that was trained on.
    """
    side = round((rows * columns) ** 0.5)
    half = width // 2
    frequencies = 10000.0 ** (-torch.arange(0, half, 2, device=device).float() / half)

    def waves(num: int) -> Tensor:
        places = torch.arange(num, device=device).float() / scale * (side / num)
        angles = places.outer(frequencies)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    across = waves(columns).expand(rows, columns, half)
    down = waves(rows).unsqueeze(1).expand(rows, columns, half)
    return torch.cat([across, down], dim=-1).flatten(0, 1)
