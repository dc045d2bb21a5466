"""The rectified flow: known shifts, exact integration, the mask over frames."""

import math

import pytest
import torch
from torch import Tensor

from phys4d.models.open_sora.rflow import guided, resolution_shift, rflow_levels, sample


def test_shifts_of_known_sizes() -> None:
    assert resolution_shift(512, 512, 1) == 1.0
    assert resolution_shift(512, 512, 17) == pytest.approx(math.sqrt(5))
    assert resolution_shift(480, 854, 51) == pytest.approx(math.sqrt(480 * 854 / 512**2 * 15))
    assert resolution_shift(256, 256, 33) == resolution_shift(256, 256, 17)


def test_a_length_for_which_the_published_formula_gives_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="1 frame or at least 17, got num_frames 16"):
        resolution_shift(512, 512, 16)
    with pytest.raises(ValueError, match="at least 1"):
        resolution_shift(0, 512, 17)


def test_levels_are_the_published_timesteps_shifted() -> None:
    """t_i = (1 - i / N) 1000, then r t / (1 + (r - 1) t) on t / 1000."""
    r, n = 3.0, 30
    expected = [r * (1 - i / n) / (1 + (r - 1) * (1 - i / n)) for i in range(n)]
    levels = rflow_levels(n, r)
    assert levels[:-1].tolist() == pytest.approx(expected, abs=1e-12)
    assert (levels[0], levels[-1]) == (1.0, 0.0)
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        rflow_levels(0, r)


def test_guidance_of_one_is_the_conditional_prediction() -> None:
    c, u = torch.tensor([2.0]), torch.tensor([1.0])
    assert guided(c, u, 1.0) == c
    assert guided(c, u, 7.0) == 8.0


def exact(target: Tensor):
    """The velocity to one video: x_s = (1 - s) target + s eps, so eps - target = (x - target) / s."""
    return lambda x, level, _generated: (x - target) / level


def test_the_exact_velocity_leads_to_the_data_and_keeps_frames_of_mask_zero() -> None:
    target = torch.randn(2, 3, 4, 2, 2)
    clean = torch.randn(2, 3, 4, 2, 2)
    mask = torch.tensor([[0.0, 1, 1, 1], [1.0, 1, 0, 1]])
    keep = (mask == 0)[:, None, :, None, None]
    x = torch.where(keep, clean, torch.randn(2, 3, 4, 2, 2))
    out = sample(exact(target), x, rflow_levels(5, 3.0), mask, torch.Generator().manual_seed(0))
    torch.testing.assert_close(out, torch.where(keep, clean, target), atol=1e-5, rtol=1e-5)


def test_a_frame_of_mask_between_is_noised_once_at_the_level_it_enters() -> None:
    """Mask .5 on even levels 1, .75, .5, .25, 0: the frame is kept for two steps and enters at .5."""
    seen: list[tuple[float, bool, Tensor]] = []

    def still(x: Tensor, level: float, generated: Tensor) -> Tensor:
        seen.append((level, bool(generated[0, 1]), x[0, 0, 1, 0, 0].clone()))
        return torch.zeros_like(x)

    clean = 100.0
    x = torch.randn(1, 1, 2, 64, 64)
    x[:, :, 1] = clean
    mask = torch.tensor([[1.0, 0.5]])
    out = sample(still, x, rflow_levels(4, 1.0), mask, torch.Generator().manual_seed(0))
    assert [(level, entered) for level, entered, _ in seen] == [
        (1.0, False),
        (0.75, False),
        (0.5, True),
        (0.25, True),
    ]
    assert seen[0][2] == seen[1][2] == clean
    assert seen[2][2] == seen[3][2] == out[0, 0, 1, 0, 0]
    frame = out[0, 0, 1]
    assert frame.mean().item() == pytest.approx(0.5 * clean, abs=0.04)  # five standard errors of 4096 draws
    assert frame.std().item() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(out[:, :, 0], x[:, :, 0])
