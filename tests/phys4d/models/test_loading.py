"""Weights on disk: shards, precision, and files that are damaged, missing or of another model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from phys4d.models.cogvideox import CogVideoXModel
from phys4d.models.protocol import Conditioning
from phys4d.models.registry import load_model, tiny_model
from phys4d.models.wan import WanModel

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
    for header in (b"[]", b'{"a":{}}', b'{"a":"b"}'):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ValueError, match="its header does not say where weights lie"):
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


def test_a_pipeline_of_another_family_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "LTXPipeline"}')
    with pytest.raises(ValueError, match="unknown backbone 'LTXPipeline'; known: cogvideox, open-sora, wan"):
        load_model(tmp_path)
