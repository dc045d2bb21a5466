"""Published weights as the base of a run: found, checked and pointed to, never copied."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from phys4d.models.link import link_published
from phys4d.models.registry import load_model, tiny_model

CAPTION = "a red ball falls"


def published_folder(preset: str, folder: Path) -> Path:
    """A small model of the same classes stands for the published files."""
    torch.manual_seed(0)
    tiny_model(preset, [CAPTION], width=32, num_layers=2).save(folder)
    (folder / "model_index.json").unlink()
    return folder


@pytest.mark.parametrize(
    ("tiny", "preset"),
    [
        ("tiny-wan", "wan2.2-5b"),
        ("tiny-cogvideox", "cogvideox-5b-i2v"),
        ("tiny-open-sora", "open-sora-1.2"),
    ],
)
def test_the_base_of_a_published_preset_loads_from_where_it_lies(
    tiny: str, preset: str, tmp_path: Path
) -> None:
    folder = published_folder(tiny, tmp_path / "weights")
    link = link_published(preset, tmp_path / "run" / "base" / "model", str(folder))
    assert (link / "transformer").resolve() == (folder / "transformer").resolve()
    model = load_model(link, dtype="bfloat16", gradient_checkpointing=True)
    assert model.transformer.dtype == torch.bfloat16
    assert model.transformer.is_gradient_checkpointing


def test_open_sora_loads_from_files_named_as_they_are_published(tmp_path: Path) -> None:
    folder = published_folder("tiny-open-sora", tmp_path / "weights")
    part = folder / "transformer"
    (part / "diffusion_pytorch_model.safetensors").rename(part / "model.safetensors")
    config = json.loads((part / "config.json").read_text())
    config = {name: value for name, value in config.items() if not name.startswith("_")}
    (part / "config.json").write_text(json.dumps({**config, "architectures": ["STDiT3"], "drop_path": 0.0}))
    link = link_published("open-sora-1.2", tmp_path / "model", str(folder))
    model = load_model(link)
    assert model.fps == 24.0  # of the preset: there is no scheduler/ to read it from
    assert model.transformer.config.hidden_size == 32


def test_missing_and_damaged_and_foreign_weights_are_refused_before_anything_runs(tmp_path: Path) -> None:
    folder, link = published_folder("tiny-wan", tmp_path / "weights"), tmp_path / "model"
    with pytest.raises(
        ValueError, match="must hold a CogVideoXTransformer3DModel, got WanTransformer3DModel"
    ):
        link_published("cogvideox-5b", link, str(folder))
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match="cut short"):
        link_published("wan2.2-5b", link, str(folder))
    weights.unlink()
    save_file({"x": torch.zeros(1)}, folder / "transformer" / "other.safetensors")
    with pytest.raises(FileNotFoundError, match="missing weights in .*transformer: diffusion_pytorch_model"):
        link_published("wan2.2-5b", link, str(folder))
    shutil.rmtree(folder / "vae")
    with pytest.raises(
        FileNotFoundError, match="no vae/ in .*; get it from Wan-AI/Wan2.2-TI2V-5B-Diffusers/vae"
    ):
        link_published("wan2.2-5b", link, str(folder))
    assert not link.exists()


def test_weights_that_are_nowhere_are_told_part_by_part(tmp_path: Path) -> None:
    """The tests run with the hub switched off, as on a machine without a network."""
    with pytest.raises(
        FileNotFoundError,
        match="weights of hpcai-tech/OpenSora-STDiT-v3 are not on this machine .*"
        "vae/ from hpcai-tech/OpenSora-VAE-v1.2, text_encoder/ from zai-org/CogVideoX-2b/text_encoder",
    ):
        link_published("open-sora-1.2", tmp_path / "model")
