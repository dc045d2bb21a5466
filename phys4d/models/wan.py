"""Wan2.2 TI2V behind the `VideoModel` protocol, on diffusers' own classes.

The first frame is a clean latent frame whose tokens carry timestep 0 (`expand_timesteps`); all other
tokens carry the noise level. Source: Wan Team, Wan: Open and Advanced Large-Scale Video Generative
Models, 2025, and diffusers' WanImageToVideoPipeline. A transformer with twice the latent channels as input
(the tiny one) also gets the first frame beside every frame, as Wan2.1 I2V does with its condition: what
stands still then need not be fetched by attention.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from phys4d.models.patch_autoencoder import PatchAutoencoder
from phys4d.models.protocol import Conditioning, Prediction
from phys4d.models.wordlevel import build_tokenizer
from phys4d.runtime.files import atomic_directory


class WanModel(nn.Module):
    """A Wan transformer with a text encoder and a frame-wise autoencoder."""

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        vae: PatchAutoencoder,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerFast,
    ) -> None:
        super().__init__()
        self.latents_mean: Tensor
        self.latents_std: Tensor
        self.transformer: WanTransformer3DModel = transformer
        self.vae = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        depth = len(transformer.blocks)
        self.taps = tuple(max(0, round(depth * part) - 1) for part in (1 / 3, 2 / 3, 1.0))
        channels = vae.config.latent_channels
        self.register_buffer("latents_mean", torch.zeros(1, channels, 1, 1, 1))
        self.register_buffer("latents_std", torch.ones(1, channels, 1, 1, 1))

    # Text

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, (B, L) each."""
        limit = self.tokenizer.model_max_length
        batch = self.tokenizer(list(texts), padding="max_length")
        longest = max(len(ids) for ids in batch.input_ids)
        if longest > limit:
            raise ValueError(f"a prompt has {longest} tokens, the model reads at most {limit}; shorten it")
        return torch.tensor(batch.input_ids), torch.tensor(batch.attention_mask)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        ids, mask = self.tokenize(texts)
        hidden = self.text_encoder(ids, mask).last_hidden_state
        return hidden * mask.unsqueeze(-1)

    # Pixels and latents

    def encode_video(self, video_BCTHW: Tensor) -> Tensor:
        batch, _, frames, _, _ = video_BCTHW.shape
        latents = self.vae.encode(video_BCTHW.transpose(1, 2).flatten(0, 1))
        latents = latents.unflatten(0, (batch, frames)).transpose(1, 2)
        return (latents - self.latents_mean) / self.latents_std

    def decode_video(self, latents_BCThw: Tensor) -> Tensor:
        batch, _, frames, _, _ = latents_BCThw.shape
        latents = latents_BCThw * self.latents_std + self.latents_mean
        images = self.vae.decode(latents.transpose(1, 2).flatten(0, 1))
        return images.unflatten(0, (batch, frames)).transpose(1, 2).clamp(-1, 1)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        stride = self.vae.config.patch_size
        multiple = stride * self.transformer.config.patch_size[1]
        for name, size in (("height", height), ("width", width)):
            if size % multiple:
                nearest = max(multiple, round(size / multiple) * multiple)
                raise ValueError(f"{name} must be a multiple of {multiple}, got {size}; use {nearest}")
        return self.vae.config.latent_channels, num_frames, height // stride, width // stride

    def generated_mask(self, latents_BCThw: Tensor) -> Tensor:
        mask = torch.ones(1, 1, latents_BCThw.shape[2], 1, 1, dtype=latents_BCThw.dtype)
        mask[:, :, 0] = 0.0
        return mask.to(latents_BCThw.device)

    # The denoiser

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
        inputs = mask * latents_BCThw + (1 - mask) * first
        if self.transformer.config.in_channels == 2 * inputs.shape[1]:
            inputs = torch.cat([inputs, first.expand_as(inputs)], dim=1)
        _, patch_h, patch_w = self.transformer.config.patch_size
        rows, columns = h // patch_h, w // patch_w
        level = torch.as_tensor(sigma, dtype=torch.float32, device=inputs.device).expand(batch)
        timestep_BT = 1000.0 * level.unsqueeze(1) * mask.view(1, frames).float()
        timestep_BS = timestep_BT.repeat_interleave(rows * columns, dim=1)
        with _tapped(self.transformer, self.taps if features else ()) as taps:
            velocity = self.transformer(inputs, timestep_BS, conditioning.text_BLD, return_dict=False)[0]
        grids = tuple(tap.unflatten(1, (frames, rows, columns)) for tap in taps)
        return Prediction(velocity.float(), grids)

    @contextmanager
    def reference(self) -> Iterator[None]:
        adapted = bool(getattr(self.transformer, "peft_config", None))
        if adapted:
            self.transformer.disable_adapters()
        try:
            yield
        finally:
            if adapted:
                self.transformer.enable_adapters()

    # Files

    def save(self, directory: Path) -> None:
        with atomic_directory(directory, replace=True) as folder:
            self.transformer.save_pretrained(folder / "transformer")
            self.vae.register_to_config(
                latents_mean=self.latents_mean.flatten().tolist(),
                latents_std=self.latents_std.flatten().tolist(),
            )
            self.vae.save_pretrained(folder / "vae")
            self.text_encoder.save_pretrained(folder / "text_encoder")
            self.tokenizer.save_pretrained(folder / "tokenizer")
            FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
            index = {
                "model": "wan",
                "parts": ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"],
            }
            (folder / "model_index.json").write_text(json.dumps(index, indent=2))

    @classmethod
    def load(cls, directory: Path) -> WanModel:
        """Read what `save` wrote. Raises FileNotFoundError that names the missing part."""
        for part in ("transformer", "vae", "text_encoder", "tokenizer"):
            if not (directory / part).is_dir():
                raise FileNotFoundError(f"no {part}/ in {directory}; train the base with `make base`")
        vae = PatchAutoencoder.from_pretrained(directory / "vae")
        model = cls(
            WanTransformer3DModel.from_pretrained(directory / "transformer"),
            vae,
            UMT5EncoderModel.from_pretrained(directory / "text_encoder"),
            PreTrainedTokenizerFast.from_pretrained(directory / "tokenizer"),
        )
        model.latents_mean.copy_(torch.tensor(vae.config.latents_mean).view_as(model.latents_mean))
        model.latents_std.copy_(torch.tensor(vae.config.latents_std).view_as(model.latents_std))
        return model.eval()


@contextmanager
def _tapped(transformer: WanTransformer3DModel, taps: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect the outputs of some blocks, in order."""
    outputs: list[Any] = []
    hooks = [
        transformer.blocks[i].register_forward_hook(lambda _m, _a, out: outputs.append(out)) for i in taps
    ]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


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
