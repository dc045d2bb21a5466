"""Carrying, warping and scene flow for motions whose outcome is known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.geometry import carry_points, scene_flow, warp_depth
from phys4d.types import Camera

LIBRARIES = [
    pytest.param(np.asarray, id="numpy"),
    pytest.param(lambda a: torch.from_numpy(np.asarray(a)), id="torch"),
]
Make = Callable[[Any], Any]
CAMERA = Camera(fx=20.0, fy=20.0, cx=5.0, cy=5.0, width=10, height=10, camera_from_world=np.eye(4))


@pytest.mark.parametrize("make", LIBRARIES)
def test_points_on_a_tilted_plane_are_carried_exactly(make: Make) -> None:
    """Uniform motion of (1.5, 0.5) px and 0.1 m per frame over depth linear in the pixel."""
    v, u = np.mgrid[:16, :16] + 0.5
    depth = np.stack([2 + 0.01 * (u - 1.5 * t) + 0.02 * (v - 0.5 * t) + 0.1 * t for t in range(4)])
    motion = np.tile(np.array([1.5, 0.5, 0.1]), (3, 16, 16, 1))
    found = carry_points(make(np.array([[4.5, 6.5]])), make(depth), make(motion))
    t = np.arange(4)
    np.testing.assert_allclose(np.asarray(found.uv)[:, 0], np.stack([4.5 + 1.5 * t, 6.5 + 0.5 * t], -1))
    for z in (found.lifted_m, found.carried_m):
        np.testing.assert_allclose(np.asarray(z)[:, 0], 2 + 0.045 + 0.13 + 0.1 * t, rtol=1e-12)
    assert bool(found.present.all())


@pytest.mark.parametrize("make", LIBRARIES)
def test_an_expanding_field_carries_points_along_its_solution(make: Make) -> None:
    """du = k (u - 5) multiplies the offset from the centre by 1 + k in each step."""
    u = np.arange(10) + 0.5
    motion = np.zeros((3, 10, 10, 3))
    motion[..., 0] = 0.2 * (u - 5)
    found = carry_points(make(np.array([[6.0, 5.0]])), make(np.ones((4, 10, 10))), make(motion))
    assert np.allclose(np.asarray(found.uv)[:, 0, 0], 5 + 1.2 ** np.arange(4))


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_point_on_an_edge_moves_with_its_own_surface(make: Make) -> None:
    """A box 2 m away moves by 1 px before a wall at 4 m and a sky without depth, which stay."""
    depth, motion = np.full((4, 8, 12), 4.0), np.zeros((3, 8, 12, 3))
    depth[:, 0] = np.nan
    for t in range(4):
        depth[t, 1:5, 2 + t : 5 + t] = 2.0
        if t < 3:
            motion[t, 1:5, 2 + t : 5 + t, 0] = 1.0
    found = carry_points(make(np.array([[4.5, 1.5], [4.9, 2.5]])), make(depth), make(motion))
    np.testing.assert_allclose(np.asarray(found.uv)[-1, :, 0], [7.5, 7.9])
    np.testing.assert_allclose(np.asarray(found.lifted_m)[1:], 2.0)
    assert bool(found.present.all())


@pytest.mark.parametrize("make", LIBRARIES)
def test_a_point_that_left_the_image_does_not_come_back(make: Make) -> None:
    motion = np.zeros((4, 10, 10, 3))
    motion[0, ..., 0], motion[2, ..., 0] = 9.0, -9.0
    found = carry_points(make(np.array([[4.0, 4.0]])), make(np.ones((5, 10, 10))), make(motion))
    assert np.asarray(found.present)[:, 0].tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("make", LIBRARIES)
def test_depth_of_a_plane_moving_sideways_and_back_matches_after_warping(make: Make) -> None:
    """z = 2 + 0.1 u moved by du = 1, dz = 0.5: at t + 1, z(u) = 2 + 0.1 (u - 1) + 0.5."""
    u = np.tile(np.arange(10) + 0.5, (10, 1))
    now, after = 2 + 0.1 * u, 2 + 0.1 * (u - 1) + 0.5
    motion = np.tile(np.array([1.0, 0.0, 0.5]), (10, 10, 1))
    warped, sound = warp_depth(make(after), make(motion))
    assert np.asarray(sound).all(axis=0).tolist() == [True] * 9 + [False]
    assert np.allclose(np.asarray(warped)[:, :9], (now + 0.5)[:, :9])


@pytest.mark.parametrize("make", LIBRARIES)
def test_scene_flow_of_a_rigid_shift_is_the_shift(make: Make) -> None:
    """A wall at z = 2 shifted by (0.1, 0, 0) moves 20 * 0.1 / 2 = 1 pixel."""
    motion = np.tile(np.array([1.0, 0.0, 0.0]), (10, 10, 1))
    flow = scene_flow(make(np.full((10, 10), 2.0)), make(motion), CAMERA)
    assert np.allclose(flow, np.broadcast_to([0.1, 0.0, 0.0], (10, 10, 3)))


@pytest.mark.parametrize("make", LIBRARIES)
def test_scene_flow_straight_away_from_the_camera_has_flow_towards_the_centre(make: Make) -> None:
    """A point at (x, y, 2) pushed to z = 4 halves its offset from the principal point."""
    centre = (np.arange(10) + 0.5) - 5
    motion = np.empty((10, 10, 3))
    motion[..., 0], motion[..., 1], motion[..., 2] = -0.5 * centre[None, :], -0.5 * centre[:, None], 2.0
    flow = scene_flow(make(np.full((10, 10), 2.0)), make(motion), CAMERA)
    assert np.allclose(flow, np.broadcast_to([0.0, 0.0, 2.0], (10, 10, 3)), atol=1e-12)
