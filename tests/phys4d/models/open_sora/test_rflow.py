"""How the size of a video shifts noise levels: known values, and lengths without one."""

import math

import pytest

from phys4d.models.open_sora.rflow import resolution_shift


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
