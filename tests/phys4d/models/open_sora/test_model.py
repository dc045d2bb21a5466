"""What Open-Sora does in its own way: sign, no text, training, its autoencoder."""

from pathlib import Path

import pytest
import torch

from phys4d.models.diffusion_loss import diffusion_loss
from phys4d.models.open_sora.model import OpenSoraModel, tiny_open_sora
from phys4d.models.open_sora.vae import OpenSoraVae
from phys4d.models.protocol import Conditioning
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


@torch.no_grad()
def test_velocity_points_from_data_to_noise(model: OpenSoraModel) -> None:
    """The network's output is x0 - eps; with a constant output of 1 our velocity is -1."""
    torch.manual_seed(0)
    constant = tiny_open_sora(CAPTIONS, width=32, num_layers=2).eval()
    constant.transformer.final_layer.linear.bias.fill_(1.0)
    velocity = constant.predict(torch.randn(2, 16, 5, 8, 8), 0.5, conditioning(model)).velocity_BCThw
    torch.testing.assert_close(velocity, -torch.ones(2, 16, 5, 8, 8))


@torch.no_grad()
def test_no_text_has_as_many_tokens_as_the_text(model: OpenSoraModel) -> None:
    cond = conditioning(model)
    nothing = model.without_text(cond).text_BLD
    assert torch.equal((nothing != 0).any(-1), (cond.text_BLD != 0).any(-1))
    assert torch.equal(nothing[0, 0], model.transformer.y_embedder.y_embedding[0])


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


def test_an_odd_number_of_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="num_layers must be even, .* got 5"):
        tiny_open_sora(CAPTIONS, num_layers=5)
