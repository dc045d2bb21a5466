"""Wan2.2 TI2V behind the `VideoModel` protocol, on diffusers' own classes.

The first frame is a clean latent frame whose tokens carry timestep 0 (`expand_timesteps`); all other
tokens carry the noise level. Source: Wan Team, Wan: Open and Advanced Large-Scale Video Generative
Models, 2025, and diffusers' WanImageToVideoPipeline. A transformer with twice the latent channels as input
(the tiny one) also gets the first frame beside every frame, as Wan2.1 I2V does with its condition: what
stands still then need not be fetched by attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch import Tensor, nn
from transformers import UMT5Config, UMT5EncoderModel

from phys4d.models.backbone import Backbone, tapped
from phys4d.models.noising import Flow
from phys4d.models.patch_autoencoder import PatchAutoencoder
from phys4d.models.protocol import Conditioning, Prediction
from phys4d.models.wordlevel import build_tokenizer

TEXT_LENGTH = 512
"""Tokens that published Wan models read."""


class WanModel(Backbone):
    """A Wan transformer that takes the first frame as a clean latent frame, with its other parts."""

    name = "wan"
    transformer_class = WanTransformer3DModel
    text_encoder_class = UMT5EncoderModel
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    noising: Flow = Flow()
    transformer: WanTransformer3DModel

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.blocks

    @property
    def patch_size(self) -> int:
        return self.transformer.config.patch_size[1]

    @property
    def text_length(self) -> int:
        return min(self.tokenizer.model_max_length, TEXT_LENGTH) if self.tokenizer else TEXT_LENGTH

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embeddings, zero at padding."""
        ids, mask = self.tokenize(texts)
        hidden = self.text_encoder(ids, mask).last_hidden_state
        return hidden * mask.unsqueeze(-1)

    def generated_mask(self, latents_BCThw: Tensor) -> Tensor:
        mask = torch.ones(1, 1, latents_BCThw.shape[2], 1, 1, dtype=latents_BCThw.dtype)
        mask[:, :, 0] = 0.0
        return mask.to(latents_BCThw.device)

    def predict(
        self,
        latents_BCThw: Tensor,
        sigma: float | Tensor,
        conditioning: Conditioning,
        *,
        features: bool = False,
    ) -> Prediction:
        batch, _, frames, h, w = latents_BCThw.shape
        mask = self.generated_mask(latents_BCThw)
        first = conditioning.first_frame_BChw.unsqueeze(2).to(latents_BCThw.dtype)
        inputs = (mask * latents_BCThw + (1 - mask) * first).to(self.transformer.dtype)
        if self.transformer.config.in_channels == 2 * inputs.shape[1]:
            inputs = torch.cat([inputs, first.to(inputs.dtype).expand_as(inputs)], dim=1)
        rows, columns = h // self.patch_size, w // self.patch_size
        level = torch.as_tensor(sigma, dtype=torch.float32, device=inputs.device).expand(batch)
        timestep_BT = self.noising.timestep(level).unsqueeze(1) * mask.view(1, frames).float()
        timestep_BS = timestep_BT.repeat_interleave(rows * columns, dim=1)
        text = conditioning.text_BLD.to(inputs.dtype)
        with tapped(self.blocks, self.taps if features else ()) as taps:
            velocity = self.transformer(inputs, timestep_BS, text, return_dict=False)[0]
        grids = tuple(tap.unflatten(1, (frames, rows, columns)) for tap in taps)
        return Prediction(velocity.float(), grids)

    def scheduler(self) -> Any:
        return FlowMatchEulerDiscreteScheduler(shift=3.0)


def tiny_wan(captions: Sequence[str], *, width: int = 128, num_layers: int = 6) -> WanModel:
    """An untrained Wan of about 2 M parameters for 64x64 videos, its vocabulary taken from `captions`."""
    tokenizer = build_tokenizer(captions)
    pad = cast(int, tokenizer.pad_token_id)
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            num_heads=4,
            d_ff=128,
            num_layers=2,
            dropout_rate=0.0,
            pad_token_id=pad,
            decoder_start_token_id=pad,
        )
    )
    transformer = WanTransformer3DModel(
        num_attention_heads=4,
        attention_head_dim=width // 4,
        in_channels=32,
        out_channels=16,
        text_dim=64,
        freq_dim=64,
        ffn_dim=4 * width,
        num_layers=num_layers,
    )
    for block in transformer.blocks:
        # Gates of attention and feed-forward; diffusers draws them near zero, for weights to be loaded.
        cast(nn.Parameter, block.scale_shift_table).data[:, [2, 5]] = 0.5
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return WanModel(transformer, PatchAutoencoder(), text_encoder, tokenizer)
