"""The denoiser on the parts of a batch, a thread each."""

import pytest
import torch

from phys4d.models.beside import velocity_beside
from phys4d.models.lora import add_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.wan import WanModel, tiny_wan


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("num_videos", [1, 3, 4])
def test_velocities_and_gradients_are_those_of_one_call(num_videos: int) -> None:
    torch.manual_seed(0)
    model: WanModel = tiny_wan(["a ball"], width=32, num_layers=2)
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)
    adapter = add_lora(model.transformer, "policy", rank=2, targets=model.lora_targets)
    for parameter in adapter:
        torch.nn.init.normal_(parameter, std=0.1)
    latents = torch.randn(num_videos, 16, 3, 4, 4)
    conditioning = Conditioning(torch.randn(num_videos, 5, 64), latents[:, :, 0])
    sigma = torch.linspace(0.2, 0.9, num_videos)

    def gradients(velocity: torch.Tensor) -> list[torch.Tensor]:
        return list(
            torch.autograd.grad(
                (velocity * torch.arange(1.0, num_videos + 1).view(-1, 1, 1, 1, 1)).square().sum(), adapter
            )
        )

    one = model.predict(latents, sigma, conditioning).velocity_BCThw
    beside = velocity_beside(model, latents, sigma, conditioning)
    torch.testing.assert_close(beside, one, rtol=1e-4, atol=1e-5)
    expected, found = gradients(one), gradients(beside)
    assert all(g.abs().max() > 0 for g in expected)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(velocity_beside(model, latents, sigma, conditioning), beside)
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_features_of_one_thread_are_not_mixed_with_those_of_another() -> None:
    from phys4d.models.heads import GeometryHeads
    from phys4d.models.reading import read_with_heads

    torch.manual_seed(0)
    model = tiny_wan(["a ball"], width=32, num_layers=2)
    heads = GeometryHeads(**model.head_sizes, channels=8)
    latents = torch.randn(6, 16, 3, 4, 4)
    conditioning = Conditioning(torch.randn(6, 5, 64), latents[:, :, 0])
    whole = read_with_heads(model, heads, latents, conditioning, batch_size=6)
    for _ in range(5):
        parts = read_with_heads(model, heads, latents, conditioning, batch_size=1)
        torch.testing.assert_close(parts.depth_BTHW, whole.depth_BTHW, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(parts.motion_BTHW3, whole.motion_BTHW3, rtol=1e-3, atol=1e-4)
