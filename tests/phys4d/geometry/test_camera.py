"""Pinhole projection against hand-computed places and round trips, in NumPy and torch."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.geometry import (
    camera_from_world,
    pixel_centres,
    project,
    transform,
    unproject_depth,
    world_from_camera,
)
from phys4d.types import Camera

LIBRARIES = [
    pytest.param(lambda a: np.asarray(a, np.float64), id="numpy"),
    pytest.param(lambda a: torch.tensor(np.asarray(a), dtype=torch.float64), id="torch"),
]
Make = Callable[[Any], Any]


def _camera() -> Camera:
    """Looks along world +y from (0, -3, 1): camera x = world x, camera y = -z, camera z = y."""
    pose = np.eye(4)
    pose[:3, :3] = [[1, 0, 0], [0, 0, -1], [0, 1, 0]]
    pose[:3, 3] = [0, 1, 3]
    return Camera(fx=50.0, fy=40.0, cx=4.0, cy=3.0, width=8, height=6, camera_from_world=pose)


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_point_on_the_axis_projects_to_the_principal_point(make: Make) -> None:
    assert np.allclose(project(make([[0.0, 0.0, 2.0]]), _camera()), [[4.0, 3.0, 2.0]])


@pytest.mark.parametrize("make", LIBRARIES)
def test_right_and_down_in_the_camera_are_right_and_down_in_the_image(make: Make) -> None:
    """x = 0.1 at z = 2 lies 50 * 0.1 / 2 = 2.5 pixels right; y = 0.1 lies 2 pixels down."""
    assert np.allclose(project(make([[0.1, 0.1, 2.0]]), _camera()), [[6.5, 5.0, 2.0]])


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_higher_world_point_is_higher_in_the_image(make: Make) -> None:
    low, high = project(camera_from_world(make([[0.0, 0.0, 0.5], [0.0, 0.0, 1.5]]), _camera()), _camera())
    assert float(high[1]) < float(low[1])
    assert float(high[2]) == float(low[2]) == pytest.approx(3.0)


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_point_behind_the_camera_has_no_place_in_the_image(make: Make) -> None:
    uvz = np.asarray(project(make([[0.1, 0.1, -2.0], [0.1, 0.1, 0.0]]), _camera()))
    assert np.isnan(uvz[:, :2]).all()
    assert uvz[:, 2].tolist() == [-2.0, 0.0]


@pytest.mark.parametrize("make", LIBRARIES)
def test_projecting_unprojected_depth_gives_the_pixel_centres_back(make: Make) -> None:
    depth = make(np.random.default_rng(0).uniform(1, 5, (2, 6, 8)))
    uvz = np.asarray(project(unproject_depth(depth, _camera()), _camera()))
    assert np.allclose(uvz[..., :2], pixel_centres(6, 8), atol=1e-12)
    assert np.allclose(uvz[..., 2], np.asarray(depth))


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_pixel_without_surface_lifts_to_a_nan_point(make: Make) -> None:
    depth = np.ones((6, 8))
    depth[2, 3] = np.nan
    points = np.asarray(unproject_depth(make(depth), _camera()))
    assert np.isnan(points[2, 3]).all()
    assert np.isnan(points).sum() == 3


@pytest.mark.parametrize("make", LIBRARIES)
def test_world_from_camera_undoes_camera_from_world(make: Make) -> None:
    points = make(np.random.default_rng(1).normal(size=(5, 3)))
    assert np.allclose(world_from_camera(camera_from_world(points, _camera()), _camera()), points, atol=1e-12)


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_quarter_turn_about_z_takes_x_to_y(make: Make) -> None:
    pose = np.eye(4)
    pose[:2, :2] = [[0, -1], [1, 0]]
    pose[:3, 3] = [0, 0, 5]
    assert np.allclose(transform(make([[1.0, 0.0, 0.0]]), pose), [[0.0, 1.0, 5.0]])


def test_a_negative_focal_length_is_refused() -> None:
    with pytest.raises(ValueError, match="fx=-1.0"):
        unproject_depth(np.ones((2, 2)), SimpleNamespace(fx=-1.0, fy=1.0, cx=0.0, cy=0.0))


def test_a_list_is_no_array() -> None:
    with pytest.raises(ValueError, match="NumPy array or a torch tensor, got list"):
        project([[0.0, 0.0, 1.0]], _camera())
