"""Presets: full-size models on the meta device against what is published, and what is refused."""

import functools
import tomllib
from pathlib import Path

import pytest

from phys4d.models.registry import (
    FULL,
    backbone_class,
    check_preset,
    load_model,
    meta_model,
    tiny_model,
)

SAMPLING = Path(__file__).parents[3] / "policy" / "presets" / "sample"
meta = functools.cache(meta_model)
COUNTS = {
    "wan2.2-5b": (4_999_787_712, 704_688_668),
    "wan2.1-1.3b": (1_418_996_800, 126_892_531),
    "cogvideox-5b": (5_570_283_072, 215_583_907),
    "cogvideox-5b-i2v": (5_570_479_680, 215_583_907),
    # Not a published figure: what the conversion script's arguments give.
    "cogvideox-2b": (1_693_783_872, 215_583_907),
    # An image autoencoder of 83,653,863 parameters and one over time of 309,687,144.
    "open-sora-1.2": (1_207_643_972, 393_341_007),
}
SHAPES = {
    "wan2.2-5b": {
        "patch_embedding.weight": (3072, 48, 1, 2, 2),
        "condition_embedder.text_embedder.linear_1.weight": (3072, 4096),
        "blocks.29.attn2.to_out.0.weight": (3072, 3072),
        "blocks.29.ffn.net.0.proj.weight": (14336, 3072),
        "proj_out.weight": (192, 3072),
    },
    "wan2.1-1.3b": {
        "patch_embedding.weight": (1536, 16, 1, 2, 2),
        "blocks.29.ffn.net.0.proj.weight": (8960, 1536),
        "proj_out.weight": (64, 1536),
    },
    "cogvideox-5b": {
        "patch_embed.proj.weight": (3072, 16, 2, 2),
        "patch_embed.text_proj.weight": (3072, 4096),
        "transformer_blocks.41.norm2.linear.weight": (18432, 512),
        "transformer_blocks.41.ff.net.2.weight": (3072, 12288),
        "proj_out.weight": (64, 3072),
    },
    "cogvideox-5b-i2v": {
        "patch_embed.proj.weight": (3072, 32, 2, 2),
        # 226 text tokens and 13 latent frames of 30 x 45 tokens.
        "patch_embed.pos_embedding": (1, 17776, 3072),
        "transformer_blocks.41.attn1.to_q.weight": (3072, 3072),
    },
    "cogvideox-2b": {
        "patch_embed.proj.weight": (1920, 16, 2, 2),
        "transformer_blocks.29.attn1.norm_q.weight": (64,),
    },
    "open-sora-1.2": {
        "x_embedder.proj.weight": (1152, 4, 1, 2, 2),
        "y_embedder.y_embedding": (300, 4096),
        "temporal_blocks.27.attn.qkv.weight": (3456, 1152),
        "final_layer.linear.weight": (32, 1152),
    },
}
LATENTS = {
    "wan2.2-5b": ((121, 704, 1280), (48, 31, 44, 80)),
    "wan2.1-1.3b": ((81, 480, 832), (16, 21, 60, 104)),
    "cogvideox-5b": ((49, 480, 720), (16, 13, 60, 90)),
    "cogvideox-5b-i2v": ((49, 480, 720), (16, 13, 60, 90)),
    "cogvideox-2b": ((49, 480, 720), (16, 13, 60, 90)),
    # Three pieces of 17 frames, 5 latent frames each.
    "open-sora-1.2": ((51, 480, 848), (4, 15, 60, 106)),
}


@pytest.mark.parametrize("preset", FULL)
def test_a_full_size_model_has_the_published_names_shapes_and_counts(preset: str) -> None:
    model = meta(preset)
    counts = tuple(sum(p.numel() for p in part.parameters()) for part in (model.transformer, model.vae))
    assert counts == COUNTS[preset]
    weights = model.transformer.state_dict()
    for name, shape in SHAPES[preset].items():
        assert tuple(weights[name].shape) == shape, name
    assert ("patch_embed.pos_embedding" in weights) == (preset == "cogvideox-5b-i2v")
    size, latents = LATENTS[preset]
    assert model.latent_shape(*size) == latents
    # From frame 0 to the last, without a gap.
    spans = model.frames_of_latents(latents[1])
    assert [frame for span in spans for frame in span] == list(range(size[0]))
    assert len(model.latent_format.mean) == len(model.latent_format.std) == latents[0]
    sampling = tomllib.loads((SAMPLING / f"{preset}.toml").read_text(encoding="utf-8"))
    assert sampling["shift"] == round(model.published_shift(*size), 2)


def test_strides_of_the_real_autoencoders_name_the_nearest_valid_size() -> None:
    wan, cogvideox = meta("wan2.2-5b"), meta("cogvideox-5b")
    with pytest.raises(ValueError, match="width must be a multiple of 32, got 1270; use 1280"):
        wan.latent_shape(121, 704, 1270)
    with pytest.raises(ValueError, match="num_frames must be 1 more than a multiple of 4, got 48; use 49"):
        cogvideox.latent_shape(48, 480, 720)
    with pytest.raises(ValueError, match="use 49 frames of 480x720 .* got 49 of 480x704"):
        meta("cogvideox-5b-i2v").latent_shape(49, 480, 704)


def test_image_conditioning_of_the_published_models_has_its_scale() -> None:
    """The 5B-I2V pipeline divides the image latent by .7 where it multiplies the video's."""
    model = meta("cogvideox-5b-i2v")
    assert model.first_frame_scale == pytest.approx(1 / 0.7**2)
    assert model.takes_first_frame and not meta("cogvideox-5b").takes_first_frame
    assert meta("cogvideox-2b").noising.snr_shift_scale == 3.0


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown preset 'wan2.2-5B'; did you mean 'wan2.2-5b'"):
        check_preset("wan2.2-5B")
    with pytest.raises(ValueError, match="unknown backbone 'cogvideo'; did you mean 'cogvideox'"):
        backbone_class("cogvideo")
    with pytest.raises(ValueError, match="no tiny model to train from scratch"):
        tiny_model("wan2.2-5b", ["a ball"])


def test_weights_that_are_nowhere_are_named_with_their_source() -> None:
    """The tests run with the hub switched off, as on a machine without a network."""
    with pytest.raises(
        FileNotFoundError, match="transformer/, vae/, .* of https://huggingface.co/no-one/no-model are needed"
    ):
        load_model("no-one/no-model")
