"""Wan2.2 TI2V and Wan2.1 T2V behind the `VideoModel` protocol, on diffusers' own classes.

In Wan2.2 TI2V the first frame is a clean latent frame whose tokens carry timestep 0 (`expand_timesteps`); all
other tokens carry the noise level. Wan2.1 T2V generates every frame at one level, from text alone. A
transformer with twice the latent channels as input (the tiny one) also gets the first frame beside every
frame, as Wan2.1 I2V does with its condition: what stands still then need not be fetched by attention.

Source: Wan Team, Wan: Open and Advanced Large-Scale Video Generative Models, 2025, and diffusers' WanPipeline
and WanImageToVideoPipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, UMT5Config, UMT5EncoderModel

from phys4d.models.autoencoders import VideoAutoencoder
from phys4d.models.backbone import Backbone, tapped
from phys4d.models.noising import Flow
from phys4d.models.patch_autoencoder import PatchAutoencoder
from phys4d.models.protocol import Conditioning, Prediction
from phys4d.models.wordlevel import build_tokenizer

TEXT_LENGTH = 512
"""Tokens that published Wan models read."""


class WanModel(Backbone[WanTransformer3DModel]):
    """A Wan transformer with its other parts."""

    name = "wan"
    transformer_class = WanTransformer3DModel
    text_encoder_class = UMT5EncoderModel
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")
    noising = Flow()

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        vae: VideoAutoencoder,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        first_frame_given: bool = True,
        shift: float = 3.0,
    ) -> None:
        """
        Args:
            first_frame_given: the first frame is a clean latent frame (Wan2.2 TI2V), else text is all
                (Wan2.1 T2V).
            shift: of the noise levels towards 1 in sampling.
        """
        super().__init__(transformer, vae, text_encoder, tokenizer)
        self.first_frame_given = first_frame_given
        self.shift = shift
        channels = self.latent_format.channels
        allowed = (channels, 2 * channels) if first_frame_given else (channels,)
        if transformer.config.in_channels not in allowed:
            raise ValueError(
                f"a Wan transformer for latents of {channels} channels takes "
                f"{' or '.join(map(str, allowed))}, got {transformer.config.in_channels}: Wan2.1 I2V is not "
                "supported; use Wan2.2-TI2V-5B or Wan2.1-T2V"
            )

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.blocks

    @property
    def patch_size(self) -> int:
        return self.transformer.config.patch_size[1]

    @property
    def text_length(self) -> int:
        return min(self.tokenizer.model_max_length, TEXT_LENGTH) if self.tokenizer else TEXT_LENGTH

    def published_shift(self, num_frames: int, height: int, width: int) -> float:
        return self.shift

    def predict(
        self,
        latents_BCThw: Tensor,
        sigma: float | Tensor,
        conditioning: Conditioning,
        *,
        features: bool = False,
    ) -> Prediction:
        batch, _, frames, h, w = latents_BCThw.shape
        rows, columns = h // self.patch_size, w // self.patch_size
        # `transformer.dtype` walks through all modules.
        dtype = self.transformer.patch_embedding.weight.dtype
        inputs = self.with_first_frame(latents_BCThw, conditioning).to(dtype)
        if self.transformer.config.in_channels == 2 * inputs.shape[1]:
            first_BC1hw = conditioning.first_frame_BChw.unsqueeze(2).to(inputs)
            inputs = torch.cat([inputs, first_BC1hw.expand_as(inputs)], dim=1)
        level = torch.as_tensor(sigma, dtype=torch.float32, device=inputs.device).expand(batch)
        timestep = self.noising.timestep(level)
        if self.first_frame_given:
            mask_1T = self.generated_mask(latents_BCThw).view(1, frames).float()
            timestep = (timestep.unsqueeze(1) * mask_1T).repeat_interleave(rows * columns, dim=1)
        text = conditioning.text_BLD.to(inputs.dtype)
        with tapped(self.blocks, self.taps if features else ()) as taps:
            velocity = self.transformer(inputs, timestep, text, return_dict=False)[0]
        grids = tuple(tap.unflatten(1, (frames, rows, columns)) for tap in taps)
        return Prediction(velocity.float(), grids)

    @staticmethod
    def open_gates(transformer: WanTransformer3DModel) -> None:
        for block in transformer.blocks:
            # Of attention and feed-forward.
            cast(nn.Parameter, block.scale_shift_table).data[:, [2, 5]] = 0.5

    def scheduler(self) -> Any:
        return FlowMatchEulerDiscreteScheduler(shift=self.shift)

    def pipeline_settings(self) -> dict[str, Any]:
        return {"expand_timesteps": self.first_frame_given}

    @classmethod
    def options_of(cls, scheduler: dict[str, Any], pipeline: dict[str, Any]) -> dict[str, Any]:
        if pipeline.get("transformer_2", [None, None])[0] is not None:
            raise ValueError(
                "Wan2.2 A14B has two transformers, of which one alone is not the model; use Wan2.2-TI2V-5B"
            )
        return {
            "first_frame_given": bool(pipeline.get("expand_timesteps", "model" in pipeline)),
            # UniPC calls it flow_shift.
            "shift": float(scheduler.get("flow_shift", scheduler.get("shift", 3.0))),
        }


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
    WanModel.open_gates(transformer)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
    return WanModel(transformer, PatchAutoencoder(), text_encoder, tokenizer)
