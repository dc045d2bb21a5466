"""Adapters: zero at first, off means reference, files reload exactly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
)
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from phys4d.models.backbone import Backbone
from phys4d.models.lora import FILE_NAME, add_lora, load_lora, merge_lora, save_lora, store_base, use_adapters
from phys4d.models.protocol import Conditioning
from phys4d.models.registry import TINY, tiny_model
from phys4d.models.wan import WanModel, tiny_wan


def make() -> WanModel:
    torch.manual_seed(0)
    model = tiny_wan(["a ball"], width=32, num_layers=2).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)
    return model


def predict(model: Backbone) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    cond = Conditioning(
        torch.randn(1, 24, 64, generator=generator), torch.randn(1, 16, 8, 8, generator=generator)
    )
    with torch.no_grad():
        return model.predict(torch.randn(1, 16, 3, 8, 8, generator=generator), 0.5, cond).velocity_BCThw


def perturb(model: Backbone) -> None:
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
    assert sum(p.requires_grad for p in model.transformer.parameters()) == 40
    model.requires_grad_(False)
    with model.reference():
        pass
    assert not any(p.requires_grad for p in model.parameters()), "a frozen adapter stays frozen"


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


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda state: state.clear(), "holds no adapter weights"),
        (lambda state: state.pop(next(n for n in state if "lora_B" in n)), "is no plain LoRA"),
        (
            lambda state: state.update({"transformer.blocks.0.attn1.to_q.alpha": torch.tensor(4.0)}),
            "no plain",
        ),
    ],
)
def test_an_adapter_that_is_no_whole_plain_lora_is_refused(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], None], told: str
) -> None:
    model = make()
    add_lora(model.transformer, "sft", rank=4, targets=model.lora_targets)
    path = save_lora(model.transformer, "sft", tmp_path / "lora")
    state = load_file(path)
    change(state)
    save_file(state, path)
    with pytest.raises(ValueError, match=told):
        load_lora(make().transformer, "sft", tmp_path / "lora")


def test_an_adapter_of_another_backbone_is_refused_and_of_the_same_is_not(tmp_path: Path) -> None:
    """All pairs of backbones."""
    for trained in TINY:
        model = make_any(trained)
        add_lora(model.transformer, "sft", rank=4, targets=model.lora_targets)
        save_lora(model.transformer, "sft", tmp_path / trained)
    for other in TINY:
        model = make_any(other)
        for trained in TINY:
            if trained == other:
                load_lora(model.transformer, trained, tmp_path / trained)
                continue
            with pytest.raises(ValueError, match="it is an adapter of another backbone: .* has no linear"):
                load_lora(model.transformer, trained, tmp_path / trained)
    path = tmp_path / "native" / FILE_NAME
    path.parent.mkdir()
    save_file({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(4, 32)}, path)
    with pytest.raises(ValueError, match=r"another key format: diffusion_model.blocks.0.* 'transformer.'"):
        load_lora(model.transformer, "again", path.parent)
    path = tmp_path / trained / FILE_NAME
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="is cut short"):
        load_lora(model.transformer, "again", path.parent)


def test_a_missing_adapter_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make sft"):
        load_lora(make().transformer, "sft", tmp_path)


def make_any(preset: str) -> Backbone:
    torch.manual_seed(0)
    model = tiny_model(preset, ["a ball"], width=32, num_layers=2).eval()
    last = model.transformer.final_layer.linear if model.name == "open-sora" else model.transformer.proj_out
    torch.nn.init.normal_(last.weight, std=0.1)
    return model


def make_text_to_video(preset: str) -> Backbone:
    """`make_any` without the channels of a first frame."""
    model = make_any(preset)
    torch.manual_seed(0)
    transformer = type(model.transformer).from_config(model.transformer.config, in_channels=16)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.1)
    return type(model)(transformer, model.vae, model.text_encoder, model.tokenizer).eval()


@pytest.mark.parametrize(
    ("preset", "pipeline_class"),
    [
        ("tiny-wan", WanImageToVideoPipeline),
        ("tiny-wan", WanPipeline),
        ("tiny-cogvideox", CogVideoXImageToVideoPipeline),
        ("tiny-cogvideox", CogVideoXPipeline),
    ],
)
def test_the_stock_pipeline_loads_our_adapter(preset: str, pipeline_class: Any, tmp_path: Path) -> None:
    """Through `load_lora_weights` of the pipeline, and what the pipeline writes loads here."""
    make = make_any if "Image" in pipeline_class.__name__ else make_text_to_video
    model, other, third = make(preset), make(preset), make(preset)
    before = predict(model)
    add_lora(model.transformer, "sft", rank=4, targets=model.lora_targets)
    perturb(model)
    save_lora(model.transformer, "sft", tmp_path / "ours")
    parts = {
        "tokenizer": other.tokenizer,
        "text_encoder": other.text_encoder,
        "transformer": other.transformer,
        "vae": None,
        "scheduler": other.scheduler(),
    }
    pipeline = pipeline_class(**parts)
    pipeline.load_lora_weights(tmp_path / "ours", adapter_name="stock")
    assert torch.equal(predict(other), predict(model))
    assert (predict(other) - before).abs().max() > 1e-3
    weights = get_peft_model_state_dict(other.transformer, adapter_name="stock")
    pipeline_class.save_lora_weights(tmp_path / "stock", transformer_lora_layers=weights)
    load_lora(third.transformer, "sft", tmp_path / "stock")
    assert torch.equal(predict(third), predict(model))


@pytest.mark.parametrize("preset", TINY)
def test_several_adapters_are_switched_and_the_reference_has_none(preset: str) -> None:
    model = make_any(preset)
    base = predict(model)
    outputs = {}
    for name in ("gravity", "friction"):
        add_lora(model.transformer, name, rank=2, targets=model.lora_targets)
        perturb(model)
        outputs[name] = predict(model)
    use_adapters(model.transformer, ["gravity"])
    # The same products, which may be summed in another order.
    torch.testing.assert_close(predict(model), outputs["gravity"], rtol=1e-5, atol=1e-6)
    use_adapters(model.transformer, ["gravity", "friction"])
    both = predict(model)
    assert all((both - output).abs().max() > 1e-3 for output in (base, *outputs.values()))
    with model.reference():
        torch.testing.assert_close(predict(model), base, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(predict(model), both, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="no adapter 'wind' is attached; there are: gravity, friction"):
        use_adapters(model.transformer, ["wind"])


@pytest.mark.parametrize("preset", TINY)
def test_a_base_in_float8_is_the_rounded_base_and_its_adapter_learns(preset: str) -> None:
    """Output and gradients are those of weights rounded to three bits of mantissa; the adapter is float32."""
    dtype = torch.bfloat16
    gradients, outputs, kept = [], [], []
    for storage in ("same", "float8"):
        model = make_any(preset)
        model.transformer.to(dtype)
        parameters = add_lora(model.transformer, "policy", rank=4, targets=model.lora_targets)
        perturb(model)
        layers = [m.get_base_layer() for m in model.transformer.modules() if isinstance(m, BaseTunerLayer)]
        for layer in layers:
            layer.weight.data = layer.weight.data.to(torch.float8_e4m3fn).to(dtype)
        store_base(model.transformer, storage)
        layers = [m.get_base_layer() for m in model.transformer.modules() if isinstance(m, BaseTunerLayer)]
        stored = torch.float8_e4m3fn if storage == "float8" else dtype
        assert {layer.weight.dtype for layer in layers} == {stored}
        assert {p.dtype for p in parameters} == {torch.float32}
        assert model.transformer.dtype == dtype
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(1, 16, 3, 8, 8, generator=generator)
        cond = Conditioning(torch.randn(1, 24, 64, generator=generator), x[:, :, 0])
        saved: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor, saved: dict[int, torch.Tensor] = saved) -> torch.Tensor:
            saved[tensor.data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            velocity = model.predict(x, 0.5, cond).velocity_BCThw
        kept.append(sum(tensor.nbytes for tensor in saved.values()))
        velocity.square().sum().backward()
        outputs.append(velocity.detach())
        gradients.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))
    assert torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(gradients[0], gradients[1])
    assert gradients[0].abs().max() > 0
    assert kept[1] < kept[0], "weights are kept for the backward pass as they are stored"


def test_float8_without_an_adapter_or_with_weights_beyond_its_range_is_refused() -> None:
    model = make()
    with pytest.raises(ValueError, match="float8 is for the weights under adapters"):
        store_base(model.transformer, "float8")
    add_lora(model.transformer, "policy", rank=2, targets=model.lora_targets)
    model.transformer.blocks[0].attn1.to_q.base_layer.weight.data[0, 0] = 500.0
    with pytest.raises(ValueError, match="float8 holds weights up to 448, the largest is 500"):
        store_base(model.transformer, "float8")
