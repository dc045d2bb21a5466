"""Bilinear sampling: linear images are reproduced exactly, borders and holes are told."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.geometry import footprint_is_uniform, pixel_centres, sample_bilinear

LIBRARIES = [
    pytest.param(np.asarray, id="numpy"),
    pytest.param(lambda a: torch.from_numpy(np.asarray(a)), id="torch"),
]
Make = Callable[[Any], Any]


@pytest.mark.parametrize("make", LIBRARIES)
def test_an_image_linear_in_u_and_v_is_sampled_exactly(make: Make) -> None:
    centres = pixel_centres(5, 7)
    image = (2 * centres[..., 0] - 3 * centres[..., 1])[..., None]
    uv = np.random.default_rng(0).uniform((0.5, 0.5), (6.5, 4.5), (40, 2))
    values, sound = sample_bilinear(make(image), make(uv))
    assert np.allclose(np.asarray(values)[:, 0], 2 * uv[:, 0] - 3 * uv[:, 1], atol=1e-12)
    assert bool(sound.all())


@pytest.mark.parametrize("make", LIBRARIES)
def test_the_middle_of_four_pixels_is_their_mean(make: Make) -> None:
    values, _ = sample_bilinear(
        make(np.array([[[1.0], [2.0]], [[3.0], [6.0]]])), make(np.array([[1.0, 1.0]]))
    )
    assert float(values[0, 0]) == 3.0


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_pixel_centre_is_the_pixel_up_to_the_last_row_and_column(make: Make) -> None:
    image = np.arange(12.0).reshape(3, 4, 1)
    values, sound = sample_bilinear(make(image), make(pixel_centres(3, 4).reshape(-1, 2)))
    assert np.asarray(values)[:, 0].tolist() == list(range(12))
    assert bool(sound.all())


@pytest.mark.parametrize("make", LIBRARIES)
def test_outside_the_pixel_centres_the_border_is_taken_and_called_unsound(make: Make) -> None:
    image = np.arange(12.0).reshape(3, 4, 1)
    uv = np.array([[0.4, 0.5], [3.6, 2.5], [-9.0, 0.5], [np.nan, 0.5], [np.inf, 0.5]])
    values, sound = sample_bilinear(make(image), make(uv))
    assert np.asarray(values)[:3, 0].tolist() == [0.0, 11.0, 0.0]
    assert np.asarray(sound).tolist() == [False] * 5


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_hole_in_the_footprint_is_unsound(make: Make) -> None:
    image = np.ones((3, 4, 2))
    image[1, 1, 1] = np.nan
    _, sound = sample_bilinear(make(image), make(np.array([[1.2, 1.2], [3.2, 2.2]])))
    assert np.asarray(sound).tolist() == [False, True]


@pytest.mark.parametrize("make", LIBRARIES)
def test_each_video_of_a_batch_is_sampled_from_itself(make: Make) -> None:
    image = np.stack([np.full((3, 3, 1), float(k)) for k in range(4)]).reshape(2, 2, 3, 3, 1)
    values, _ = sample_bilinear(make(image), make(np.full((2, 2, 5, 2), 1.3)))
    assert np.allclose(np.asarray(values)[:, :, 0, 0], [[0, 1], [2, 3]])


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_footprint_over_a_silhouette_is_not_uniform(make: Make) -> None:
    ids = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 1]])
    uv = make(np.array([[1.0, 1.0], [2.0, 1.0], [1.0, 1.0]]))
    assert np.asarray(footprint_is_uniform(make(ids), uv, make(np.array([0, 0, 1])))).tolist() == [
        True,
        False,
        False,
    ]


def test_gradients_flow_to_image_and_positions() -> None:
    image = torch.rand(4, 4, 1, dtype=torch.float64, requires_grad=True)
    uv = torch.tensor([[1.3, 1.9], [2.2, 2.4]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda i, p: sample_bilinear(i, p)[0], (image, uv))


def test_a_single_row_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 x 2 pixels, got 1 x 4"):
        sample_bilinear(np.ones((1, 4, 1)), np.ones((1, 2)))
