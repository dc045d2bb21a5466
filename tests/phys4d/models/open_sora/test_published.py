"""Weights in the published form: whole, in parts, missing, cut off, of another model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from phys4d.models.open_sora.published import load_transformer, load_vae
from phys4d.models.open_sora.stdit3 import STDiT3
from phys4d.models.open_sora.vae import OpenSoraVae

SMALL = {"hidden_size": 32, "depth": 1, "num_heads": 2, "caption_channels": 12, "model_max_length": 6}
SMALL_VAE = {
    "block_out_channels": (8, 8, 8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "temporal_filters": 32,
    "temporal_num_res_blocks": 1,
}


def publish(folder: Path, *, parts: int = 1) -> STDiT3:
    """Write a transformer as transformers would: with settings of the published class that we do not have."""
    torch.manual_seed(0)
    model = STDiT3(**SMALL)
    extra = {"model_type": "STDiT3", "enable_flash_attn": True, "drop_path": 0.0, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps({**SMALL, **extra}))
    weights = list(model.state_dict().items())
    if parts == 1:
        save_file(dict(weights), folder / "model.safetensors")
        return model
    names = [f"model-{i + 1:05d}-of-{parts:05d}.safetensors" for i in range(parts)]
    for i, name in enumerate(names):
        save_file(dict(weights[i::parts]), folder / name)
    where = {key: names[i % parts] for i, (key, _) in enumerate(weights)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return model


@pytest.mark.parametrize("parts", [1, 3])
def test_a_published_transformer_loads_whole(parts: int, tmp_path: Path) -> None:
    model = publish(tmp_path, parts=parts)
    loaded = load_transformer(tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert not loaded.training and not loaded.rope.freqs.requires_grad
    halved = load_transformer(tmp_path, torch.bfloat16)
    assert halved.dtype == torch.bfloat16
    assert halved.rope.freqs.dtype == torch.float32


def test_missing_files_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no .*config\.json; get .* of hpcai-tech/OpenSora-STDiT-v3"):
        load_transformer(tmp_path)
    publish(tmp_path, parts=2)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no .*model-00002-of-00002\.safetensors; get it from"):
        load_transformer(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"get it from hpcai-tech/OpenSora-VAE-v1.2"):
        load_vae(tmp_path / "vae")


def test_a_file_that_was_cut_off_is_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"model\.safetensors is no whole safetensors file .*get it again from"
    ):
        load_transformer(tmp_path)


def test_weights_of_another_size_or_model_are_refused(tmp_path: Path) -> None:
    publish(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "depth": 2}))
    with pytest.raises(ValueError, match=r"spatial_blocks\.1\..* is missing from the weights"):
        load_transformer(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "caption_channels": 16}))
    with pytest.raises(
        ValueError, match=r"y_embedder\.y_embedding in .* has shape \(6, 12\), expected \(6, 16\)"
    ):
        load_transformer(tmp_path)
    with pytest.raises(ValueError, match="unknown in the weights|missing from the weights"):
        load_vae(tmp_path, **SMALL_VAE)


@torch.no_grad()
@pytest.mark.parametrize("buffers", [True, False])
def test_a_published_autoencoder_loads_with_or_without_its_buffers(buffers: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = OpenSoraVae(**SMALL_VAE).eval()
    weights = {name: t for name, t in vae.state_dict().items() if buffers or name not in ("shift", "scale")}
    save_file(weights, tmp_path / "model.safetensors")
    video = torch.rand(1, 3, 5, 16, 16)
    assert torch.equal(load_vae(tmp_path, **SMALL_VAE).encode(video), vae.encode(video))
