"""Wan: the stock pipelines as witnesses for the whole sampling path, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.wan import pipeline_wan, pipeline_wan_i2v
from PIL import Image

from phys4d.models.protocol import Conditioning
from phys4d.models.registry import load_model, tiny_model
from phys4d.models.wan import WanModel
from policy.rollout import SamplingRule, sample
from policy.schedules import flow_match_euler_schedule

CAPTION = "a red ball falls"
RULE = SamplingRule(schedule=flow_match_euler_schedule(4, shift=3.0), sampler="ode", noise_level=0.0)
WANTED = {
    "height": 16,
    "width": 16,
    "num_frames": 5,
    "num_inference_steps": 4,
    "output_type": "latent",
    "max_sequence_length": 24,
}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> dict:
    """Those of a small model whose transformer takes the latents alone, as the published ones do."""
    # The pipelines mend mojibake with ftfy, which may not be installed; this prompt has none.
    for module in (pipeline_wan, pipeline_wan_i2v):
        monkeypatch.setattr(module, "prompt_clean", str.strip)
    torch.manual_seed(0)
    tiny = tiny_model("tiny-wan", [CAPTION], width=32, num_layers=2)
    transformer = WanTransformer3DModel.from_config({**tiny.transformer.config, "in_channels": 16}).eval()
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.1)
    return {
        "tokenizer": tiny.tokenizer,
        "text_encoder": tiny.text_encoder,
        "transformer": transformer,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def tiny_vae(**config: object) -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        scale_factor_temporal=2,
        **config,
    ).eval()


def noise(model: WanModel) -> torch.Tensor:
    return torch.randn(model.latent_shape(5, 16, 16), generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def test_a_published_wan_2_2_folder_makes_what_its_stock_pipeline_makes(parts: dict, tmp_path: Path) -> None:
    """Text, first frame, per-token timesteps, latent statistics and steps: all of them have to agree."""
    vae = tiny_vae(is_residual=True, in_channels=12, out_channels=12, patch_size=2, scale_factor_spatial=4)
    pipeline = WanImageToVideoPipeline(**parts, vae=vae, expand_timesteps=True)
    pipeline.save_pretrained(tmp_path / "published")
    model = load_model(tmp_path / "published")
    assert isinstance(model, WanModel) and model.first_frame_given and model.shift == 3.0
    pipeline.set_progress_bar_config(disable=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    first_video = torch.from_numpy(pixels).float().permute(2, 0, 1)[None, :, None] / 127.5 - 1
    latents = noise(model).unsqueeze(0)
    stock = pipeline(Image.fromarray(pixels), CAPTION, guidance_scale=1.0, latents=latents, **WANTED).frames
    cond = Conditioning(model.encode_text([CAPTION]), model.encode_video(first_video)[:, :, 0])
    ours = sample(model, cond, RULE, num_latent_frames=latents.shape[2], seeds=[7]).latents_BCThw
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_a_published_wan_2_1_folder_makes_what_its_stock_pipeline_makes_with_guidance(
    parts: dict, tmp_path: Path
) -> None:
    """From text alone: one timestep for all tokens, every frame generated, the empty prompt beside."""
    pipeline = WanPipeline(**parts, vae=tiny_vae(scale_factor_spatial=2))
    pipeline.save_pretrained(tmp_path / "published")
    model = load_model(tmp_path / "published")
    assert isinstance(model, WanModel) and not model.first_frame_given
    pipeline.set_progress_bar_config(disable=True)
    latents = noise(model).unsqueeze(0)
    stock = pipeline(CAPTION, guidance_scale=5.0, latents=latents, **WANTED).frames
    cond = Conditioning(model.encode_text([CAPTION]), torch.randn_like(latents[:, :, 0]))
    frames = latents.shape[2]
    ours = sample(model, cond, RULE, num_latent_frames=frames, seeds=[7], guidance_scale=5.0).latents_BCThw
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-3)
    model.save(tmp_path / "again")
    assert not load_model(tmp_path / "again").first_frame_given


def test_wans_that_condition_in_another_way_are_refused(parts: dict, tmp_path: Path) -> None:
    model = WanModel(
        **{k: v for k, v in parts.items() if k != "scheduler"}, vae=tiny_vae(scale_factor_spatial=2)
    )
    model.save(tmp_path / "model")
    index = tmp_path / "model" / "model_index.json"
    published = {"_class_name": "WanPipeline", "transformer_2": ["diffusers", "WanTransformer3DModel"]}
    index.write_text(json.dumps(published))
    with pytest.raises(ValueError, match="A14B has two transformers"):
        load_model(tmp_path / "model")
    wide = WanTransformer3DModel.from_config({**model.transformer.config, "in_channels": 36})
    with pytest.raises(ValueError, match="takes 16, got 36: Wan2.1 I2V is not supported"):
        WanModel(wide, model.vae, model.text_encoder, model.tokenizer, first_frame_given=False)
