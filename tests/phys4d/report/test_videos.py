"""Videos survive the way into the page, and colours mean what the legend says."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from phys4d.report import videos


def decode(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"))


def test_a_strip_holds_every_pixel_of_every_frame() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (9, 16, 24, 3), np.uint8)
    strip = decode(videos.strip_uri(frames))
    assert strip.shape == (16, 9 * 24, 3)
    np.testing.assert_array_equal(strip[:, 3 * 24 : 4 * 24], frames[3])


def test_strips_too_wide_for_webp_are_subsampled() -> None:
    """16,383 pixels are the format's limit."""
    uri = videos.strip_uri(np.zeros((81, 4, 208, 3), np.uint8))
    assert uri.startswith("data:image/webp") and decode(uri).shape == (2, 81 * 104, 3)


def test_a_clip_of_full_size_takes_little_room_and_looks_the_same() -> None:
    """49 frames of 720 x 480 with camera noise: below 0.4 MB, and off by less than the noise is strong."""
    draws = np.random.default_rng(0)
    rows, columns = np.mgrid[:480, :720]
    wall = np.stack([90 + columns / 9, 110 + rows / 8, 150 - columns / 12], -1)
    noise, clip = draws.normal(0, 4, wall.shape), np.empty((49, *wall.shape), np.uint8)
    for t, frame in enumerate(clip):
        frame[:] = wall + np.roll(noise, 97 * t, axis=1)
        frame[100 + 5 * t : 180 + 5 * t, 40 + 10 * t : 120 + 10 * t] = (214, 96, 58)
    uri = videos.strip_uri(clip)
    assert len(uri) < 4e5
    shown = decode(uri).reshape(160, 49, 240, 3).swapaxes(0, 1)
    assert np.abs(shown - clip[:, ::3, ::3].astype(float)).mean() < 6


def test_large_videos_are_subsampled() -> None:
    assert decode(videos.strip_uri(np.zeros((2, 480, 832, 3), np.uint8))).shape == (120, 2 * 208, 3)


def test_near_is_yellow_far_is_violet_and_no_surface_is_grey() -> None:
    """The ends of viridis are fde725 and 440154."""
    depth = np.array([[[1.0, 3.0, np.nan, 0.5, 9.0]]])
    colours = videos.colour_depth(depth, 1.0, 3.0)[0, 0]
    yellow, violet, grey = (253, 231, 37), (68, 1, 84), (128, 128, 128)
    assert [tuple(c) for c in colours] == [yellow, violet, grey, yellow, violet]


def test_motion_to_the_right_is_red_and_rest_is_dark() -> None:
    motion = np.array([[[[8.0, 0.0, 0.0], [0.0, 0.0, 1.0], [np.nan, 0.0, 0.0]]]])
    right, rest, unknown = videos.colour_motion(motion, 8.0)[0, 0]
    assert right[0] == 255 and right[0] > 2 * right[1] and rest.max() <= 24 and unknown.max() <= 24


def test_the_depth_scale_of_a_scene_is_that_of_the_first_video_with_depth() -> None:
    depth = np.linspace(2.0, 4.0, 1001).reshape(1, 7, 143)
    low, high = videos.depth_range([videos.Video(), videos.Video(depth=depth), videos.Video(depth=depth * 9)])
    assert (low, high) == pytest.approx((2.02, 3.98))


def test_a_video_of_the_wrong_shape_is_named(tmp_path) -> None:
    np.savez(tmp_path / "base.npz", rgb=np.zeros((4, 4, 3), np.uint8))
    assert (
        videos.read_video(tmp_path / "base.npz").fault
        == "rgb of base.npz has shape (4, 4, 3), must have 4 axes"
    )
