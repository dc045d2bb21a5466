"""Open-Sora v1.2 behind the `VideoModel` protocol.

The first frame is a clean latent frame that the transformer is told of by its frame mask; it carries
timestep 0. The network predicts x0 - eps; `predict` gives eps - x0.

Source: Zheng et al., Open-Sora: Democratizing Efficient Video Production for All, 2024, and its v1.2 report.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel

from phys4d.models.autoencoders import VideoAutoencoder
from phys4d.models.backbone import Backbone
from phys4d.models.loading import has_plain_weights
from phys4d.models.noising import Flow
from phys4d.models.open_sora.published import load_transformer, load_vae
from phys4d.models.open_sora.rflow import RFlowSettings, resolution_shift
from phys4d.models.open_sora.stdit3 import STDiT3
from phys4d.models.open_sora.vae import OpenSoraVae
from phys4d.models.patch_autoencoder import PatchAutoencoder
from phys4d.models.protocol import Conditioning, Prediction
from phys4d.models.wordlevel import build_tokenizer


class OpenSoraModel(Backbone[STDiT3]):
    """STDiT3 with a T5 encoder and an autoencoder: Open-Sora's own or the tiny models' frame-wise one."""

    name = "open-sora"
    transformer_class = STDiT3
    text_encoder_class = T5EncoderModel
    lora_targets = ("qkv", "attn.proj", "q_linear", "kv_linear", "cross_attn.proj", "mlp.fc1", "mlp.fc2")
    noising = Flow()
    first_frame_given = True

    def __init__(
        self,
        transformer: STDiT3,
        vae: VideoAutoencoder,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        fps: float = 24.0,
    ) -> None:
        """
        Args:
            fps: frames per second that the transformer is told.
        """
        super().__init__(transformer, vae, text_encoder, tokenizer)
        self.fps = fps

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.blocks

    @property
    def tap_depth(self) -> int:
        """Features are taken after pairs of blocks: a tap is the number of a pair."""
        return self.transformer.config.depth

    @property
    def patch_size(self) -> int:
        return self.transformer.config.patch_size[1]

    @property
    def text_length(self) -> int:
        return self.transformer.config.model_max_length

    @property
    def feature_width(self) -> int:
        return self.transformer.config.hidden_size

    # Text

    def without_text(self, conditioning: Conditioning) -> Conditioning:
        """The same with the embedding of no text in as many tokens, for classifier-free guidance."""
        nothing = self.transformer.y_embedder.y_embedding.to(conditioning.text_BLD)
        text = nothing * text_mask(conditioning.text_BLD).unsqueeze(-1)
        return Conditioning(text, conditioning.first_frame_BChw)

    # Pixels and latents

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        if not isinstance(self.vae, OpenSoraVae):
            return super().latent_shape(num_frames, height, width)
        channels, _, h, w = super().latent_shape(1, height, width)
        return channels, self.vae.num_latent_frames(num_frames), h, w

    def published_shift(self, num_frames: int, height: int, width: int) -> float:
        """Of the formula, which has no value for videos as short as the tiny models'; those have 3."""
        return resolution_shift(height, width, num_frames) if isinstance(self.vae, OpenSoraVae) else 3.0

    # The denoiser

    def predict(
        self,
        latents_BCThw: Tensor,
        sigma: float | Tensor,
        conditioning: Conditioning,
        *,
        features: bool = False,
    ) -> Prediction:
        batch, channels, _, h, w = latents_BCThw.shape
        inputs = self.with_first_frame(latents_BCThw, conditioning)
        level = torch.as_tensor(sigma, dtype=torch.float32, device=inputs.device).expand(batch)
        output = self.transformer(
            inputs,
            self.noising.timestep(level),
            conditioning.text_BLD,
            height=float(h * self.latent_format.spatial_stride),
            width=float(w * self.latent_format.spatial_stride),
            fps=self.fps,
            text_mask_BL=text_mask(conditioning.text_BLD),
            generated_BT=self.generated_mask(inputs).view(1, -1).expand(batch, -1) > 0,
            taps=self.taps if features else (),
        )
        return Prediction(-output.sample[:, :channels], output.features)

    @staticmethod
    def open_gates(transformer: STDiT3) -> None:
        for block in transformer.blocks:
            # Of attention and feed-forward.
            cast(nn.Parameter, block.scale_shift_table).data[[2, 5]] = 0.5

    # Files

    def scheduler(self) -> Any:
        return RFlowSettings(fps=self.fps)

    @classmethod
    def load_transformer(cls, folder: Path, dtype: torch.dtype) -> STDiT3:
        if has_plain_weights(folder, "transformer"):
            return load_transformer(folder / "transformer", dtype)
        return super().load_transformer(folder, dtype)

    @classmethod
    def load_vae(cls, folder: Path, dtype: torch.dtype) -> Any:
        if has_plain_weights(folder, "vae"):
            return load_vae(folder / "vae", dtype)
        return super().load_vae(folder, dtype)

    @classmethod
    def options_of(cls, scheduler: dict[str, Any], pipeline: dict[str, Any]) -> dict[str, Any]:
        return {"fps": float(scheduler["fps"])}


def text_mask(text_BLD: Tensor) -> Bool[Tensor, "batch tokens"]:
    """True at tokens; padding is zero in all channels."""
    return (text_BLD != 0).any(-1)


def tiny_open_sora(captions: Sequence[str], *, width: int = 128, num_layers: int = 6) -> OpenSoraModel:
    """An untrained Open-Sora of about 2 M parameters for 64x64 videos, its vocabulary taken from `captions`.

    Args:
        num_layers: blocks, half of them spatial and half temporal.
    """
    if num_layers < 2 or num_layers % 2:
        raise ValueError(
            f"num_layers must be even, spatial and temporal blocks come in pairs; got {num_layers}"
        )
    tokenizer = build_tokenizer(captions)
    pad = cast(int, tokenizer.pad_token_id)
    text_encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=64,
            d_kv=16,
            num_heads=4,
            d_ff=128,
            num_layers=2,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            pad_token_id=pad,
        )
    )
    vae = PatchAutoencoder()
    transformer = STDiT3(
        in_channels=vae.config.latent_channels,
        hidden_size=width,
        depth=num_layers // 2,
        num_heads=4,
        caption_channels=64,
        model_max_length=tokenizer.model_max_length,
        input_sq_size=64,
        pred_sigma=False,
    )
    OpenSoraModel.open_gates(transformer)
    nn.init.zeros_(transformer.final_layer.linear.weight)
    nn.init.zeros_(transformer.final_layer.linear.bias)
    return OpenSoraModel(transformer, vae, text_encoder, tokenizer)
