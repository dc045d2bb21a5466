"""CogVideoX, text- and image-to-video, behind the `VideoModel` protocol, on diffusers' own classes.

All latent frames are generated. The image-to-video model sees the first frame's latent in extra channels of
frame 0, with zeros in those of the others. Its transformer has frames before channels.
Source: Yang et al., CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer, 2024, and
diffusers' CogVideoXImageToVideoPipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXDDIMScheduler, CogVideoXTransformer3DModel
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel

from phys4d.models.autoencoders import VideoAutoencoder
from phys4d.models.backbone import Backbone, tapped
from phys4d.models.noising import VPrediction
from phys4d.models.patch_autoencoder import PatchAutoencoder
from phys4d.models.protocol import Conditioning, Prediction
from phys4d.models.wordlevel import build_tokenizer


class CogVideoXModel(Backbone[CogVideoXTransformer3DModel]):
    """A CogVideoX 1.0 transformer (2B or 5B, with or without a first frame) with its other parts."""

    name = "cogvideox"
    transformer_class = CogVideoXTransformer3DModel
    text_encoder_class = T5EncoderModel
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2")
    encodes_padding = True
    first_frame_given = False

    def __init__(
        self,
        transformer: CogVideoXTransformer3DModel,
        vae: VideoAutoencoder,
        text_encoder: T5EncoderModel,
        tokenizer: PreTrainedTokenizerBase | None,
        noising: VPrediction | None = None,
    ) -> None:
        config = transformer.config
        if config.patch_size_t is not None or config.ofs_embed_dim:
            raise ValueError(
                f"CogVideoX 1.0 has patch_size_t none, got {config.patch_size_t}: 1.5 is not supported; "
                "use CogVideoX-2b, CogVideoX-5b or CogVideoX-5b-I2V"
            )
        super().__init__(transformer, vae, text_encoder, tokenizer)
        self.noising = noising or VPrediction()
        channels = self.latent_format.channels
        if config.out_channels != channels or config.in_channels not in (channels, 2 * channels):
            raise ValueError(
                f"a transformer for latents of {channels} channels takes {channels} or {2 * channels} and "
                f"gives {channels}, got {config.in_channels} and {config.out_channels}"
            )
        # The image-to-video model was trained with its image latents divided by the scale, not multiplied.
        inverted = isinstance(vae, AutoencoderKLCogVideoX) and vae.config.invert_scale_latents
        self.first_frame_scale: float = self.latent_format.std[0] ** 2 if inverted else 1.0

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.transformer_blocks

    @property
    def patch_size(self) -> int:
        return self.transformer.config.patch_size

    @property
    def text_length(self) -> int:
        return self.transformer.config.max_text_seq_length

    @property
    def takes_first_frame(self) -> bool:
        """Whether this is an image-to-video model."""
        return self.transformer.config.in_channels == 2 * self.latent_format.channels

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        shape = super().latent_shape(num_frames, height, width)
        config = self.transformer.config
        if config.use_learned_positional_embeddings:
            stride = self.latent_format.spatial_stride
            only = (config.sample_frames, config.sample_height * stride, config.sample_width * stride)
            if (num_frames, height, width) != only:
                raise ValueError(
                    f"a model with learned positions makes one size only: use {only[0]} frames of "
                    f"{only[1]}x{only[2]} (height x width), got {num_frames} of {height}x{width}"
                )
        return shape

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
        inputs_BTChw = latents_BCThw.transpose(1, 2)
        if self.takes_first_frame:
            image_BTChw = torch.zeros_like(inputs_BTChw)
            image_BTChw[:, 0] = conditioning.first_frame_BChw * self.first_frame_scale
            inputs_BTChw = torch.cat([inputs_BTChw, image_BTChw], dim=2)
        inputs_BTChw = inputs_BTChw.to(self.transformer.dtype)
        level = torch.as_tensor(sigma, dtype=torch.float32, device=inputs_BTChw.device).expand(batch)
        with tapped(self.blocks, self.taps if features else ()) as taps:
            velocity_BTChw = self.transformer(
                inputs_BTChw,
                conditioning.text_BLD.to(inputs_BTChw.dtype),
                self.noising.timestep(level),
                image_rotary_emb=self._rotary(frames, rows, columns, inputs_BTChw.device),
                return_dict=False,
            )[0]
        grids = tuple(tap.unflatten(1, (frames, rows, columns)) for tap in taps)
        return Prediction(velocity_BTChw.transpose(1, 2).float(), grids)

    def _rotary(
        self, frames: int, rows: int, columns: int, device: torch.device
    ) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines of the token positions, stretched to the grid the model was trained on."""
        config = self.transformer.config
        if not config.use_rotary_positional_embeddings:
            return None
        crops = get_resize_crop_region_for_grid(
            (rows, columns), config.sample_width // self.patch_size, config.sample_height // self.patch_size
        )
        embedding = get_3d_rotary_pos_embed(
            embed_dim=config.attention_head_dim,
            crops_coords=crops,
            grid_size=(rows, columns),
            temporal_size=frames,
            device=device,
        )
        return cast(tuple[Tensor, Tensor], embedding)

    def scheduler(self) -> Any:
        assert isinstance(self.noising, VPrediction)
        return CogVideoXDDIMScheduler(
            snr_shift_scale=self.noising.snr_shift_scale,
            prediction_type="v_prediction",
            rescale_betas_zero_snr=True,
            timestep_spacing="trailing",
        )

    @classmethod
    def options_of(cls, scheduler: dict[str, Any], pipeline: dict[str, Any]) -> dict[str, Any]:
        found = scheduler.get("prediction_type"), scheduler.get("rescale_betas_zero_snr")
        if found != ("v_prediction", True):
            raise ValueError(
                "a CogVideoX scheduler has prediction_type v_prediction and rescale_betas_zero_snr "
                f"true, got {found[0]} and {found[1]}"
            )
        return {"noising": VPrediction(scheduler["snr_shift_scale"])}


def tiny_cogvideox(captions: Sequence[str], *, width: int = 128, num_layers: int = 6) -> CogVideoXModel:
    """An untrained image-to-video CogVideoX of about 2 M parameters for 64x64 videos.

    Its vocabulary is taken from `captions`.
    """
    if width < 32 or width % 32:
        raise ValueError(f"width must be a multiple of 32, the width of a head, got {width}")
    tokenizer = build_tokenizer(captions)
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
            pad_token_id=cast(int, tokenizer.pad_token_id),
        )
    )
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=width // 32,
        attention_head_dim=32,
        in_channels=32,
        out_channels=16,
        time_embed_dim=width,
        text_embed_dim=64,
        num_layers=num_layers,
        sample_width=8,
        sample_height=8,
        sample_frames=9,
        temporal_compression_ratio=1,
        max_text_seq_length=tokenizer.model_max_length,
        spatial_interpolation_scale=1.0,
        use_rotary_positional_embeddings=True,
    )
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(cast(Tensor, transformer.proj_out.bias))
    return CogVideoXModel(transformer, PatchAutoencoder(), text_encoder, tokenizer)
