"""Smoke: light falls exponentially with the way through it."""

import numpy as np
import pytest

from phys4d.scenes.haze import add_haze, optical_depth
from phys4d.scenes.trajectory import Field
from phys4d.types import Camera

CAMERA = Camera(fx=20, fy=20, cx=8, cy=8, width=16, height=16, camera_from_world=np.eye(4))


def _slab(value: float = 2.0, absorption_per_m: float = 0.5) -> Field:
    """A cube of 4 m about the optical axis, from 2 to 6 m."""
    values = np.full((1, 8, 8, 8), value, np.float32)
    return Field(
        name="density",
        unit="kg/m3",
        values=values,
        origin_m=(-2.0, -2.0, 2.0),
        spacing_m=0.5,
        smoke_rgb=(1.0, 0.0, 0.0),
        absorption_per_m=absorption_per_m,
    )


def test_the_way_through_a_uniform_cube_is_its_length() -> None:
    """0.5 per m x 2 x 4 m = 4 on the axis."""
    through = optical_depth(np.full((1, 16, 16), np.nan), _slab(), CAMERA)[0]
    # The ray of pixel (8, 8) is (0.025, 0.025, 1): 0.06 % longer.
    assert through[8, 8] == pytest.approx(4.0, rel=0.02)


def test_what_stands_before_the_smoke_hides_it_and_half_way_halves_it() -> None:
    before = optical_depth(np.full((1, 16, 16), 1.5), _slab(), CAMERA)
    half = optical_depth(np.full((1, 16, 16), 4.0), _slab(), CAMERA)[0]
    assert not before.any()
    assert half[8, 8] == pytest.approx(2.0, rel=0.05)


def test_smoke_mixes_its_colour_by_beer_and_lambert() -> None:
    picture = np.full((1, 16, 16, 3), 200, np.uint8)
    drawn = add_haze(picture, np.full((1, 16, 16), np.nan), _slab(absorption_per_m=0.1), CAMERA, light=1.0)
    keeps = np.exp(-0.8)
    expected = [200 * keeps + 255 * (1 - keeps), 200 * keeps, 200 * keeps]
    assert np.allclose(drawn[0, 8, 8], expected, atol=2)


def test_thin_air_changes_nothing() -> None:
    picture = np.full((1, 16, 16, 3), 200, np.uint8)
    drawn = add_haze(picture, np.full((1, 16, 16), np.nan), _slab(value=0.0), CAMERA, light=1.0)
    assert np.array_equal(drawn, picture)
