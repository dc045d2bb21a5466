"""Open-Sora v1.2 behind the `VideoModel` protocol.

The first frame is a clean latent frame that the transformer is told of by its frame mask; it carries
timestep 0. The network predicts x0 - eps; `predict` gives eps - x0.

Source: Zheng et al., Open-Sora: Democratizing Efficient Video Production for All, 2024, and its v1.2 report.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from phys4d.models.open_sora.stdit3 import STDiT3
from phys4d.models.open_sora.vae import OpenSoraVae
from phys4d.models.patch_autoencoder import PatchAutoencoder
from phys4d.models.protocol import Conditioning, Prediction
from phys4d.models.wordlevel import build_tokenizer
from phys4d.runtime.files import atomic_directory


class OpenSoraModel(nn.Module):
    """STDiT3 with a T5 encoder and an autoencoder: Open-Sora's own or the tiny models' frame-wise one."""

    lora_targets = ("qkv", "attn.proj", "q_linear", "kv_linear", "cross_attn.proj", "mlp.fc1", "mlp.fc2")

    def __init__(
        self,
        transformer: STDiT3,
        vae: OpenSoraVae | PatchAutoencoder,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerFast,
        *,
        fps: float = 24.0,
    ) -> None:
        """
        Args:
            fps: frames per second that the transformer is told.
        """
        super().__init__()
        self.latents_mean: Tensor
        self.latents_std: Tensor
        self.transformer: STDiT3 = transformer
        self.vae: OpenSoraVae | PatchAutoencoder = vae
        self.text_encoder = text_encoder
        self.tokenizer = tokenizer
        self.fps = fps
        depth = transformer.config.depth
        self.taps = tuple(max(0, round(depth * part) - 1) for part in (1 / 3, 2 / 3, 1.0))
        channels = transformer.config.in_channels
        self.register_buffer("latents_mean", torch.zeros(1, channels, 1, 1, 1))
        self.register_buffer("latents_std", torch.ones(1, channels, 1, 1, 1))

    @property
    def feature_width(self) -> int:
        """Channels of a tapped feature, for the heads."""
        return self.transformer.config.hidden_size

    # Text

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, (B, L) each."""
        limit = self.transformer.config.model_max_length
        batch = self.tokenizer(list(texts), padding="max_length", max_length=limit)
        longest = max(len(ids) for ids in batch.input_ids)
        if longest > limit:
            raise ValueError(f"a prompt has {longest} tokens, the model reads at most {limit}; shorten it")
        device = self.text_encoder.device
        return torch.tensor(batch.input_ids, device=device), torch.tensor(batch.attention_mask, device=device)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        ids, mask = self.tokenize(texts)
        hidden = self.text_encoder(ids, mask).last_hidden_state
        return hidden * mask.unsqueeze(-1)

    def without_text(self, conditioning: Conditioning) -> Conditioning:
        """The same with the embedding of no text in as many tokens, for classifier-free guidance."""
        nothing = self.transformer.y_embedder.y_embedding.to(conditioning.text_BLD)
        text = nothing * text_mask(conditioning.text_BLD).unsqueeze(-1)
        return Conditioning(text, conditioning.first_frame_BChw)

    # Pixels and latents

    def encode_video(self, video_BCTHW: Tensor) -> Tensor:
        if isinstance(self.vae, OpenSoraVae):
            return self.vae.encode(video_BCTHW)
        batch, _, frames, _, _ = video_BCTHW.shape
        latents = self.vae.encode(video_BCTHW.transpose(1, 2).flatten(0, 1))
        latents = latents.unflatten(0, (batch, frames)).transpose(1, 2)
        return (latents - self.latents_mean) / self.latents_std

    def decode_video(self, latents_BCThw: Tensor) -> Tensor:
        if isinstance(self.vae, OpenSoraVae):
            return self.vae.decode(latents_BCThw).clamp(-1, 1)
        batch, _, frames, _, _ = latents_BCThw.shape
        latents = latents_BCThw * self.latents_std + self.latents_mean
        images = self.vae.decode(latents.transpose(1, 2).flatten(0, 1))
        return images.unflatten(0, (batch, frames)).transpose(1, 2).clamp(-1, 1)

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along each axis."""
        return self.vae.spatial_stride if isinstance(self.vae, OpenSoraVae) else self.vae.config.patch_size

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        stride = self.spatial_stride
        multiple = stride * self.transformer.config.patch_size[1]
        for name, size in (("height", height), ("width", width)):
            if size % multiple:
                nearest = max(multiple, round(size / multiple) * multiple)
                raise ValueError(f"{name} must be a multiple of {multiple}, got {size}; use {nearest}")
        if isinstance(self.vae, OpenSoraVae):
            num_frames = self.vae.num_latent_frames(num_frames)
        return self.transformer.config.in_channels, num_frames, height // stride, width // stride

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
        mask = self.generated_mask(latents_BCThw)
        first = conditioning.first_frame_BChw.unsqueeze(2).to(latents_BCThw.dtype)
        inputs = mask * latents_BCThw + (1 - mask) * first
        generated = mask.view(1, -1).expand(len(inputs), -1) > 0
        return self.predict_frames(inputs, sigma, conditioning.text_BLD, generated, features=features)

    def predict_frames(
        self,
        latents_BCThw: Tensor,
        sigma: float | Tensor,
        text_BLD: Tensor,
        generated_BT: Bool[Tensor, "batch frames"],
        *,
        features: bool = False,
    ) -> Prediction:
        """As `predict`, for any choice of frames that are clean and those at level `sigma`."""
        batch, channels, _, h, w = latents_BCThw.shape
        level = torch.as_tensor(sigma, dtype=torch.float32, device=latents_BCThw.device).expand(batch)
        output = self.transformer(
            latents_BCThw,
            1000.0 * level,
            text_BLD,
            height=float(h * self.spatial_stride),
            width=float(w * self.spatial_stride),
            fps=self.fps,
            text_mask_BL=text_mask(text_BLD),
            generated_BT=generated_BT,
            taps=self.taps if features else (),
        )
        return Prediction(-output.sample[:, :channels], output.features)

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
            if isinstance(self.vae, PatchAutoencoder):
                self.vae.register_to_config(
                    latents_mean=self.latents_mean.flatten().tolist(),
                    latents_std=self.latents_std.flatten().tolist(),
                )
            self.vae.save_pretrained(folder / "vae")
            self.text_encoder.save_pretrained(folder / "text_encoder")
            self.tokenizer.save_pretrained(folder / "tokenizer")
            index = {"model": "open-sora", "fps": self.fps, "parts": list(_PARTS)}
            (folder / "model_index.json").write_text(json.dumps(index, indent=2))

    @classmethod
    def load(cls, directory: Path) -> OpenSoraModel:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: names the missing part.
            ValueError: the folder holds another kind of model.
        """
        for part in _PARTS:
            if not (directory / part).is_dir():
                raise FileNotFoundError(f"no {part}/ in {directory}; train the base with `make base`")
        index = json.loads((directory / "model_index.json").read_text())
        if index.get("model") != "open-sora":
            raise ValueError(
                f"{directory} holds a model of kind {index.get('model')!r}, expected 'open-sora'"
            )
        kind = json.loads((directory / "vae" / "config.json").read_text())["_class_name"]
        vae_class = OpenSoraVae if kind == OpenSoraVae.__name__ else PatchAutoencoder
        vae = vae_class.from_pretrained(directory / "vae")
        model = cls(
            STDiT3.from_pretrained(directory / "transformer"),
            vae,
            T5EncoderModel.from_pretrained(directory / "text_encoder"),
            PreTrainedTokenizerFast.from_pretrained(directory / "tokenizer"),
            fps=index["fps"],
        )
        if isinstance(vae, PatchAutoencoder):
            model.latents_mean.copy_(torch.tensor(vae.config.latents_mean).view_as(model.latents_mean))
            model.latents_std.copy_(torch.tensor(vae.config.latents_std).view_as(model.latents_std))
        return model.eval()


_PARTS = ("transformer", "vae", "text_encoder", "tokenizer")


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
    for block in transformer.blocks:
        # Gates of attention and feed-forward; the published class draws them near zero.
        cast(nn.Parameter, block.scale_shift_table).data[[2, 5]] = 0.5
    nn.init.zeros_(transformer.final_layer.linear.weight)
    nn.init.zeros_(transformer.final_layer.linear.bias)
    return OpenSoraModel(transformer, vae, text_encoder, tokenizer)
