"""What the backbones on diffusers' classes share: text tokens, latents, feature taps, reference, files."""

from __future__ import annotations

import hashlib
import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar, cast

import torch
from diffusers import ModelMixin
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from phys4d.models.autoencoders import (
    CLASSES,
    VideoAutoencoder,
    check_video_size,
    decode,
    encode,
    latent_format,
)
from phys4d.models.loading import check_class, load_config, load_index, load_part, load_tokenizer, resolve
from phys4d.models.noising import Noising
from phys4d.models.patch_autoencoder import PatchAutoencoder
from phys4d.models.protocol import Conditioning, Prediction
from phys4d.runtime.files import atomic_directory

Transformer = TypeVar("Transformer", bound=ModelMixin)


class Backbone(nn.Module, ABC, Generic[Transformer]):
    """A transformer with a text encoder and a video autoencoder; a subclass says how they are called."""

    name: ClassVar[str]
    """What `model_index.json` calls the backbone."""
    transformer_class: ClassVar[type[Any]]
    """The class of `Transformer`; generic parameters are not there at run time."""
    text_encoder_class: ClassVar[type[Any]]
    lora_targets: tuple[str, ...]
    encodes_padding: ClassVar[bool] = False
    """Whether the text encoder reads padding, as in CogVideoX; else its embeddings are zero there."""
    noising: Noising
    """How latents become noise and what is predicted from them."""
    first_frame_given: bool
    """Whether the first latent frame is held clean, and so is not generated."""

    def __init__(
        self,
        transformer: Transformer,
        vae: VideoAutoencoder,
        text_encoder: Any,
        tokenizer: PreTrainedTokenizerBase | None,
    ) -> None:
        """`tokenizer` is None only for a model on the meta device."""
        super().__init__()
        self.latents_mean: Tensor
        self.latents_std: Tensor
        self.transformer: Transformer = transformer
        self.vae: Any = vae
        self.text_encoder: PreTrainedModel = text_encoder
        self.tokenizer: Any = tokenizer
        self.latent_format = latent_format(vae)
        depth = self.tap_depth
        # Three, or as many as there are places.
        self.taps = tuple(sorted({max(0, round(depth * part) - 1) for part in (1 / 3, 2 / 3, 1.0)}))
        self.register_buffer("latents_mean", torch.tensor(self.latent_format.mean).view(1, -1, 1, 1, 1))
        self.register_buffer("latents_std", torch.tensor(self.latent_format.std).view(1, -1, 1, 1, 1))

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList: ...

    @property
    def tap_depth(self) -> int:
        """How many places there are to take features from, shallow to deep."""
        return len(self.blocks)

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Latent cells per token along each spatial axis."""

    @property
    @abstractmethod
    def text_length(self) -> int:
        """Tokens of a prompt, padding included."""

    @property
    def feature_width(self) -> int:
        """Channels of a tapped feature."""
        return cast(Any, self.transformer).proj_out.in_features

    @property
    def head_sizes(self) -> dict[str, int]:
        """What `GeometryHeads` has to know of the model."""
        return {
            "width": self.feature_width,
            "num_taps": len(self.taps),
            "upsampling": self.latent_format.spatial_stride * self.patch_size,
            "temporal_stride": self.latent_format.temporal_stride,
            "piece_frames": self.latent_format.piece_frames,
        }

    # Text

    def tokenize(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask, (B, L) each, on the text encoder's device."""
        batch = self.tokenizer(list(texts), padding="max_length", max_length=self.text_length)
        longest = max(len(ids) for ids in batch.input_ids)
        if longest > self.text_length:
            raise ValueError(
                f"a prompt has {longest} tokens, the model reads at most {self.text_length}; shorten it"
            )
        device = self.text_encoder.device
        return torch.tensor(batch.input_ids, device=device), torch.tensor(batch.attention_mask, device=device)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Embed prompts."""
        ids, mask = self.tokenize(texts)
        if self.encodes_padding:
            return self.text_encoder(ids).last_hidden_state
        return self.text_encoder(ids, mask).last_hidden_state * mask.unsqueeze(-1)

    def without_text(self, conditioning: Conditioning) -> Conditioning:
        """The same with the embedding of an empty prompt, for classifier-free guidance."""
        text = self.encode_text([""]).to(conditioning.text_BLD)
        return Conditioning(text.expand_as(conditioning.text_BLD), conditioning.first_frame_BChw)

    def encoder(self, kind: Literal["vae", "text"]) -> tuple[nn.Module, dict[str, Any]]:
        """The autoencoder or the text encoder, and whatever else its results depend on, for caches."""
        if kind == "vae":
            statistics = [self.latents_mean.flatten().tolist(), self.latents_std.flatten().tolist()]
            return self.vae, {"statistics": statistics, "config": _settings(dict(self.vae.config))}
        vocabulary = hashlib.sha256(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode())
        return self.text_encoder, {
            "backbone": self.name,
            "tokens": self.text_length,
            "vocabulary": vocabulary.hexdigest(),
            "config": _settings(self.text_encoder.config.to_dict()),
        }

    # Pixels and latents

    def encode_video(self, video_BCTHW: Tensor) -> Tensor:
        return (encode(self.vae, video_BCTHW) - self.latents_mean) / self.latents_std

    def decode_video(self, latents_BCThw: Tensor) -> Tensor:
        return decode(self.vae, latents_BCThw * self.latents_std + self.latents_mean).clamp(-1, 1)

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        stride, every = self.latent_format.spatial_stride, self.latent_format.temporal_stride
        check_video_size(num_frames, height, width, temporal_stride=every, multiple=stride * self.patch_size)
        frames = (num_frames - 1) // every + 1
        return self.latent_format.channels, frames, height // stride, width // stride

    def check_size(self, shape: Sequence[int], source: Path) -> None:
        """Refuse RGB of `source`, of shape (..., frames, height, width, 3), that does not fit the strides."""
        try:
            self.latent_shape(*shape[-4:-1])
        except ValueError as error:
            raise ValueError(f"the videos of {source} do not fit the model: {error}") from None

    def frames_of_latents(self, num_latent_frames: int) -> list[range]:
        return self.latent_format.frames_of_latents(num_latent_frames)

    def generated_mask(self, latents_BCThw: Tensor) -> Tensor:
        mask = latents_BCThw.new_ones(1, 1, latents_BCThw.shape[2], 1, 1)
        if self.first_frame_given:
            mask[:, :, 0] = 0.0
        return mask

    def with_first_frame(self, latents_BCThw: Tensor, conditioning: Conditioning) -> Tensor:
        """Latents whose given frames are the conditioning's, whatever they held."""
        mask = self.generated_mask(latents_BCThw)
        first_BC1hw = conditioning.first_frame_BChw.unsqueeze(2).to(latents_BCThw.dtype)
        return mask * latents_BCThw + (1 - mask) * first_BC1hw

    @staticmethod
    def open_gates(transformer: Any) -> None:
        """Give an untrained transformer gates that let its blocks through, where its class draws them near
        zero for weights to be loaded."""

    def published_shift(self, num_frames: int, height: int, width: int) -> float:
        """Shift of noise levels towards 1 that the model was published with for a size; 1 is none."""
        return 1.0

    # The denoiser

    @abstractmethod
    def predict(
        self,
        latents_BCThw: Tensor,
        sigma: float | Tensor,
        conditioning: Conditioning,
        *,
        features: bool = False,
    ) -> Prediction: ...

    @contextmanager
    def reference(self) -> Iterator[None]:
        # `disable_adapters` of diffusers looks up peft's version each time, 9 % of an iteration of stage 3.
        layers = [module for module in self.transformer.modules() if isinstance(module, BaseTunerLayer)]
        trained = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)
            # peft lets every adapter train that it switches on.
            for parameter, was_trained in trained:
                parameter.requires_grad_(was_trained)

    # Files

    @abstractmethod
    def scheduler(self) -> Any:
        """The stock scheduler that fits `noising`, to be saved beside the weights."""

    def pipeline_settings(self) -> dict[str, Any]:
        """What `model_index.json` says beside the parts."""
        return {}

    def save(self, directory: Path) -> None:
        parts = {
            "transformer": self.transformer,
            "text_encoder": self.text_encoder,
            "tokenizer": self.tokenizer,
        }
        with atomic_directory(directory, replace=True) as folder:
            if isinstance(self.vae, PatchAutoencoder):
                self.vae.register_to_config(
                    latents_mean=self.latents_mean.flatten().tolist(),
                    latents_std=self.latents_std.flatten().tolist(),
                )
            for name, part in {**parts, "vae": self.vae, "scheduler": self.scheduler()}.items():
                part.save_pretrained(folder / name)
            index = {"model": self.name, "parts": [*parts, "vae", "scheduler"], **self.pipeline_settings()}
            (folder / "model_index.json").write_text(json.dumps(index, indent=2))

    @classmethod
    def load(
        cls,
        source: Path | str,
        *,
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        gradient_checkpointing: bool = False,
    ) -> Self:
        """Read what `save` wrote, or a published pipeline: a folder in diffusers' layout, or a hub id.

        Weights are read from safetensors only, shard by shard, without a second copy in memory.

        Args:
            dtype: of transformer and text encoder.
            vae_dtype: of the autoencoder; published ones of Wan are meant to run in float32.

        Raises:
            FileNotFoundError: names the missing part or files and where they come from.
            ValueError: weights are damaged or belong to another architecture.
        """
        folder = resolve(source)
        for part in ("transformer", "vae", "text_encoder", "scheduler"):
            load_config(folder, part)
        cls.check_transformer(load_config(folder, "transformer"), folder / "transformer")
        options = cls.options_of(load_config(folder, "scheduler"), load_index(folder))
        transformer = cls.load_transformer(folder, dtype)
        if gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        model = cls(
            transformer,
            cls.load_vae(folder, vae_dtype),
            load_part(cls.text_encoder_class, folder, "text_encoder", dtype),
            load_tokenizer(folder),
            **options,
        )
        return model.eval()

    @classmethod
    def load_transformer(cls, folder: Path, dtype: torch.dtype) -> Any:
        """The denoiser of a pipeline folder."""
        return load_part(cls.transformer_class, folder, "transformer", dtype)

    @classmethod
    def load_vae(cls, folder: Path, dtype: torch.dtype) -> Any:
        """The autoencoder of a pipeline folder."""
        found = load_config(folder, "vae").get("_class_name", "")
        vae_class = CLASSES.get(found)
        if vae_class is None:
            raise ValueError(f"the autoencoder in {folder} must be one of {', '.join(CLASSES)}, got {found}")
        return load_part(vae_class, folder, "vae", dtype)

    @classmethod
    def check_transformer(cls, config: dict[str, Any], folder: Path) -> None:
        """Refuse the configuration of another backbone's transformer."""
        check_class(cls.transformer_class, config, folder)

    @classmethod
    def options_of(cls, scheduler: dict[str, Any], pipeline: dict[str, Any]) -> dict[str, Any]:
        """More arguments of the constructor, from the scheduler's configuration and `model_index.json`."""
        return {}


def _settings(config: dict[str, Any]) -> dict[str, str]:
    """A configuration without what only says where it was read."""
    return {name: str(value) for name, value in config.items() if not name.startswith("_")}


@contextmanager
def tapped(blocks: nn.ModuleList, taps: Sequence[int]) -> Iterator[list[Tensor]]:
    """Collect the outputs of some blocks, in order; the first of them where a block has several.

    What other threads compute with the same blocks meanwhile is theirs.
    """
    outputs: list[Any] = []
    thread = threading.get_ident()

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() == thread:
            outputs.append(output[0] if isinstance(output, tuple) else output)

    hooks = [blocks[i].register_forward_hook(keep) for i in taps]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
