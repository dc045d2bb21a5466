"""Masks and metrics: facts with known answers, and the float64 reference."""

from types import ModuleType

import cv2
import numpy as np
import pytest

from phys4d.metrics.physics_iq.agreement import Agreement, agreement
from phys4d.metrics.physics_iq.clips import Clip, MotionMask, make_clip


def clip_of(rgb: np.ndarray) -> Clip:
    return make_clip(np.ascontiguousarray(frame[..., ::-1]) for frame in rgb)


def noisy(rgb: np.ndarray, sigma: float) -> np.ndarray:
    return np.clip(rgb + np.random.default_rng(1).normal(0, sigma, rgb.shape), 0, 255).astype(np.uint8)


def masked(masks: np.ndarray) -> Clip:
    """A black clip with given masks (T, H, W)."""
    return Clip(bgr=np.zeros((*masks.shape, 3), np.uint8), masks=masks.astype(bool), size=(64, 64))


@pytest.fixture(scope="module")
def pair(conformance: ModuleType) -> tuple[np.ndarray, np.ndarray]:
    """Take 1 of the rolling ball with camera noise, and a ball that lags."""
    rolling = conformance.path_of(1, 0, 1)
    late = conformance.paint(lambda t: rolling((t - 0.4).clip(0)))
    return noisy(conformance.paint(rolling), 4.0), late


def test_metrics_are_those_of_the_float64_reference(pair: tuple, reference: ModuleType) -> None:
    expected = reference.metrics(*map(reference.shrunk, pair))
    found = agreement(*map(clip_of, pair))
    assert 0.1 < found.mean_st_iou < 0.9 and 0.1 < found.ws_iou < found.s_iou < 1
    for got, name in ((found.mse, "mse"), (found.st_iou, "st"), (found.s_iou, "s"), (found.ws_iou, "ws")):
        np.testing.assert_allclose(got, expected[name], rtol=0, atol=1e-9)


def test_masks_at_full_resolution_are_those_of_the_reference(pair: tuple, reference: ModuleType) -> None:
    for rgb in pair:
        mask_of = MotionMask()
        masks = np.stack([mask_of(np.ascontiguousarray(frame[..., ::-1])) > 0 for frame in rgb])
        assert not masks[0].any() and masks[5:].any((1, 2)).all()
        # A running average within 1e-13 of a half rounds either way.
        assert (masks != reference.masks(rgb)).sum() <= 3


def test_summing_squares_in_float32_as_the_benchmark_does_gives_the_same_four_decimals(pair: tuple) -> None:
    a, b = map(clip_of, pair)
    squares = [
        np.mean(((x / 255.0).astype(np.float32) - (y / 255.0).astype(np.float32)) ** 2)
        for x, y in zip(a.bgr, b.bgr, strict=True)
    ]
    np.testing.assert_array_equal(agreement(a, b).mse, [round(float(value), 4) for value in squares])


def test_a_two_frame_case_by_hand() -> None:
    """a moves in pixels 0 and 1, then 1; b in pixel 1, then 1 and 2. Frames: 1/2, 1/2; ever: 1 of 3;
    counts (1, 2, 0) and (0, 2, 1): 2 of 4."""
    a = masked(np.array([[[1, 1, 0]], [[0, 1, 0]]]))
    b = masked(np.array([[[0, 1, 0]], [[0, 1, 1]]]))
    assert agreement(a, b) == Agreement(mse=(0.0, 0.0), st_iou=(0.5, 0.5), s_iou=round(1 / 3, 16), ws_iou=0.5)


def test_where_nothing_moves_in_either_clip_the_agreement_is_perfect() -> None:
    still = masked(np.zeros((3, 2, 2)))
    assert agreement(still, still) == Agreement(mse=(0.0,) * 3, st_iou=(1.0,) * 3, s_iou=1.0, ws_iou=1.0)


def test_a_change_of_ten_grey_levels_escapes_the_mask_and_one_of_twenty_does_not() -> None:
    """The background takes in 30 % of a change at once, so the threshold of 10 is met from 15 on."""
    moved = {}
    for step in (14, 20):
        frames = np.full((2, 64, 64, 3), 100, np.uint8)
        frames[1, 16:48, 16:48] += step
        moved[step] = clip_of(frames).masks[1].sum()
    assert moved[14] == 0 and moved[20] > 40


def stored(rgb: np.ndarray, path: str) -> Clip:
    """A clip whose masks went through the lossy file that the benchmark's tool keeps them in."""
    clip, mask_of = clip_of(rgb), MotionMask()
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 8, clip.size, isColor=False)
    for frame in rgb:
        writer.write(mask_of(np.ascontiguousarray(frame[..., ::-1])))
    writer.release()
    reader = cv2.VideoCapture(path)
    masks = [cv2.resize(reader.read()[1], clip.masks.shape[:0:-1])[..., 0] > 127 for _ in rgb]
    return Clip(bgr=clip.bgr, masks=np.stack(masks), size=clip.size)


def test_stored_masks_are_the_benchmarks_and_take_up_to_a_point_from_a_score(pair: tuple, tmp_path) -> None:
    """At 512 x 288 they took up to 0.9 points; here the masks are a few pixels thin."""
    first, late = pair
    scores = []
    for read in (
        clip_of,
        lambda rgb: make_clip((np.ascontiguousarray(f[..., ::-1]) for f in rgb), stored_fps=8),
        lambda rgb: stored(rgb, str(tmp_path / "masks.mp4")),
    ):
        model = agreement(read(first), read(late))
        scores.append(100 * (model.mean_st_iou + model.s_iou + model.ws_iou) / 3)
    assert scores[1] == scores[2] != scores[0]
    assert scores[1] == pytest.approx(scores[0], abs=3)


def test_clips_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        agreement(masked(np.zeros((3, 2, 2))), masked(np.zeros((2, 2, 2))))
