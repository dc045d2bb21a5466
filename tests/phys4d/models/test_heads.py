"""Heads: shapes, files, and that they can learn."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from phys4d.models.geometry_losses import warp_consistency_loss
from phys4d.models.heads import GeometryHeads
from phys4d.models.reading import held_out_warp_l1, join


def features(batch: int = 2) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 4, 2, 2, 24, generator=generator) for _ in range(3))


def test_geometry_is_dense_in_pixels_with_one_motion_less_than_frames() -> None:
    read = GeometryHeads(24, channels=16)(features(), 0.1)
    assert read.depth_BTHW.shape == (2, 4, 32, 32)
    assert read.motion_BTHW3.shape == (2, 3, 32, 32, 3)
    assert (read.depth_BTHW > 0).all()


def test_gradients_reach_every_parameter() -> None:
    torch.manual_seed(0)
    heads = GeometryHeads(24, channels=16)
    torch.nn.init.normal_(heads.to_output.weight, std=0.1)
    read = heads(features(), torch.tensor([0.1, 0.7]))
    (read.depth_BTHW.log().square().mean() + read.motion_BTHW3.square().mean()).backward()
    silent = [n for n, p in heads.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert silent == []


def test_saved_heads_read_the_same(tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = GeometryHeads(24, channels=16)
    torch.nn.init.normal_(heads.to_output.weight, std=0.1)
    heads.save(tmp_path / "heads.safetensors")
    loaded = GeometryHeads.load(tmp_path / "heads.safetensors")
    assert torch.equal(loaded(features(), 0.3).depth_BTHW, heads(features(), 0.3).depth_BTHW)


def test_heads_that_were_not_trained_name_the_command(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="make pretrain"):
        GeometryHeads.load(tmp_path / "heads.safetensors")


def test_damaged_heads_and_those_of_another_model_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "heads.safetensors"
    GeometryHeads(24, channels=16).save(path)
    sizes = {"width": 24, "num_taps": 3, "upsampling": 16, "temporal_stride": 4, "piece_frames": 0}
    with pytest.raises(ValueError, match="another model: their temporal_stride is 1, the model's 4"):
        GeometryHeads.load(path, sizes)
    with safe_open(path, "pt") as file:
        state = {name: file.get_tensor(name) for name in list(file.keys())[1:]}
        save_file(state, tmp_path / "older.safetensors", file.metadata())
    with pytest.raises(ValueError, match="another version of Phys4D; train them again with `make pretrain`"):
        GeometryHeads.load(tmp_path / "older.safetensors")
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match="cut short"):
        GeometryHeads.load(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        GeometryHeads.load(path)
    for metadata in (None, {"format": "pt"}):
        save_file({"weight": torch.zeros(2)}, path, metadata)
        with pytest.raises(ValueError, match="no heads of this project"):
            GeometryHeads.load(path)
    save_file({"weight": torch.zeros(2)}, path, {"width": "24", "foo": "1"})
    with pytest.raises(ValueError, match="another version of Phys4D"):
        GeometryHeads.load(path)


def test_a_wrong_number_of_taps_is_refused() -> None:
    with pytest.raises(ValueError, match="the heads read 3 taps, got 2"):
        GeometryHeads(24, channels=16)(features()[:2], 0.1)


@pytest.mark.parametrize(
    ("num_taps", "upsampling", "enlargements"),
    [(3, 16, [4, 2]), (4, 32, [8, 4, 2]), (4, 4, [2, 2, 2]), (1, 2, [])],
)
def test_taps_are_reassembled_at_resolutions_of_their_own(
    num_taps: int, upsampling: int, enlargements: list[int]
) -> None:
    """As in DPT: the deepest tap keeps the tokens' resolution, each shallower one has twice the last."""
    torch.manual_seed(0)
    heads = GeometryHeads(24, num_taps=num_taps, channels=16, upsampling=upsampling)
    torch.nn.init.normal_(heads.to_output.weight, std=0.5)
    entered: list[torch.Size] = []
    for module in heads.reassemble:
        module.register_forward_hook(lambda _m, _inputs, out: entered.append(out.shape[-2:]))
    taps = tuple(torch.randn(1, 2, 3, 5, 24) for _ in range(num_taps))
    with torch.no_grad():
        read = heads(taps, 0.1)
        for k in range(num_taps):
            changed = list(taps)
            changed[k] = changed[k] + 1 + torch.randn(24)
            assert (heads(tuple(changed), 0.1).depth_BTHW != read.depth_BTHW).any()
    assert read.depth_BTHW.shape == (1, 2, 3 * upsampling, 5 * upsampling)
    assert [module.enlargement for module in heads.reassemble] == enlargements
    assert sorted(entered[: num_taps - 1], reverse=True) == [(3 * by, 5 * by) for by in enlargements]


def test_latent_frames_unfold_to_video_frames(tmp_path: Path) -> None:
    """13 latent frames of a stride of 4 are 49 video frames, and the sizes survive the file."""
    heads = GeometryHeads(16, num_taps=1, channels=16, upsampling=4, temporal_stride=4)
    torch.nn.init.normal_(heads.to_output.weight, std=0.5)
    features = (torch.randn(1, 13, 2, 3, 16),)
    with torch.no_grad():
        read = heads(features, 0.1)
        assert read.depth_BTHW.shape == (1, 49, 8, 12)
        assert read.motion_BTHW3.shape == (1, 48, 8, 12, 3)
        assert (read.depth_BTHW[:, 1] - read.depth_BTHW[:, 4]).abs().max() > 1e-3
        heads.save(tmp_path / "heads.safetensors")
        again = GeometryHeads.load(tmp_path / "heads.safetensors")(features, 0.1)
    assert torch.equal(again.depth_BTHW, read.depth_BTHW)


def test_a_piece_of_a_video_starts_with_a_latent_frame_of_one_frame() -> None:
    """Open-Sora's autoencoder: 17 + 17 + 5 frames are 5 + 5 + 2 latent frames, 17 + 1 are 5 + 1."""
    heads = GeometryHeads(16, num_taps=1, channels=16, upsampling=4, temporal_stride=4, piece_frames=5)
    with torch.no_grad():
        for latent_frames, frames in ((12, 39), (6, 18), (1, 1)):
            taps = (torch.randn(1, latent_frames, 2, 3, 16),)
            assert heads(taps, 0.1).depth_BTHW.shape == (1, frames, 8, 12)


def test_heads_of_two_channels_take_dz_from_depth_and_keep_the_rest(tmp_path: Path) -> None:
    torch.manual_seed(0)
    heads = GeometryHeads(24, channels=16)
    torch.nn.init.normal_(heads.to_output.weight, std=0.1)
    assert heads.double().with_motion_channels(2).to_output.weight.dtype == torch.float64
    fewer = heads.float().with_motion_channels(2)
    fewer.save(tmp_path / "heads.safetensors")
    with torch.no_grad():
        read = GeometryHeads.load(tmp_path / "heads.safetensors")(features(), 0.2)
        three = heads(features(), 0.2)
    torch.testing.assert_close(read.depth_BTHW, three.depth_BTHW)
    torch.testing.assert_close(read.motion_BTHW3[..., :2], three.motion_BTHW3[..., :2])
    everywhere = torch.ones(read.motion_BTHW3.shape[:-1], dtype=torch.bool)
    assert warp_consistency_loss(read.depth_BTHW, read.motion_BTHW3, everywhere) < 1e-5
    true_depth, seen = torch.full(read.depth_BTHW.shape, 3.0).numpy(), everywhere.numpy()
    assert held_out_warp_l1(join([read, read]), true_depth.repeat(2, 0), seen.repeat(2, 0)) > 1e-3
    assert warp_consistency_loss(three.depth_BTHW, three.motion_BTHW3, everywhere) > 1e-3
    # Motion that leaves the image meets no depth there, so it does not count.
    leaving = replace(read, depth_BTHW=read.depth_BTHW.clone(), motion_BTHW3=read.motion_BTHW3.clone())
    leaving.motion_BTHW3[..., :2] = 0.0
    leaving.depth_BTHW[:] = 3.0
    leaving.depth_BTHW[..., 0] = 5.0
    leaving.motion_BTHW3[..., 1:, 0] = -1e3
    assert held_out_warp_l1(leaving, true_depth, seen) < 1e-4
    with pytest.raises(ValueError, match="have 2 motion channels; train them with --motion-channels 3"):
        fewer.with_motion_channels(3)
