"""What stage 1 compares its heads with."""

import pytest
import torch

from phys4d.models.registry import tiny_model
from pretrain.train import random_twin


@pytest.mark.parametrize("preset", ["tiny-wan", "tiny-open-sora", "tiny-cogvideox"])
def test_the_random_transformer_is_drawn_as_an_untrained_model_is(preset: str) -> None:
    """Blocks whose gates are nearly shut would pass on less than those that training started from."""
    torch.manual_seed(0)
    model = tiny_model(preset, ["a ball"], width=32, num_layers=2)
    twin = random_twin(model, 1)
    for (name, own), other in zip(model.blocks.named_parameters(), twin.blocks.parameters(), strict=True):
        if own.numel() >= 192:
            assert not torch.equal(own, other), name
            assert other.abs().mean().item() == pytest.approx(own.abs().mean().item(), rel=0.25), name
