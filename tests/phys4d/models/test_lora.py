"""Adapters: zero at first, off means reference, files reload exactly."""

from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from phys4d.models.lora import add_lora, load_lora, merge_lora, save_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.wan import WanModel, tiny_wan


def make() -> WanModel:
    torch.manual_seed(0)
    model = tiny_wan(["a ball"], width=32, num_layers=2).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)
    return model


def predict(model: WanModel) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    cond = Conditioning(
        torch.randn(1, 48, 64, generator=generator), torch.randn(1, 16, 8, 8, generator=generator)
    )
    with torch.no_grad():
        return model.predict(torch.randn(1, 16, 3, 8, 8, generator=generator), 0.5, cond).velocity_BCThw


def perturb(model: WanModel) -> None:
    for parameter in model.transformer.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)


def test_a_fresh_adapter_changes_nothing_and_a_trained_one_does() -> None:
    model = make()
    before = predict(model)
    trained = add_lora(model.transformer, "policy", rank=4, targets=model.lora_targets)
    assert len(trained) == 2 * 2 * 10  # two matrices in each of 10 linear layers in each of 2 blocks
    assert torch.equal(predict(model), before)
    perturb(model)
    assert (predict(model) - before).abs().max() > 1e-3


def test_within_reference_the_newest_adapter_is_off_exactly() -> None:
    model = make()
    before = predict(model)
    add_lora(model.transformer, "policy", rank=4, targets=model.lora_targets)
    perturb(model)
    after = predict(model)
    with model.reference():
        assert torch.equal(predict(model), before)
    assert torch.equal(predict(model), after)


def test_a_saved_adapter_reloads_exactly_in_stock_diffusers_form(tmp_path: Path) -> None:
    model = make()
    add_lora(model.transformer, "sft", rank=4, targets=model.lora_targets)
    perturb(model)
    save_lora(model.transformer, "sft", tmp_path / "lora")
    other = make()
    load_lora(other.transformer, "sft", tmp_path / "lora")
    assert torch.equal(predict(other), predict(model))


def test_merging_keeps_the_output_and_leaves_room_for_a_new_adapter() -> None:
    model = make()
    add_lora(model.transformer, "sft", rank=4, targets=model.lora_targets)
    perturb(model)
    adapted = predict(model)
    merge_lora(model.transformer, "sft")
    torch.testing.assert_close(predict(model), adapted, rtol=1e-4, atol=1e-5)
    with model.reference():
        torch.testing.assert_close(predict(model), adapted, rtol=1e-4, atol=1e-5)
    merged = predict(model)
    add_lora(model.transformer, "policy", rank=4, targets=model.lora_targets)
    assert torch.equal(predict(model), merged)
    perturb(model)
    with model.reference():
        assert torch.equal(predict(model), merged)


def test_an_adapter_of_another_architecture_is_refused(tmp_path: Path) -> None:
    model = make()
    add_lora(model.transformer, "sft", rank=4, targets=model.lora_targets)
    save_lora(model.transformer, "sft", tmp_path / "lora")
    wider = WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=32,
        in_channels=16,
        out_channels=16,
        text_dim=64,
        freq_dim=64,
        ffn_dim=64,
        num_layers=2,
    )
    with pytest.raises(ValueError, match="does not fit this transformer"):
        load_lora(wider, "sft", tmp_path / "lora")


def test_a_missing_adapter_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make sft"):
        load_lora(make().transformer, "sft", tmp_path)
