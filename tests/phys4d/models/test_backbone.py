"""What every backbone does alike: shapes, conditioning, features, guidance, precision, files."""

import json
from pathlib import Path

import pytest
import torch

from phys4d.models.backbone import Backbone
from phys4d.models.diffusion_loss import diffusion_loss, held_out_diffusion_loss
from phys4d.models.protocol import Conditioning, to_model_range, to_uint8
from phys4d.models.registry import TINY, backbone_class, load_model, tiny_model
from policy.rollout import sample, sampling_rule

CAPTIONS = ["a red ball falls from rest", "a blue box slides left at 1.25"]


def output_layer(model: Backbone) -> torch.nn.Linear:
    """What gives the prediction; zero in an untrained model."""
    if model.name == "open-sora":
        return model.transformer.final_layer.linear
    return model.transformer.proj_out


@pytest.fixture(scope="module", params=TINY)
def model(request: pytest.FixtureRequest) -> Backbone:
    torch.manual_seed(0)
    model = tiny_model(request.param, CAPTIONS, width=32, num_layers=6).eval()
    torch.nn.init.normal_(output_layer(model).weight, std=0.1)
    model.latents_mean.normal_()
    model.latents_std.uniform_(0.5, 2.0)
    return model


@torch.no_grad()
def conditioning(model: Backbone) -> Conditioning:
    first = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    return Conditioning(model.encode_text(CAPTIONS), first)


def noise(frames: int = 5) -> torch.Tensor:
    return torch.randn(2, 16, frames, 8, 8, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("preset", TINY)
def test_a_tiny_model_has_about_two_million_parameters_and_predicts_nothing_at_first(preset: str) -> None:
    """At unit variance that costs the mean square of the velocity: 1, and 2 for the difference of a flow."""
    model = tiny_model(preset, CAPTIONS)
    assert 1.5e6 < sum(p.numel() for p in model.transformer.parameters()) < 2.6e6
    x, eps = torch.randn(2, 8, 16, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    cond = Conditioning(model.encode_text(CAPTIONS * 4), x[:, :, 0])
    level = torch.linspace(0.1, 1.0, 8)
    loss = diffusion_loss(model, x, cond, level, eps)
    in_parts = held_out_diffusion_loss(model, x, cond, level, eps, batch_size=3)
    assert in_parts == pytest.approx(loss.item(), rel=1e-5)
    assert loss.item() == pytest.approx(2.0 if model.noising.family == "flow" else 1.0, rel=0.03)


@torch.no_grad()
def test_latents_of_a_video_have_the_promised_shape_and_sizes_that_do_not_fit_are_refused(
    model: Backbone,
) -> None:
    video = torch.rand(2, 3, 5, 64, 64) * 2 - 1
    latents = model.encode_video(video)
    assert latents.shape == (2, *model.latent_shape(5, 64, 64))
    assert model.decode_video(latents).shape == video.shape
    with pytest.raises(ValueError, match="width must be a multiple of 16, got 70; use 64"):
        model.latent_shape(9, 64, 70)
    refused = "the videos of data/mine do not fit the model: height must be a multiple of 16, got 41; use 48"
    with pytest.raises(ValueError, match=refused):
        model.check_size((7, 9, 41, 64, 3), Path("data/mine"))
    with pytest.raises(ValueError, match="a prompt has 61 tokens, the model reads at most 24"):
        model.encode_text(["ball " * 60])


@torch.no_grad()
def test_text_first_frame_and_noise_level_change_what_is_generated(model: Backbone) -> None:
    cond, x = conditioning(model), noise()
    base = model.predict(x, 0.5, cond).velocity_BCThw
    assert base.shape == x.shape
    for changed in (
        model.predict(x, 0.5, Conditioning(cond.text_BLD.flip(0), cond.first_frame_BChw)),
        model.predict(x, 0.5, Conditioning(cond.text_BLD, cond.first_frame_BChw.flip(0))),
        model.predict(x, 0.5, model.without_text(cond)),
        model.predict(x, 0.6, cond),
        model.predict(x, torch.tensor([0.6, 0.7]), cond),
    ):
        difference = (changed.velocity_BCThw - base)[:, :, 1:].abs().amax((1, 2, 3, 4))
        assert difference.min() > 1e-4
    with pytest.raises(RuntimeError, match="size"):
        model.predict(x, torch.tensor([0.6, 0.7, 0.8]), cond)


@torch.no_grad()
def test_a_first_frame_that_is_given_hides_what_was_there_and_else_frame_0_is_generated(
    model: Backbone,
) -> None:
    cond, x = conditioning(model), noise()
    other = x.clone()
    other[:, :, 0] += 1.0
    same = torch.allclose(
        model.predict(x, 0.5, cond).velocity_BCThw, model.predict(other, 0.5, cond).velocity_BCThw
    )
    assert same == model.first_frame_given == (model.name != "cogvideox")
    assert model.generated_mask(x).flatten().tolist() == [1.0 - model.first_frame_given, 1, 1, 1, 1]


@torch.no_grad()
def test_features_are_the_tapped_blocks_on_the_token_grid(model: Backbone) -> None:
    cond = conditioning(model)
    prediction = model.predict(noise(), 0.5, cond, features=True)
    assert [f.shape for f in prediction.features] == [(2, 5, 4, 4, model.feature_width)] * 3
    assert all(
        not torch.equal(a, b) for a, b in zip(prediction.features, prediction.features[1:], strict=False)
    )
    assert model.predict(noise(), 0.5, cond).features == ()
    shallow = tiny_model("tiny-wan", CAPTIONS, width=32, num_layers=2)
    assert shallow.taps == (0, 1) and shallow.head_sizes["num_taps"] == 2


@torch.no_grad()
def test_guidance_goes_from_the_prediction_without_text_through_the_one_with_it(model: Backbone) -> None:
    """One step from noise: x moves in proportion to the velocity, so guided samples lie on one line."""
    cond = conditioning(model)
    nothing = model.without_text(cond)
    assert nothing.text_BLD.shape == cond.text_BLD.shape
    rule = sampling_rule(model, 1, shift=1.0)

    def sampled(cond: Conditioning, scale: float) -> torch.Tensor:
        return sample(
            model, cond, rule, num_latent_frames=3, seeds=[1, 2], guidance_scale=scale
        ).latents_BCThw

    with_text, without = sampled(cond, 1.0), sampled(nothing, 1.0)
    assert (with_text - without).abs().max() > 1e-3
    torch.testing.assert_close(
        sampled(cond, 7.0), without + 7.0 * (with_text - without), rtol=1e-3, atol=1e-3
    )
    two = sampling_rule(model, 2, shift=1.0)
    with pytest.raises(ValueError, match="guidance_scale must be 1, got 7"):
        sample(model, cond, two, num_latent_frames=3, seeds=[1, 2], window=(0,), guidance_scale=7.0)


@torch.no_grad()
def test_a_saved_model_is_found_by_its_index_and_predicts_the_same(model: Backbone, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert type(loaded) is type(model)
    cond, x = conditioning(model), noise()
    expected = model.predict(x, 0.3, cond).velocity_BCThw
    assert torch.equal(loaded.predict(x, 0.3, cond).velocity_BCThw, expected)
    assert torch.equal(loaded.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert torch.equal(loaded.latents_std, model.latents_std)
    # Three digits of mantissa are about 1 %, and a few layers add up.
    for dtype, part in (("bfloat16", 0.05), ("float16", 0.01)):
        half = load_model(tmp_path / "model", dtype=dtype)
        velocity = half.predict(x, 0.3, cond).velocity_BCThw
        assert half.transformer.dtype == half.text_encoder.dtype == getattr(torch, dtype)
        assert half.vae.dtype == velocity.dtype == torch.float32
        assert (velocity - expected).norm() < part * expected.norm()
    index = tmp_path / "model" / "model_index.json"
    other = "wan" if model.name != "wan" else "cogvideox"
    index.write_text(json.dumps({**json.loads(index.read_text()), "model": other}))
    with pytest.raises(ValueError, match="another backbone"):
        load_model(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="no transformer/ in .*make base"):
        backbone_class(model.name).load(tmp_path)


def test_uint8_video_survives_the_model_range() -> None:
    video = torch.randint(0, 256, (2, 5, 8, 8, 3), dtype=torch.uint8)
    assert to_model_range(video).shape == (2, 3, 5, 8, 8)
    assert torch.equal(to_uint8(to_model_range(video)), video)
