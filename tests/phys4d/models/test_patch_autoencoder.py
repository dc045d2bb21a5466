"""The patch autoencoder starts as principal components."""

import torch

from phys4d.models.patch_autoencoder import PatchAutoencoder


def images(number: int = 64) -> torch.Tensor:
    """Images whose 8x8 patches span only 5 dimensions besides their mean."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(5, 192, generator=generator)
    patches = 0.3 + torch.randn(number, 4, 5, generator=generator) @ basis * 0.1
    return torch.nn.functional.fold(patches.transpose(1, 2), 16, 8, stride=8)


def fitted(channels: int, whitening: float = 0.5) -> PatchAutoencoder:
    torch.manual_seed(0)
    vae = PatchAutoencoder(latent_channels=channels, width=16, num_blocks=1)
    vae.fit_principal_components(iter(images().split(16)), whitening)
    return vae


@torch.no_grad()
def test_as_many_components_as_the_data_has_reconstruct_it_exactly() -> None:
    vae = fitted(5)
    torch.testing.assert_close(vae.decode(vae.encode(images())), images(), rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_fewer_components_leave_exactly_the_variance_of_the_others() -> None:
    patches = torch.nn.functional.unfold(images(), 8, stride=8).transpose(1, 2).flatten(0, 1).double()
    variance = torch.linalg.eigvalsh(torch.cov(patches.T, correction=0))
    vae = fitted(3)
    error = (vae.decode(vae.encode(images())) - images()).square().mean().item()
    expected = variance[:-3].sum().item() / 192
    assert abs(error - expected) < 1e-3 * expected


@torch.no_grad()
def test_whitened_latents_start_with_zero_mean_and_unit_variance() -> None:
    latents = fitted(4, whitening=1.0).encode(images()).transpose(0, 1).flatten(1)
    torch.testing.assert_close(latents.mean(1), torch.zeros(4), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std(1, correction=0), torch.ones(4), rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_half_whitened_latents_spread_like_the_root_of_their_components_at_unit_mean_square() -> None:
    natural = fitted(4, whitening=0.0).encode(images()).transpose(0, 1).flatten(1).std(1, correction=0)
    half = fitted(4, whitening=0.5).encode(images()).transpose(0, 1).flatten(1).std(1, correction=0)
    torch.testing.assert_close(half, natural.sqrt() / natural.mean().sqrt(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(half.square().mean(), torch.tensor(1.0), rtol=1e-3, atol=0)
