"""Held-out errors with known values."""

import numpy as np
import pytest

from phys4d.metrics.held_out import HeldOut
from phys4d.types import Camera


def truth() -> HeldOut:
    """Two videos of an object that fills the frame 2 m away and moves a pixel per frame."""
    shape = (2, 3, 8, 10)
    depth = 2.0 + 0.1 * np.arange(10, dtype=np.float32) * np.ones(shape, np.float32)
    motion = np.zeros((2, 2, 8, 10, 3), np.float32)
    motion[..., 0] = 1.0
    camera = Camera(fx=5.0, fy=5.0, cx=5.0, cy=4.0, width=10, height=8, camera_from_world=np.eye(4))
    return HeldOut(
        keys=["a", "b"],
        fps=12.0,
        captions=["", ""],
        cameras=[camera, camera],
        rgb=np.zeros((*shape, 3), np.uint8),
        depth=depth,
        motion=motion,
        object_ids=np.ones(shape, np.uint8),
        visible=np.ones(motion.shape[:-1], bool),
    )


def test_truth_has_no_error_and_a_pixel_too_far_is_depth_over_focal_length_in_space() -> None:
    held_out = truth()
    exact = held_out.errors(held_out.depth, held_out.motion)
    assert exact["abs_rel"] < 1e-6 and exact["epe_3d_m"] == 0 and exact["delta1"] == 1
    further = held_out.errors(held_out.depth, held_out.motion + np.float32([1, 0, 0]))
    assert further["flow_epe_px"] == 1.0
    assert further["epe_3d_m"] == pytest.approx(held_out.depth[:, :-1].mean() / 5.0)


def test_what_is_shown_is_the_first_videos_beside_the_truth() -> None:
    held_out = truth()
    shown = held_out.shown("stage 2", held_out.depth, held_out.motion, num_videos=1)
    assert list(shown) == ["a"] and list(shown["a"]) == ["truth", "stage 2"]
