"""Open-Sora behind the protocol: shapes, sign, first-frame conditioning, training, files."""

import json
from pathlib import Path
from typing import cast

import pytest
import torch

from phys4d.models.diffusion_loss import diffusion_loss
from phys4d.models.open_sora.model import OpenSoraModel, tiny_open_sora
from phys4d.models.open_sora.rflow import rflow_levels, sample
from phys4d.models.open_sora.vae import OpenSoraVae
from phys4d.models.protocol import Conditioning, VideoModel
from phys4d.models.registry import load_model
from phys4d.runtime.optimiser import OptimiserConfig
from phys4d.training import fit

CAPTIONS = ["a red ball falls from rest", "a blue box slides left at 1.25"]


@pytest.fixture(scope="module")
def model() -> OpenSoraModel:
    torch.manual_seed(0)
    model = tiny_open_sora(CAPTIONS, width=32, num_layers=6).eval()
    torch.nn.init.normal_(model.transformer.final_layer.linear.weight, std=0.1)
    model.latents_mean.normal_()
    model.latents_std.uniform_(0.5, 2.0)
    return model


def conditioning(model: OpenSoraModel) -> Conditioning:
    with torch.no_grad():
        text = model.encode_text(CAPTIONS)
    return Conditioning(text, torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1)))


def test_the_tiny_model_has_about_two_million_parameters() -> None:
    model = cast(VideoModel, tiny_open_sora(CAPTIONS))
    assert 1.5e6 < sum(p.numel() for p in model.transformer.parameters()) < 2.5e6


def test_latents_of_an_encoded_video_have_the_promised_shape(model: OpenSoraModel) -> None:
    video = torch.rand(2, 3, 5, 64, 64) * 2 - 1
    with torch.no_grad():
        latents = model.encode_video(video)
        assert latents.shape == (2, *model.latent_shape(5, 64, 64))
        assert model.decode_video(latents).shape == video.shape


def test_a_size_that_does_not_fit_the_strides_is_refused_with_the_nearest_one(model: OpenSoraModel) -> None:
    with pytest.raises(ValueError, match="height must be a multiple of 16, got 70; use 64"):
        model.latent_shape(9, 70, 64)


@torch.no_grad()
def test_velocity_points_from_data_to_noise(model: OpenSoraModel) -> None:
    """The network's output is x0 - eps; with a constant output of 1 our velocity is -1."""
    torch.manual_seed(0)
    constant = tiny_open_sora(CAPTIONS, width=32, num_layers=2).eval()
    constant.transformer.final_layer.linear.bias.fill_(1.0)
    velocity = constant.predict(torch.randn(2, 16, 5, 8, 8), 0.5, conditioning(model)).velocity_BCThw
    torch.testing.assert_close(velocity, -torch.ones(2, 16, 5, 8, 8))


@torch.no_grad()
def test_the_noisy_first_frame_has_no_influence(model: OpenSoraModel) -> None:
    cond = conditioning(model)
    x = torch.randn(2, 16, 5, 8, 8)
    other = x.clone()
    other[:, :, 0] += 1.0
    torch.testing.assert_close(
        model.predict(x, 0.5, cond).velocity_BCThw, model.predict(other, 0.5, cond).velocity_BCThw
    )


@torch.no_grad()
def test_text_and_first_frame_and_noise_level_each_change_the_prediction(model: OpenSoraModel) -> None:
    cond = conditioning(model)
    x = torch.randn(2, 16, 5, 8, 8)
    base = model.predict(x, 0.5, cond).velocity_BCThw[:, :, 1:]
    swapped_text = Conditioning(cond.text_BLD.flip(0), cond.first_frame_BChw)
    swapped_frame = Conditioning(cond.text_BLD, cond.first_frame_BChw.flip(0))
    for changed in (
        model.predict(x, 0.5, swapped_text),
        model.predict(x, 0.5, swapped_frame),
        model.predict(x, 0.5, model.without_text(cond)),
        model.predict(x, 0.6, cond),
        model.predict(x, torch.tensor([0.6, 0.7]), cond),
    ):
        assert (changed.velocity_BCThw[:, :, 1:] - base).abs().amax((1, 2, 3, 4)).min() > 1e-4


@torch.no_grad()
def test_no_text_has_as_many_tokens_as_the_text(model: OpenSoraModel) -> None:
    cond = conditioning(model)
    nothing = model.without_text(cond).text_BLD
    assert torch.equal((nothing != 0).any(-1), (cond.text_BLD != 0).any(-1))
    assert torch.equal(nothing[0, 0], model.transformer.y_embedder.y_embedding[0])


@torch.no_grad()
def test_features_are_the_tapped_blocks_on_the_token_grid(model: OpenSoraModel) -> None:
    prediction = model.predict(torch.randn(2, 16, 5, 8, 8), 0.5, conditioning(model), features=True)
    assert [f.shape for f in prediction.features] == [(2, 5, 4, 4, model.feature_width)] * 3
    assert model.predict(torch.randn(2, 16, 5, 8, 8), 0.5, conditioning(model)).features == ()


@torch.no_grad()
def test_the_flow_with_a_mask_samples_from_the_model_and_keeps_the_first_frame(model: OpenSoraModel) -> None:
    cond = conditioning(model)
    x = torch.randn(2, 16, 3, 8, 8)
    x[:, :, 0] = cond.first_frame_BChw
    mask = torch.tensor([[0.0, 1.0, 1.0]] * 2)
    out = sample(
        lambda x, level, generated: model.predict_frames(x, level, cond.text_BLD, generated).velocity_BCThw,
        x,
        rflow_levels(2, 3.0),
        mask,
        torch.Generator().manual_seed(0),
    )
    assert torch.equal(out[:, :, 0], x[:, :, 0])
    half = x + model.predict(x, 1.0, cond).velocity_BCThw * -0.25  # levels 1, .75, 0
    half[:, :, 0] = x[:, :, 0]
    expected = half + model.predict(half, 0.75, cond).velocity_BCThw * -0.75
    torch.testing.assert_close(out[:, :, 1:], expected[:, :, 1:], rtol=1e-4, atol=1e-4)


def test_the_tiny_model_learns_a_video_by_heart() -> None:
    """Predicting nothing costs Var(eps) + E x0^2 = 2; knowing the video leaves little."""
    torch.manual_seed(0)
    model = tiny_open_sora(CAPTIONS[:1], width=32, num_layers=2)
    video = torch.randn(1, 16, 3, 4, 4)
    losses: list[float] = []

    def loss_parts(indices: torch.Tensor, generator: torch.Generator) -> dict[str, torch.Tensor]:
        latents = video.expand(len(indices), -1, -1, -1, -1)
        cond = Conditioning(model.encode_text(CAPTIONS[:1] * len(indices)), latents[:, :, 0])
        noise = torch.randn(latents.shape, generator=generator)
        sigma = torch.rand(len(indices), generator=generator)
        loss = diffusion_loss(model, latents, cond, sigma, noise)
        losses.append(loss.item())
        return {"velocity": loss}

    parameters = [*model.transformer.parameters(), *model.text_encoder.parameters()]
    config = OptimiserConfig(num_steps=60, batch_size=16, learning_rate=5e-3, warmup_steps=5)
    fit(loss_parts, parameters, config, num_items=16, seed=0, desc="by heart")
    assert losses[0] > 1.7
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]


@torch.no_grad()
def test_a_saved_model_predicts_the_same_after_loading(model: OpenSoraModel, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = OpenSoraModel.load(tmp_path / "model")
    cond, x = conditioning(model), torch.randn(2, 16, 5, 8, 8)
    assert torch.equal(
        loaded.predict(x, 0.3, cond).velocity_BCThw, model.predict(x, 0.3, cond).velocity_BCThw
    )
    assert torch.equal(loaded.encode_text(CAPTIONS), model.encode_text(CAPTIONS))
    assert torch.equal(loaded.latents_std, model.latents_std)


@torch.no_grad()
def test_a_model_with_the_published_kind_of_autoencoder_saves_and_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tiny = tiny_open_sora(CAPTIONS, width=32, num_layers=2)
    vae = OpenSoraVae(
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        temporal_filters=32,
        temporal_num_res_blocks=1,
    )
    transformer = type(tiny.transformer)(**{**tiny.transformer.config, "in_channels": 4, "pred_sigma": True})
    model = OpenSoraModel(transformer, vae, tiny.text_encoder, tiny.tokenizer, fps=8.0).eval()
    video = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    latents = model.encode_video(video)
    assert latents.shape == (1, *model.latent_shape(5, 32, 32)) == (1, 4, 2, 4, 4)
    assert model.decode_video(latents).shape == video.shape
    cond = Conditioning(model.encode_text(CAPTIONS[:1]), latents[:, :, 0])
    velocity = model.predict(latents, 0.5, cond).velocity_BCThw
    assert velocity.shape == latents.shape
    model.save(tmp_path / "model")
    loaded = OpenSoraModel.load(tmp_path / "model")
    assert loaded.fps == 8.0
    assert torch.equal(loaded.predict(latents, 0.5, cond).velocity_BCThw, velocity)
    assert torch.equal(loaded.encode_video(video), latents)


def test_a_missing_part_and_another_kind_of_model_are_named(model: OpenSoraModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no transformer/ in .*make base"):
        OpenSoraModel.load(tmp_path)
    model.save(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "model": "wan"}))
    with pytest.raises(
        ValueError, match=r"must hold a WanTransformer3DModel, got STDiT3; another backbone\?"
    ):
        load_model(tmp_path / "model")


def test_a_prompt_longer_than_the_model_reads_is_refused(model: OpenSoraModel) -> None:
    with pytest.raises(ValueError, match="a prompt has 61 tokens, the model reads at most 24"):
        model.encode_text(["ball " * 60])


def test_an_odd_number_of_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers must be even, .* got 5"):
        tiny_open_sora(CAPTIONS, num_layers=5)
