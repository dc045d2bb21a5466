"""Estimators and their labels: known flow, one alignment of frames, and a cache that mistakes no version."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DepthAnythingForDepthEstimation, DPTImageProcessor

from phys4d.models import pseudo_labels
from phys4d.models.estimators import TinyDepth, load_depth_estimator, published_depth, tiny_depth_anything
from phys4d.models.flow_estimators import DisFlow, checked_flow, load_flow_estimator
from phys4d.models.pseudo_labels import align_frames, label_videos


def textured(num_videos: int = 1, frames: int = 3, shift: int = 2) -> torch.Tensor:
    """uint8 (N, T, 48, 64, 3): a smooth random texture that moves `shift` pixels to the right per frame."""
    rng = np.random.default_rng(0)
    canvases = [
        cv2.GaussianBlur(rng.integers(0, 256, (48, 96, 3), dtype=np.uint8), (0, 0), 1.5)
        for _ in range(num_videos)
    ]
    videos = [[c[:, 32 - shift * t : 96 - shift * t] for t in range(frames)] for c in canvases]
    return torch.from_numpy(np.array(videos))


def tiny(seed: int = 0) -> TinyDepth:
    torch.manual_seed(seed)
    return TinyDepth(tiny_depth_anything(48))


def test_dis_finds_the_shift_and_distrusts_what_leaves_the_image() -> None:
    flow, _, trusted = checked_flow(DisFlow(), textured()[0].numpy())
    inner = flow[:, 8:-8, 8:-12]
    assert np.abs(inner - [2.0, 0.0]).mean() < 0.1
    assert trusted[:, 8:-8, 8:-12].mean() > 0.95
    assert not trusted[:, :, -1].any()


def test_raft_on_small_frames_answers_in_their_pixels(tmp_path: Path) -> None:
    """All weights 0 but a bias: each of 12 rounds adds (1, 0.5) eighths of the enlarged frame's pixels.

    48 x 64 is enlarged to 128 x 168, so u = 12 * 8 * 64 / 168 and v = 12 * 4 * 48 / 128.
    """
    from torchvision.models.optical_flow import raft_small

    state = {name: torch.zeros_like(value) for name, value in raft_small(weights=None).state_dict().items()}
    state["update_block.flow_head.conv2.bias"] = torch.tensor([1.0, 0.5])
    torch.save(state, tmp_path / "raft.pth")
    raft = load_flow_estimator("raft-small", tmp_path / "raft.pth")
    video = textured(frames=2)[0].numpy()
    found = raft(video[:-1], video[1:])
    assert found.shape == (1, 48, 64, 2)
    np.testing.assert_allclose(found[0, 24, 32], [12 * 8 * 64 / 168, 12 * 4 * 48 / 128], rtol=1e-4)
    assert raft.id.startswith("raft-small sha256:")
    with pytest.raises(ValueError, match="raft.pth is no whole weights file of raft-large .*https://"):
        load_flow_estimator("raft-large", tmp_path / "raft.pth")
    whole = (tmp_path / "raft.pth").read_bytes()
    for damaged in (b"", b"no weights", whole[:-5000]):
        (tmp_path / "raft.pth").write_bytes(damaged)
        with pytest.raises(ValueError, match="raft.pth is no whole weights file of raft-small"):
            load_flow_estimator("raft-small", tmp_path / "raft.pth")
    with pytest.raises(
        FileNotFoundError, match=r"no weights of raft-small at .*none.pth; they are .*https://"
    ):
        load_flow_estimator("raft-small", tmp_path / "none.pth")


def test_frames_of_relative_depth_get_the_scale_and_shift_of_the_first() -> None:
    """Each frame moved 2 pixels, was scaled and shifted; trusted flow tells how."""
    wide = torch.rand(24, 40)
    truth = torch.stack([wide[:, 8 - 2 * t : 40 - 2 * t] for t in range(4)])
    scale, shift = torch.tensor([1.0, 2.0, 0.5, 3.0]), torch.tensor([0.0, 0.3, -0.2, 1.0])
    flow = torch.zeros(3, 24, 32, 2)
    flow[..., 0] = 2.0
    trusted = torch.zeros(3, 24, 32, dtype=torch.bool)
    trusted[:, :, :30] = True
    found = align_frames(truth * scale.view(-1, 1, 1) + shift.view(-1, 1, 1), flow, trusted)
    torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


def test_labels_are_computed_once_and_kept_under_content_and_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, flow = textured(2), DisFlow()
    fresh = label_videos(tiny(), flow, videos)
    first = label_videos(tiny(), flow, videos[:1], tmp_path)
    both = label_videos(tiny(), flow, videos, tmp_path)
    assert "pseudo-labels: 1 of 2 found in" in capsys.readouterr().out
    for name in ("depth_NTHW", "motion_NTHW3", "trusted_NTHW"):
        torch.testing.assert_close(getattr(both, name), getattr(fresh, name))
        assert torch.equal(getattr(both, name)[:1], getattr(first, name))
    # Another version of the estimator finds nothing and leaves the others alone.
    other = label_videos(tiny(seed=1), flow, videos, tmp_path)
    output = capsys.readouterr().out
    assert "0 of 2 found" in output and "those of 1 other estimators or versions" in output
    assert not torch.equal(other.depth_NTHW, both.depth_NTHW)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4
    with monkeypatch.context() as changed:
        changed.setattr(pseudo_labels, "LABELS_VERSION", 2)
        label_videos(tiny(), flow, videos[:1], tmp_path)
    assert "0 of 1 found" in capsys.readouterr().out

    (entry, *_) = next(p.parent for p in tmp_path.glob("*/estimators.json")).glob("*.safetensors")
    ids = json.loads((entry.parent / "estimators.json").read_text())
    entry.write_bytes(entry.read_bytes()[:40])
    with pytest.raises(ValueError, match=rf"damaged pseudo-label .*{entry.name} .*remove it"):
        for seed in (0, 1):
            label_videos(tiny(seed), flow, videos, tmp_path)
    (entry.parent / "estimators.json").write_text(json.dumps({**ids, "flow": "dis of another day"}))
    with pytest.raises(ValueError, match=r"holds labels of .*another day.*remove it to have them made anew"):
        for seed in (0, 1):
            label_videos(tiny(seed), flow, videos, tmp_path)


def test_a_relative_depth_model_of_transformers_labels_inverse_depth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = tiny_depth_anything(48).config
    config.depth_estimation_type = "relative"
    DepthAnythingForDepthEstimation(config).save_pretrained(tmp_path)
    DPTImageProcessor(size={"height": 48, "width": 64}, ensure_multiple_of=8).save_pretrained(tmp_path)
    estimator = load_depth_estimator(tmp_path)
    assert load_depth_estimator(tmp_path).id == estimator.id
    DPTImageProcessor(size={"height": 32, "width": 64}, ensure_multiple_of=8).save_pretrained(tmp_path)
    assert load_depth_estimator(tmp_path).id != estimator.id, "other settings are another version"
    assert estimator.kind == "inverse" and "DepthAnythingForDepthEstimation" in estimator.id
    labels = label_videos(estimator, DisFlow(), textured(1))
    assert labels.kind == "inverse" and labels.depth_NTHW.shape == (1, 3, 48, 64)
    assert not labels.motion_NTHW3[..., 2].any()
    assert labels.depth_NTHW.std() > 0


def test_an_estimator_without_weights_is_refused_with_the_way_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no depth weights .* in .*download them all again"):
        published_depth(str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"hf download nobody/no-depth --local-dir FOLDER.*--depth tiny"
    ):
        published_depth("nobody/no-depth")
    with pytest.raises(FileNotFoundError, match="make pretrain"):
        load_depth_estimator(tmp_path)


def test_damaged_depth_estimators_are_refused(tmp_path: Path) -> None:
    """A weight that is not there would be random otherwise."""
    TinyDepth(tiny_depth_anything(32)).save(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    for load in (load_depth_estimator, lambda folder: published_depth(str(folder))):
        with pytest.raises(ValueError, match="model.safetensors is cut short"):
            load(tmp_path)
    weights.write_bytes(whole)
    state = load_file(weights)
    state.pop("backbone.embeddings.cls_token")
    save_file(state, weights, {"format": "pt"})
    with pytest.raises(ValueError, match="has 1 missing weights for a DepthAnything.*cls_token"):
        load_depth_estimator(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is no folder of a depth model"):
        published_depth(str(tmp_path))
