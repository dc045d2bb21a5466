"""The tiny Wan: shapes, first-frame conditioning, files."""

from pathlib import Path

import pytest
import torch

from phys4d.models.protocol import Conditioning, to_model_range, to_uint8
from phys4d.models.wan import WanModel, tiny_wan

CAPTIONS = ["a red ball falls from rest", "a blue box slides left at 1.25"]


@pytest.fixture(scope="module")
def model() -> WanModel:
    torch.manual_seed(0)
    model = tiny_wan(CAPTIONS, width=32, num_layers=3).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)
    model.latents_mean.normal_()
    model.latents_std.uniform_(0.5, 2.0)
    return model


def conditioning(model: WanModel, batch: int = 2) -> Conditioning:
    with torch.no_grad():
        text = model.encode_text(CAPTIONS[:batch])
    return Conditioning(text, torch.randn(batch, 16, 8, 8, generator=torch.Generator().manual_seed(1)))


def test_latents_of_an_encoded_video_have_the_promised_shape(model: WanModel) -> None:
    video = torch.rand(2, 3, 5, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = model.encode_video(video)
        assert latents.shape == (2, *model.latent_shape(5, 64, 64))
        assert model.decode_video(latents).shape == video.shape


def test_a_size_that_does_not_fit_the_strides_is_refused_with_the_nearest_one(model: WanModel) -> None:
    with pytest.raises(ValueError, match="width must be a multiple of 16, got 70; use 64"):
        model.latent_shape(9, 64, 70)


@torch.no_grad()
def test_the_noisy_first_frame_has_no_influence(model: WanModel) -> None:
    """Conditioning replaces it, so two inputs that differ only there give the same prediction."""
    cond = conditioning(model)
    x = torch.randn(2, 16, 5, 8, 8)
    other = x.clone()
    other[:, :, 0] += 1.0
    torch.testing.assert_close(
        model.predict(x, 0.5, cond).velocity_BCThw, model.predict(other, 0.5, cond).velocity_BCThw
    )


@torch.no_grad()
def test_text_and_first_frame_and_noise_level_each_change_the_prediction(model: WanModel) -> None:
    cond = conditioning(model)
    x = torch.randn(2, 16, 5, 8, 8)
    base = model.predict(x, 0.5, cond).velocity_BCThw
    swapped_text = Conditioning(cond.text_BLD.flip(0), cond.first_frame_BChw)
    swapped_frame = Conditioning(cond.text_BLD, cond.first_frame_BChw.flip(0))
    for changed in (
        model.predict(x, 0.5, swapped_text),
        model.predict(x, 0.5, swapped_frame),
        model.predict(x, 0.6, cond),
    ):
        assert (changed.velocity_BCThw - base).abs().max() > 1e-4


@torch.no_grad()
def test_features_are_the_tapped_blocks_on_the_token_grid(model: WanModel) -> None:
    prediction = model.predict(torch.randn(2, 16, 5, 8, 8), 0.5, conditioning(model), features=True)
    assert [f.shape for f in prediction.features] == [(2, 5, 4, 4, 32)] * 3
    assert model.predict(torch.randn(2, 16, 5, 8, 8), 0.5, conditioning(model)).features == ()


@torch.no_grad()
def test_a_saved_model_predicts_the_same_after_loading(model: WanModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = WanModel.load(tmp_path / "model")
    cond, x = conditioning(model), torch.randn(2, 16, 5, 8, 8)
    assert torch.equal(
        loaded.predict(x, 0.3, cond).velocity_BCThw, model.predict(x, 0.3, cond).velocity_BCThw
    )
    assert torch.equal(loaded.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert torch.equal(loaded.latents_std, model.latents_std)


def test_a_missing_model_names_the_part_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no transformer/ in .*make base"):
        WanModel.load(tmp_path)


def test_a_prompt_longer_than_the_model_reads_is_refused(model: WanModel) -> None:
    with pytest.raises(ValueError, match="a prompt has 61 tokens, the model reads at most 24"):
        model.encode_text(["ball " * 60])


def test_uint8_video_survives_the_model_range() -> None:
    video = torch.randint(0, 256, (2, 5, 8, 8, 3), dtype=torch.uint8)
    assert to_model_range(video).shape == (2, 3, 5, 8, 8)
    assert torch.equal(to_uint8(to_model_range(video)), video)
