"""Adapters of chosen blocks, and of noisy timesteps only."""

from pathlib import Path

import pytest
import torch

from phys4d.models.backbone import Backbone
from phys4d.models.lora import add_lora, load_lora, merge_lora, save_lora
from phys4d.models.lora_scope import chosen_blocks, limit_to_levels, targets_in_blocks
from phys4d.models.protocol import Conditioning
from phys4d.models.registry import TINY, tiny_model


def make(preset: str) -> Backbone:
    torch.manual_seed(0)
    model = tiny_model(preset, ["a ball"], width=32, num_layers=2).eval()
    for parameter in model.transformer.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@torch.no_grad()
def predict(model: Backbone, sigma: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    channels = model.latent_shape(9, 64, 64)[0]
    first = torch.randn(2, channels, 8, 8, generator=generator)
    cond = Conditioning(model.encode_text(["a ball", "a ball"]), first)
    return model.predict(torch.randn(2, channels, 3, 8, 8, generator=generator), sigma, cond).velocity_BCThw


def adapted(preset: str, layers: str = "all") -> Backbone:
    model = make(preset)
    for parameter in add_lora(model.transformer, "sft", rank=2, targets=targets_in_blocks(model, layers)):
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("preset", TINY)
def test_an_adapter_of_noisy_timesteps_leaves_the_others_alone(preset: str, tmp_path: Path) -> None:
    """One video below the level, one at it: in one call only the second is changed, also after a reload."""
    sigma = torch.tensor([0.45, 0.5])
    base, free, limited = predict(make(preset), sigma), predict(adapted(preset), sigma), adapted(preset)
    limit_to_levels(limited.transformer, "sft", 0.5)
    save_lora(limited.transformer, "sft", tmp_path)
    loaded = make(preset)
    load_lora(loaded.transformer, "sft", tmp_path)
    for model in (limited, loaded):
        found = predict(model, sigma)
        torch.testing.assert_close(found[0], base[0])
        torch.testing.assert_close(found[1], free[1])
        assert (found[1] - base[1]).abs().max() > 1e-3
    with pytest.raises(ValueError, match=r"works from noise level 0.5 only .* --lora-min-level 0"):
        merge_lora(loaded.transformer, "sft")


def test_an_adapter_of_chosen_blocks_is_in_these_only() -> None:
    model = adapted("tiny-wan", "1")
    names = [name for name, p in model.transformer.named_parameters() if p.requires_grad]
    assert names and all(name.startswith("blocks.1.") for name in names)
    assert len(names) * 2 == sum(p.requires_grad for p in adapted("tiny-wan").transformer.parameters())


def test_blocks_are_named_by_numbers_and_ranges() -> None:
    assert chosen_blocks("0-2,5", 6) == [0, 1, 2, 5]
    assert chosen_blocks("all", 3) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"'0-6' name block \[6\], the model has 0 to 5"):
        chosen_blocks("0-6", 6)
    with pytest.raises(ValueError, match="must be 'all' or such as '0-2,5', got 'top'"):
        chosen_blocks("top", 6)
