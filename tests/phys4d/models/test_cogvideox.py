"""The tiny CogVideoX, and the stock pipeline as witness for the whole sampling path."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from PIL import Image

from phys4d.models.cogvideox import CogVideoXModel, tiny_cogvideox
from phys4d.models.lora import add_lora
from phys4d.models.noising import VPrediction
from phys4d.models.protocol import Conditioning
from phys4d.models.registry import load_model
from policy.rollout import SamplingRule, sample, sampling_rule
from policy.schedules import flow_schedule

CAPTIONS = ["a red ball falls from rest", "a blue box slides left at 1.25"]


def randomise(model: CogVideoXModel) -> CogVideoXModel:
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> CogVideoXModel:
    torch.manual_seed(0)
    return randomise(tiny_cogvideox(CAPTIONS, width=32, num_layers=3))


def tiny_vae(**config: object) -> AutoencoderKLCogVideoX:
    """The real autoencoder class with two levels: 2x2 pixels and 2 frames a latent cell."""
    return AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 2,
        up_block_types=("CogVideoXUpBlock3D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=16,
        temporal_compression_ratio=2,
        **config,
    ).eval()


def changed(transformer: CogVideoXTransformer3DModel, **config: object) -> CogVideoXTransformer3DModel:
    """An untrained transformer with a changed configuration."""
    kept = {name: value for name, value in transformer.config.items() if not name.startswith("_")}
    return CogVideoXTransformer3DModel(**{**kept, **config})


def conditioning(model: CogVideoXModel, batch: int = 2) -> Conditioning:
    with torch.no_grad():
        text = model.encode_text(CAPTIONS[:batch])
    return Conditioning(text, torch.randn(batch, 16, 8, 8, generator=torch.Generator().manual_seed(1)))


def test_a_loss_on_features_reaches_the_adapter_also_through_gradient_checkpointing() -> None:
    """With the same gradient, and each tap once although the block runs again in the backward pass."""
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = randomise(tiny_cogvideox(CAPTIONS, width=32, num_layers=3)).train()
        if checkpointing:
            model.transformer.enable_gradient_checkpointing()
        adapter = add_lora(model.transformer, "sft", rank=2, targets=model.lora_targets)
        for parameter in adapter:
            torch.nn.init.normal_(parameter, std=0.1)
        x = torch.randn(1, 16, 3, 8, 8)
        prediction = model.predict(x, 0.5, conditioning(model, 1), features=True)
        assert len(prediction.features) == 3
        (prediction.velocity_BCThw.square().mean() + prediction.features[0].square().mean()).backward()
        gradients.append([p.grad for p in adapter])
    assert all(g is not None and g.abs().max() > 0 for g in gradients[0][: len(gradients[0]) // 3])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_the_shift_of_the_schedule_is_saved_with_the_model(tmp_path: Path) -> None:
    model = tiny_cogvideox(CAPTIONS, width=32, num_layers=1)
    model.noising = VPrediction(3.0)
    model.save(tmp_path / "model")
    assert load_model(tmp_path / "model").noising == VPrediction(3.0)


@pytest.mark.parametrize("inverted", [False, True])
@torch.no_grad()
def test_our_sampler_makes_what_the_stock_image_to_video_pipeline_makes(inverted: bool) -> None:
    """Prompt, first frame, positions, timesteps, DDIM and decoder: all of them have to agree."""
    torch.manual_seed(0)
    tiny = tiny_cogvideox(CAPTIONS, width=32, num_layers=2)
    vae = tiny_vae(scaling_factor=0.7, invert_scale_latents=inverted)
    model = randomise(CogVideoXModel(tiny.transformer, vae, tiny.text_encoder, tiny.tokenizer))
    pipeline = CogVideoXImageToVideoPipeline(
        model.tokenizer, model.text_encoder, vae, model.transformer, model.scheduler()
    )
    pipeline.set_progress_bar_config(disable=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    first_video = torch.from_numpy(pixels).float().permute(2, 0, 1)[None, :, None] / 127.5 - 1
    frames, *size = model.latent_shape(5, 16, 16)[1:]
    noise = torch.randn(16, frames, *size, generator=torch.Generator().manual_seed(7))
    # The posterior's mode, as `encode_video` takes it; the pipeline would draw from it.
    vae.encoder.conv_out.conv.weight[16:] = 0.0
    vae.encoder.conv_out.conv.bias[16:] = -30.0

    stock = pipeline(
        Image.fromarray(pixels),
        CAPTIONS[0],
        height=16,
        width=16,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=1.0,
        latents=noise.transpose(0, 1).unsqueeze(0),
        output_type="pt",
        max_sequence_length=model.text_length,
    ).frames
    cond = Conditioning(model.encode_text(CAPTIONS[:1]), model.encode_video(first_video)[:, :, 0])
    rule = sampling_rule(model, 4, shift=1.0)
    ours = sample(model, cond, rule, num_latent_frames=frames, seeds=[7]).latents_BCThw
    video = model.decode_video(ours).transpose(1, 2) / 2 + 0.5
    torch.testing.assert_close(video, stock, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_a_text_to_video_model_ignores_the_first_frame_and_matches_its_stock_pipeline() -> None:
    torch.manual_seed(0)
    tiny = tiny_cogvideox(CAPTIONS, width=32, num_layers=2)
    transformer = changed(tiny.transformer, in_channels=16, use_rotary_positional_embeddings=False)
    vae = tiny_vae()
    model = randomise(CogVideoXModel(transformer, vae, tiny.text_encoder, tiny.tokenizer, VPrediction(3.0)))
    pipeline = CogVideoXPipeline(model.tokenizer, model.text_encoder, vae, transformer, model.scheduler())
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    stock = pipeline(
        CAPTIONS[0],
        height=16,
        width=16,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=6.0,
        latents=noise.transpose(0, 1).unsqueeze(0),
        output_type="latent",
        max_sequence_length=model.text_length,
    ).frames
    cond = Conditioning(model.encode_text(CAPTIONS[:1]), torch.randn(1, 16, 8, 8))
    rule = sampling_rule(model, 4, shift=1.0)
    ours = sample(model, cond, rule, num_latent_frames=3, seeds=[7], guidance_scale=6.0).latents_BCThw
    torch.testing.assert_close(ours.transpose(1, 2), stock, atol=1e-4, rtol=1e-3)


def test_a_sampler_or_shift_of_flows_is_refused_at_the_door(model: CogVideoXModel) -> None:
    with pytest.raises(ValueError, match="sampler flow_sde needs a flow schedule"):
        sampling_rule(model, 4, shift=1.0, sampler="flow_sde", noise_level=0.7)
    with pytest.raises(ValueError, match="shift belongs to flow schedules and must be 1 .* got 3"):
        sampling_rule(model, 4, shift=3.0)


@torch.no_grad()
def test_a_recorded_stochastic_step_is_scored_the_same_again(model: CogVideoXModel) -> None:
    rule = sampling_rule(model, 4, shift=1.0, sampler="ddim_v", noise_level=0.7)
    rollouts = sample(model, conditioning(model), rule, num_latent_frames=3, window=(0, 1), seeds=[1, 2])
    for step in rollouts.steps:
        again = rule.take(
            model, step.x_BCThw, step.i, rollouts.conditioning, mode="sde", x_next=step.x_next_BCThw
        )
        assert torch.equal(again.log_prob, step.log_prob_B)


def test_a_flow_schedule_with_this_model_is_another_rule(model: CogVideoXModel) -> None:
    """The families do not mix silently: the level told to the model is that of the schedule's family."""
    ours = sampling_rule(model, 4, shift=1.0)
    flow = SamplingRule(schedule=flow_schedule(4, shift=1.0), sampler="ode", noise_level=0.0)
    assert [ours.schedule.model_level(i) for i in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert [flow.schedule.model_level(i) for i in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert ours.schedule.levels[1] != flow.schedule.levels[1]


def test_sizes_and_positions_that_do_not_fit_are_refused_with_the_nearest() -> None:
    tiny = tiny_cogvideox(CAPTIONS, width=32, num_layers=1)
    model = CogVideoXModel(tiny.transformer, tiny_vae(), tiny.text_encoder, tiny.tokenizer)
    assert model.latent_shape(5, 16, 16) == (16, 3, 8, 8)
    with pytest.raises(ValueError, match="num_frames must be 1 more than a multiple of 2, got 6; use 5"):
        model.latent_shape(6, 16, 16)
    with pytest.raises(ValueError, match="height must be a multiple of 4, got 18; use 16"):
        model.latent_shape(5, 18, 16)
    learned = changed(tiny.transformer, use_learned_positional_embeddings=True)
    model = CogVideoXModel(learned, tiny_vae(), tiny.text_encoder, tiny.tokenizer)
    with pytest.raises(ValueError, match="use 9 frames of 16x16 .* got 5 of 16x16"):
        model.latent_shape(5, 16, 16)


def test_the_later_cogvideox_is_refused() -> None:
    tiny = tiny_cogvideox(CAPTIONS, width=32, num_layers=1)
    later = changed(tiny.transformer, patch_size_t=2)
    with pytest.raises(ValueError, match=r"1\.5 is not supported"):
        CogVideoXModel(later, tiny.vae, tiny.text_encoder, tiny.tokenizer)
