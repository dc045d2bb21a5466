"""STDiT3: the published layout, masks of frames and text, checkpointing, adapters, files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from phys4d.models.lora import add_lora, load_lora, merge_lora, save_lora
from phys4d.models.open_sora.conformance import layout_difference
from phys4d.models.open_sora.model import OpenSoraModel
from phys4d.models.open_sora.stdit3 import STDiT3

KEYS = Path(__file__).parents[3] / "vectors" / "stdit3_keys.json"


def make(**config: Any) -> STDiT3:
    torch.manual_seed(0)
    small = {
        "in_channels": 4,
        "hidden_size": 32,
        "depth": 2,
        "num_heads": 2,
        "caption_channels": 12,
        "model_max_length": 6,
    }
    return STDiT3(**{**small, **config}).eval()


def inputs(batch: int = 2, h: int = 4, w: int = 6) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    return {
        "latents_BCThw": torch.randn(batch, 4, 3, h, w, generator=generator),
        "timestep_B": torch.tensor([300.0, 700.0])[:batch],
        "text_BLC": torch.randn(batch, 6, 12, generator=generator),
        "height": 32.0,
        "width": 48.0,
    }


@torch.no_grad()
def run(model: STDiT3, **changed: Any) -> Tensor:
    return model(**{**inputs(), **changed}).sample


def test_the_full_size_state_dict_is_the_published_one() -> None:
    published = json.loads(KEYS.read_text())
    with torch.device("meta"):
        model = STDiT3()
    for name, value in published["config"].items():
        assert (
            tuple(model.config[name]) == tuple(value) if name == "patch_size" else model.config[name] == value
        )
    assert layout_difference(model, published["keys"]) == ""
    assert sum(p.numel() for p in model.parameters()) == published["parameters"] == 1_207_643_972


def test_a_layout_that_differs_is_named() -> None:
    model = make()
    keys = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    assert layout_difference(model, keys) == ""
    assert layout_difference(model, {**keys, "t_block.1.bias": [1]}).startswith(
        "t_block.1.bias is published with"
    )
    assert "lost is published, not here" in layout_difference(model, {**keys, "lost": [1]})
    del keys["rope.freqs"]
    assert layout_difference(model, keys) == "rope.freqs is here, not published"


def test_generating_all_frames_is_the_same_as_no_frame_mask() -> None:
    model = make()
    torch.testing.assert_close(run(model, generated_BT=torch.ones(2, 3, dtype=torch.bool)), run(model))


def test_frames_given_as_conditioning_are_treated_as_clean() -> None:
    """A video of conditioning frames only is one at timestep 0, whatever timestep is said."""
    model = make()
    none = torch.zeros(2, 3, dtype=torch.bool)
    torch.testing.assert_close(run(model, generated_BT=none), run(model, timestep_B=torch.zeros(2)))


def test_each_video_has_its_own_frame_mask() -> None:
    model = make()
    mask = torch.tensor([[False, True, True], [True, True, False]])
    both = run(model, generated_BT=mask)
    for i in range(2):
        one = {
            name: value[i : i + 1] if isinstance(value, Tensor) else value for name, value in inputs().items()
        }
        torch.testing.assert_close(run(model, **one, generated_BT=mask[i : i + 1]), both[i : i + 1])
    assert (run(model) - both).abs().max() > 1e-3


def test_what_padding_tokens_hold_has_no_influence() -> None:
    model = make()
    text = inputs()["text_BLC"]
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    masked = run(model, text_mask_BL=mask)
    torch.testing.assert_close(run(model, text_BLC=text * mask.unsqueeze(-1), text_mask_BL=mask), masked)
    shorter = {name: v[1:] if isinstance(v, Tensor) else v for name, v in inputs().items()}
    shorter["text_BLC"] = shorter["text_BLC"][:, :4]
    torch.testing.assert_close(run(model, **shorter), masked[1:])
    assert (run(model) - masked)[1].abs().max() > 1e-4


def test_a_video_without_any_text_token_is_refused() -> None:
    with pytest.raises(ValueError, match="a video has no text token"):
        run(make(), text_mask_BL=torch.tensor([[True] * 6, [False] * 6]))


def test_dropped_text_is_the_embedding_of_no_text() -> None:
    model = make()
    drop = torch.tensor([False, True])
    text = inputs()["text_BLC"]
    text[1] = model.y_embedder.y_embedding
    dropped = run(model, drop_text_B=drop)
    torch.testing.assert_close(dropped, run(model, text_BLC=text))
    torch.testing.assert_close(dropped[0], run(model)[0])
    with pytest.raises(ValueError, match=r"padded to \(6, 12\) tokens and channels, got \(4, 12\)"):
        run(model, text_BLC=text[:, :4], drop_text_B=drop)


def test_text_is_dropped_only_on_request_and_at_the_configured_rate() -> None:
    model = make(class_dropout_prob=0.1).train()
    assert torch.equal(run(model), run(model))
    drawn = model.draw_text_drop(10_000, torch.Generator().manual_seed(0))
    assert abs(drawn.float().mean().item() - 0.1) < 0.012  # four standard deviations of the mean
    assert torch.equal(drawn, model.draw_text_drop(10_000, torch.Generator().manual_seed(0)))


def test_latents_that_do_not_fill_the_patches_are_padded_with_zeros() -> None:
    model = make()
    odd = inputs(h=3, w=5)
    even = torch.nn.functional.pad(odd["latents_BCThw"], (0, 1, 0, 1))
    output = run(model, **odd)
    assert output.shape == (2, 8, 3, 3, 5)
    torch.testing.assert_close(output, run(model, **{**odd, "latents_BCThw": even})[..., :3, :5])


def test_frame_rate_and_resolution_and_order_of_frames_matter() -> None:
    model = make()
    base = run(model)
    assert (run(model, fps=8.0) - base).abs().max() > 1e-4
    assert (run(model, height=64.0) - base).abs().max() > 1e-4
    swapped = run(model, latents_BCThw=inputs()["latents_BCThw"].flip(2))
    assert (swapped.flip(2) - base).abs().max() > 1e-4


def test_checkpointing_changes_neither_gradients_nor_features() -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        model = make().train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        output = model(**inputs(), generated_BT=torch.tensor([[False, True, True]] * 2), taps=(0, 1))
        (output.sample.square().mean() + sum(f.square().mean() for f in output.features)).backward()
        return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    plain, checkpointed = gradients(False), gradients(True)
    assert plain.keys() == checkpointed.keys()
    assert {name for name, p in make().named_parameters() if p.requires_grad} == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(checkpointed[name], gradient, msg=name)


def test_checkpointing_recomputes_the_blocks() -> None:
    model = make().train()
    model.enable_gradient_checkpointing()
    calls: list[int] = []
    model.temporal_blocks[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    output = model(**inputs())
    assert len(calls) == 1
    output.sample.sum().backward()
    assert len(calls) == 2


@torch.no_grad()
def test_tapped_features_are_the_blocks_outputs_on_the_token_grid() -> None:
    model = make()
    outputs: list[Tensor] = []
    for block in model.temporal_blocks:
        block.register_forward_hook(lambda _m, _a, out: outputs.append(out))
    features = model(**inputs(), taps=(1, 0)).features
    assert [f.shape for f in features] == [(2, 3, 2, 3, 32)] * 2
    assert torch.equal(features[0].flatten(2, 3), outputs[1])
    assert torch.equal(features[1].flatten(2, 3), outputs[0])


def perturbed(model: STDiT3) -> STDiT3:
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def test_adapters_sit_on_all_linear_layers_of_the_blocks_and_off_means_the_base() -> None:
    model = make()
    base = run(model)
    trained = add_lora(model, "policy", rank=2, targets=OpenSoraModel.lora_targets)
    assert len(trained) == 2 * 7 * 4  # two matrices in each of 7 linear layers in each of 4 blocks
    assert torch.equal(run(model), base)
    perturbed(model)
    assert (run(model) - base).abs().max() > 1e-3
    model.disable_adapters()
    assert torch.equal(run(model), base)


def test_adapters_learn_under_checkpointing() -> None:
    model = make().train()
    trained = add_lora(model, "policy", rank=2, targets=OpenSoraModel.lora_targets)
    perturbed(model)
    model.enable_gradient_checkpointing()
    model(**inputs()).sample.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained)


def test_an_adapter_survives_its_file_and_merging(tmp_path: Path) -> None:
    model = make()
    add_lora(model, "sft", rank=2, targets=OpenSoraModel.lora_targets)
    adapted = run(perturbed(model))
    save_lora(model, "sft", tmp_path / "lora")
    other = make()
    load_lora(other, "sft", tmp_path / "lora")
    assert torch.equal(run(other), adapted)
    merge_lora(other, "sft")
    torch.testing.assert_close(run(other), adapted, rtol=1e-4, atol=1e-5)


def test_a_saved_transformer_gives_the_same_after_loading(tmp_path: Path) -> None:
    model = make()
    model.save_pretrained(tmp_path)
    loaded = STDiT3.from_pretrained(tmp_path)
    assert torch.equal(run(loaded), run(model))
    assert not loaded.rope.freqs.requires_grad
    halved = STDiT3.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert halved.x_embedder.proj.weight.dtype == torch.bfloat16
    assert torch.equal(halved.rope.freqs, model.rope.freqs)
    torch.testing.assert_close(run(halved), run(model), rtol=0, atol=0.1)  # bf16 keeps 8 bits


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"multiple of 4 and of 2 num_heads = 6, got 32"):
        make(num_heads=3)
