"""Weights on disk: shards, precision, and files that are damaged, missing or of another model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from diffusers.pipelines.wan import pipeline_wan_i2v
from PIL import Image
from safetensors.torch import load_file, save_file

from phys4d.models.cogvideox import CogVideoXModel
from phys4d.models.protocol import Conditioning
from phys4d.models.registry import load_model, tiny_model
from phys4d.models.wan import WanModel
from policy.rollout import SamplingRule, sample
from policy.schedules import flow_match_euler_schedule

CAPTION = "a red ball falls"


@pytest.fixture()
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = tiny_model("tiny-wan", [CAPTION], width=32, num_layers=2)
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)
    model.save(tmp_path / "model")
    return tmp_path / "model"


def predict(model: WanModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(1, 16, 3, 8, 8, generator=generator)
    with torch.no_grad():
        return model.predict(x, 0.5, Conditioning(model.encode_text([CAPTION]), x[:, :, 0])).velocity_BCThw


def test_shards_and_half_precision_give_the_same_model(saved: Path) -> None:
    whole = load_model(saved)
    whole.transformer.save_pretrained(saved / "transformer", max_shard_size="40KB")
    (saved / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    assert len(list((saved / "transformer").glob("*.safetensors"))) > 2
    assert torch.equal(predict(load_model(saved)), predict(whole))
    for dtype, tolerance in ((torch.bfloat16, 0.05), (torch.float16, 0.01)):
        half = load_model(saved, dtype=dtype)
        assert half.transformer.dtype == half.text_encoder.dtype == dtype
        assert half.vae.dtype == torch.float32
        # Relative to the largest value: 8 and 11 bits of mantissa through two blocks.
        error = (predict(half) - predict(whole)).abs().max() / predict(whole).abs().max()
        assert 0 < error < tolerance


def test_a_file_cut_short_is_refused_with_its_sizes(saved: Path) -> None:
    path = saved / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=f"cut short: {len(whole) - 100} of {len(whole)} bytes; download"):
        load_model(saved)
    path.write_bytes(whole[:20])
    with pytest.raises(ValueError, match=r"no whole safetensors file \(20 bytes\)"):
        load_model(saved)
    path.write_bytes((8).to_bytes(8, "little") + b"notjson!")
    with pytest.raises(ValueError, match="its header is no JSON"):
        load_model(saved)


def test_missing_shards_are_all_named(saved: Path) -> None:
    model = load_model(saved)
    model.transformer.save_pretrained(saved / "transformer", max_shard_size="40KB")
    (saved / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    shards = sorted((saved / "transformer").glob("*.safetensors"))
    for gone in shards[1:3]:
        gone.unlink()
    with pytest.raises(FileNotFoundError, match=f"{shards[1].name}, {shards[2].name} .safetensors only"):
        load_model(saved)


def test_weights_of_another_configuration_or_backbone_are_refused(saved: Path) -> None:
    config = saved / "transformer" / "config.json"
    values = json.loads(config.read_text())
    config.write_text(json.dumps({**values, "num_layers": 3}))
    with pytest.raises(ValueError, match="missing weights for a WanTransformer3DModel .* first blocks.2."):
        load_model(saved)
    config.write_text(json.dumps(values))
    with pytest.raises(
        ValueError, match="must hold a CogVideoXTransformer3DModel, got WanTransformer3DModel"
    ):
        CogVideoXModel.load(saved)


def test_a_text_encoder_without_its_embedding_is_refused(saved: Path) -> None:
    path = saved / "text_encoder" / "model.safetensors"
    tensors = {name: value for name, value in load_file(path).items() if "embed_tokens" not in name}
    kept = {name: value for name, value in tensors.items() if name != "shared.weight"}
    assert len(kept) < len(load_file(path))
    save_file(kept, path, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="missing weights for a UMT5EncoderModel"):
        load_model(saved)


def test_a_wan_that_does_not_take_its_first_frame_as_a_latent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
    with pytest.raises(ValueError, match="a WanPipeline without expand_timesteps: only Wan2.2 TI2V"):
        load_model(tmp_path)


def test_a_pipeline_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    with pytest.raises(ValueError, match="unknown backbone 'LTXPipeline'; known: cogvideox, open-sora, wan"):
        load_model(tmp_path)


@torch.no_grad()
def test_a_published_wan_folder_loads_and_makes_what_its_stock_pipeline_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text, first frame, per-token timesteps, latent statistics and steps: all of them have to agree."""
    # The pipeline mends mojibake with ftfy, which may not be installed; this prompt has none.
    monkeypatch.setattr(pipeline_wan_i2v, "prompt_clean", str.strip)
    torch.manual_seed(0)
    tiny = tiny_model("tiny-wan", [CAPTION], width=32, num_layers=2)
    # The published transformer takes the latents alone.
    channels_alone = {**tiny.transformer.config, "in_channels": 16}
    tiny.transformer = WanTransformer3DModel.from_config(channels_alone).eval()
    torch.nn.init.normal_(tiny.transformer.proj_out.weight, std=0.1)
    vae = AutoencoderKLWan(
        base_dim=8,
        z_dim=16,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_temporal=2,
        scale_factor_spatial=4,
    ).eval()
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline = WanImageToVideoPipeline(
        tiny.tokenizer, tiny.text_encoder, vae, scheduler, transformer=tiny.transformer, expand_timesteps=True
    )
    pipeline.save_pretrained(tmp_path / "published")
    model = load_model(tmp_path / "published")
    assert isinstance(model, WanModel)
    pipeline.set_progress_bar_config(disable=True)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    first_video = torch.from_numpy(pixels).float().permute(2, 0, 1)[None, :, None] / 127.5 - 1
    channels, frames, h, w = model.latent_shape(5, 16, 16)
    noise = torch.randn(channels, frames, h, w, generator=torch.Generator().manual_seed(7))
    stock = pipeline(
        Image.fromarray(pixels),
        CAPTION,
        height=16,
        width=16,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=1.0,
        latents=noise.unsqueeze(0),
        output_type="latent",
        max_sequence_length=model.text_length,
    ).frames
    cond = Conditioning(model.encode_text([CAPTION]), model.encode_video(first_video)[:, :, 0])
    rule = SamplingRule(schedule=flow_match_euler_schedule(4, shift=3.0), sampler="ode", noise_level=0.0)
    ours = sample(model, cond, rule, num_frames=frames, seeds=[7]).latents_BCThw
    torch.testing.assert_close(ours, stock, atol=1e-4, rtol=1e-3)
