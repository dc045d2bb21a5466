"""The price on change: scale-free, finite for a still video, and offered as a reward."""

import math

import numpy as np
import pytest

from phys4d.reward.appearance import FLOOR, little_change
from phys4d.reward.plugin import DataError


def video(size: int, level: int = 200) -> np.ndarray:
    """A square that jumps once."""
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    frames[0, 4 : 4 + size, 2 : 2 + size] = level
    frames[1:, 4 : 4 + size, 16 : 16 + size] = level
    return frames


def test_a_larger_or_brighter_object_costs_more_and_a_still_video_nothing() -> None:
    still, small, large, bright = little_change(
        [np.zeros((5, 32, 32, 3), np.uint8), video(4), video(6), video(4, level=250)]
    )
    assert still == pytest.approx(-math.log(FLOOR))
    assert still > small > bright > large


def test_a_tenth_more_change_costs_the_same_everywhere() -> None:
    differences = []
    for size in (6, 8, 10):
        before, after = little_change([video(size, 200), video(size, 220)])
        differences.append(before - after)
    assert differences == pytest.approx([math.log(1.1)] * 3, abs=0.01)


def test_the_value_is_that_of_its_definition() -> None:
    frames = np.zeros((3, 2, 2, 3), np.uint8)
    frames[1] = 10
    frames[2] = 30
    assert little_change([frames]) == pytest.approx([-math.log(20 + FLOOR)])


def test_a_single_frame_is_refused() -> None:
    with pytest.raises(DataError, match="SINGLE_FRAME: .*2 or more frames.*leave little_change out"):
        little_change([np.zeros((1, 4, 4, 3), np.uint8)])
