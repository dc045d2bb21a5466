"""Losses with known values."""

from typing import Literal

import pytest
import torch

from phys4d.models.geometry_losses import (
    WarpMask,
    align_scale_shift,
    charbonnier,
    depth_gradient_loss,
    off_depth_edges,
    relative_depth_losses,
    sample_at,
    scale_shift_invariant_depth_loss,
    warp_consistency_loss,
    warp_mask,
    with_unit_spread,
)
from phys4d.models.heads import GeometryHeads
from phys4d.scenes.annotations import annotate
from phys4d.scenes.registry import sample_scene


def ramp(frames: int = 2, size: int = 16) -> torch.Tensor:
    """Depth that grows by .1 m per column, the same in every frame: (1, T, H, W)."""
    return (2.0 + 0.1 * torch.arange(size)).expand(1, frames, size, size).clone()


def test_alignment_finds_the_one_scale_and_shift_of_a_video() -> None:
    truth = torch.rand(2, 3, 8, 8) + 1
    valid = torch.ones_like(truth, dtype=torch.bool)
    scale, shift = align_scale_shift((truth - 0.5) / torch.tensor([2.0, 3.0]).view(2, 1, 1, 1), truth, valid)
    torch.testing.assert_close(scale.flatten(), torch.tensor([2.0, 3.0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shift.flatten(), torch.tensor([0.5, 0.5]), rtol=1e-4, atol=1e-4)


def test_a_drift_of_scale_over_frames_is_not_forgiven() -> None:
    """Per-video alignment cannot explain a scale that differs between frames; per-frame alignment would."""
    truth = torch.rand(1, 2, 16, 16) + 1
    valid = torch.ones_like(truth, dtype=torch.bool)
    drifting = truth * torch.tensor([1.0, 1.5]).view(1, 2, 1, 1)
    assert scale_shift_invariant_depth_loss(1.7 * truth - 0.3, truth, valid) < 1e-5
    assert scale_shift_invariant_depth_loss(drifting, truth, valid) > 0.05


def test_gradient_loss_ignores_a_shift_and_sees_a_slope() -> None:
    assert depth_gradient_loss(ramp() + 3.0, ramp()).abs() < 1e-5
    # A doubled slope is .1 m per column too much; each halving doubles the step: (.1 + .2 + .4) / 3.
    torch.testing.assert_close(
        depth_gradient_loss(2 * ramp(), ramp()), torch.tensor(0.7 / 3), rtol=1e-4, atol=1e-5
    )


def test_charbonnier_is_zero_at_zero_and_absolute_far_away() -> None:
    assert charbonnier(torch.tensor(0.0)) == 0
    torch.testing.assert_close(charbonnier(torch.tensor(100.0)), torch.tensor(99.9), rtol=1e-5, atol=1e-5)


def test_sampling_at_pixel_centres_returns_the_pixels() -> None:
    image = torch.rand(1, 4, 6)
    rows, columns = torch.meshgrid(torch.arange(4) + 0.5, torch.arange(6) + 0.5, indexing="ij")
    torch.testing.assert_close(sample_at(image, torch.stack([columns, rows], -1).unsqueeze(0)), image)


def test_warp_loss_is_zero_when_depth_and_motion_agree() -> None:
    """A ramp that moves 2 columns to the right and .3 m away: D_{t+1}(u + 2) = D_t(u) + .3."""
    depth = ramp(2)
    depth[:, 1] = depth[:, 0] - 2 * 0.1 + 0.3
    motion = torch.zeros(1, 1, 16, 16, 3)
    motion[..., 0], motion[..., 2] = 2.0, 0.3
    inside = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    inside[..., :13] = True
    assert warp_consistency_loss(depth, motion, inside) < 1e-5


def test_warp_loss_measures_the_disagreement_in_metres_and_ignores_masked_pixels() -> None:
    depth = ramp(2)
    motion = torch.zeros(1, 1, 16, 16, 3)
    motion[..., 2] = 0.25
    motion[..., 8:, 2] = 9.0
    mask = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
    mask[..., :8] = True
    torch.testing.assert_close(warp_consistency_loss(depth, motion, mask), torch.tensor(0.25))


def test_warp_loss_reaches_depth_at_both_frames_and_all_three_motion_channels() -> None:
    depth = (ramp(2) + 0.01 * torch.rand(1, 2, 16, 16)).double().requires_grad_()
    motion = (0.3 * torch.rand(1, 1, 16, 16, 3)).double().requires_grad_()
    mask = torch.ones(1, 1, 16, 16, dtype=torch.bool)
    warp_consistency_loss(depth, motion, mask).backward()
    assert depth.grad is not None and motion.grad is not None
    assert (depth.grad[:, 0].abs().sum() > 0) and (depth.grad[:, 1].abs().sum() > 0)
    assert (motion.grad.abs().sum((0, 1, 2, 3)) > 0).all()


def test_depth_edges_are_where_the_neighbourhood_jumps() -> None:
    depth = torch.ones(1, 1, 8, 8)
    depth[..., 4:] = 3.0
    kept = off_depth_edges(depth)[0, 0]
    assert kept[0].tolist() == [True, True, True, False, False, True, True, True]


def test_warp_loss_has_the_gradient_of_finite_differences() -> None:
    torch.manual_seed(0)
    depth = (ramp(3, 6).double() + torch.rand(1, 3, 6, 6).double()).requires_grad_()
    motion = (0.9 * torch.rand(1, 2, 6, 6, 3).double() - 0.2).requires_grad_()
    mask = torch.rand(1, 2, 6, 6) < 0.7
    assert torch.autograd.gradcheck(lambda d, m: warp_consistency_loss(d, m, mask), (depth, motion))


def test_warp_loss_of_simulator_truth_is_the_interpolation_error() -> None:
    """It falls fourfold or so when pixels are halved, as the error of bilinear interpolation does."""
    losses = []
    for size in (48, 96):
        scene, trajectory = sample_scene("rigid", "drop", 3, num_frames=5)
        truth = annotate(scene, trajectory, scene.camera(size, size))
        depth = torch.from_numpy(truth.depth).unsqueeze(0)
        motion = torch.from_numpy(truth.motion).unsqueeze(0)
        visible = torch.from_numpy(truth.visible).unsqueeze(0)
        moving = torch.from_numpy(truth.object_ids[:-1] > 0).unsqueeze(0)
        masks = ("visible", "edges", "arrival_edges", "inside")
        mask = warp_mask(masks, depth, motion, visible, motion) & moving
        assert mask.sum() > 20
        losses.append(warp_consistency_loss(depth, motion, mask).item())
        wrong = motion * torch.tensor([1.0, 1.0, -1.0])
        assert warp_consistency_loss(depth, wrong, mask) > 3 * losses[-1]
    assert losses[0] < 0.005 and losses[1] < losses[0] / 2


def test_each_mask_takes_out_what_it_names() -> None:
    depth = torch.ones(1, 2, 8, 8)
    depth[:, :, :, 4:] = 3.0
    still, visible = torch.zeros(1, 1, 8, 8, 3), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    visible[..., 0, :] = False
    away = still.clone()
    away[..., 0] = 3.0

    def columns(mask: WarpMask, motion: torch.Tensor, predicted: torch.Tensor) -> list[bool]:
        return warp_mask([mask], depth, motion, visible, predicted)[0, 0, 4].tolist()

    kept = [True, True, True, False, False, True, True, True]
    assert columns("edges", still, still) == kept
    assert columns("arrival_edges", away, still) == [*kept[3:], True, True, True]
    assert columns("inside", still, away) == [True] * 5 + [False] * 3
    assert warp_mask(["visible"], depth, still, visible, still)[0, 0, :, 0].tolist() == [False] + [True] * 7
    assert warp_mask([], depth, still, visible, still).all()


def test_relative_depth_of_unit_spread_forgets_its_scale_and_shift() -> None:
    inverse = torch.rand(2, 3, 8, 8)
    found = with_unit_spread(7.0 * inverse - 3.0)
    torch.testing.assert_close(found, with_unit_spread(inverse), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.abs().mean((1, 2, 3)), torch.ones(2))


@pytest.mark.parametrize("kind", ["inverse", "metric"])
def test_heads_learn_far_from_near_and_not_the_contrary(kind: Literal["inverse", "metric"]) -> None:
    """Labels that the features tell of; a free scale per video would leave the sign to chance."""
    for seed in range(6):
        torch.manual_seed(seed)
        heads = GeometryHeads(8, num_taps=1, upsampling=2, channels=16)
        optimiser = torch.optim.Adam(heads.parameters(), 4e-3)
        label = torch.rand(4, 1, 4, 4)
        features = torch.cat([4 * label.unsqueeze(-1) - 2, torch.randn(4, 1, 4, 4, 7)], -1)
        label = 1 + label.repeat_interleave(2, 2).repeat_interleave(2, 3)
        for _ in range(20):
            depth = heads((features,), 0.1).depth_BTHW
            optimiser.zero_grad()
            torch.stack(relative_depth_losses(depth, label, kind)).sum().backward()
            optimiser.step()
        found = depth if kind == "metric" else 1 / depth
        assert torch.corrcoef(torch.stack([found.flatten(), label.flatten()]))[0, 1] > 0.5
