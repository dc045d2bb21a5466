"""Material points of meshes and particles: what rays hit, and where it goes."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from phys4d.geometry import transform
from phys4d.scenes import simulate
from phys4d.scenes.annotations import annotate, contacts, track_points
from phys4d.scenes.rays import carry, cast, pixel_rays
from phys4d.scenes.rgb import RgbRenderer
from phys4d.scenes.trajectory import Mesh, Particles, Trajectory

BELOW = {"position_m": [0.0, 0.0, -50.0]}
"""The rigid object of the scene waits far below the floor."""


@pytest.fixture
def ball_scene(make_scene: Any) -> tuple[Any, Trajectory]:
    scene = make_scene(BELOW, num_frames=3, gravity_m_s2=0.0)
    return scene, simulate(scene)


def _square(side_m: float, shift_m: tuple[float, float, float]) -> np.ndarray:
    corners = np.array([[-1.0, 0, -1], [1, 0, -1], [1, 0, 1], [-1, 0, 1]]) * side_m / 2
    return corners + np.array([0.0, 0.0, 0.5]) + np.asarray(shift_m)


def _with_square(trajectory: Trajectory) -> Trajectory:
    """An upright square of 1 m that moves right by 0.1 m and then grows by half."""
    vertices = np.stack([_square(1.0, (0, 0, 0)), _square(1.0, (0.1, 0, 0)), _square(1.5, (0.1, 0, 0))])
    mesh = Mesh(object_index=0, vertices_m=vertices, faces=np.array([[0, 1, 2], [0, 2, 3]]))
    return replace(trajectory, meshes=(mesh,))


def _with_particles(trajectory: Trajectory) -> Trajectory:
    """Two balls; the second falls by 0.1 m per frame."""
    position = np.array([[-0.3, 0.0, 0.7], [0.3, 0.0, 0.7]]) + np.zeros((3, 1, 1))
    position[:, 1, 2] -= 0.1 * np.arange(3)
    particles = Particles(
        object_index=np.zeros(2, int),
        position_m=position,
        velocity_m_s=np.zeros_like(position),
        radius_m=np.full(2, 0.15),
    )
    return replace(trajectory, particles=particles)


def test_a_mesh_is_seen_with_its_depth_id_and_normal(ball_scene: tuple[Any, Trajectory]) -> None:
    scene, trajectory = ball_scene
    truth = annotate(scene, _with_square(trajectory), scene.camera(64, 64))
    on = truth.object_ids[0] == 1
    # 1 m at 3 m with a field of view of 45 degrees is 64 / (2 tan 22.5) / 3 = 25.75 pixels.
    assert on.sum() == pytest.approx(25.75**2, rel=0.05)
    assert np.allclose(truth.depth[0, on], 3.0)
    assert np.allclose(truth.normal[0, on], (0, 0, -1))


def test_points_of_a_mesh_keep_their_place_in_their_triangle(ball_scene: tuple[Any, Trajectory]) -> None:
    scene, trajectory = ball_scene
    moved, camera = _with_square(trajectory), scene.camera(64, 64)
    hits = cast(scene, moved, 0, camera, pixel_rays(camera).reshape(-1, 3))
    hits = hits.take(np.flatnonzero(hits.face >= 0))
    right, grown = carry(moved, hits, 1), carry(moved, hits, 2)
    assert np.allclose(right - hits.point_m, (0.1, 0, 0))
    assert np.allclose(grown - (0.1, 0, 0.5), 1.5 * (hits.point_m - (0, 0, 0.5)))


def test_motion_of_a_mesh_is_fx_dx_over_z(ball_scene: tuple[Any, Trajectory]) -> None:
    scene, trajectory = ball_scene
    camera = scene.camera(64, 64)
    truth = annotate(scene, _with_square(trajectory), camera)
    on = truth.object_ids[0] == 1
    assert np.allclose(truth.motion[0, on], (camera.fx * 0.1 / 3.0, 0, 0), atol=1e-9)
    assert truth.visible[0, on].all()


def test_particles_carry_the_points_on_them(ball_scene: tuple[Any, Trajectory]) -> None:
    scene, trajectory = ball_scene
    moved, camera = _with_particles(trajectory), scene.camera(64, 64)
    truth = annotate(scene, moved, camera)
    left = truth.object_ids[0, :, :32] == 1
    assert left.any() and not truth.motion[0, :, :32][left].any()
    right = truth.object_ids[0, :, 32:] == 1
    down = truth.motion[0, :, 32:][right]
    assert np.allclose(down[:, 0], 0, atol=1e-9)
    assert np.allclose(down[:, 1], camera.fy * 0.1 / truth.depth[0, :, 32:][right])
    hits = cast(scene, moved, 0, camera, pixel_rays(camera).reshape(-1, 3))
    centres = moved.particles.position_m[0] if moved.particles is not None else None
    assert centres is not None
    on = hits.particle >= 0
    outward = (hits.point_m[on] - centres[hits.particle[on]]) / 0.15
    assert np.allclose(outward, hits.normal[on])


def test_tracks_start_on_their_pixels_and_follow_the_material(ball_scene: tuple[Any, Trajectory]) -> None:
    scene, trajectory = ball_scene
    camera = scene.camera(64, 64)
    tracks = track_points(scene, _with_square(trajectory), camera, 16)
    assert tracks.position.shape == (3, 16, 3)
    assert np.allclose(tracks.position[0, :, :2] % 1, 0.5)
    assert np.allclose(tracks.position[1] - tracks.position[0], (camera.fx * 0.1 / 3.0, 0, 0))
    assert tracks.visible[:2].all()


def test_the_ray_tracer_draws_meshes_and_particles_where_the_annotations_have_them(
    ball_scene: tuple[Any, Trajectory],
) -> None:
    scene, trajectory = ball_scene
    renderer = RgbRenderer(width=64, height=64, num_frames=3, supersampling=1)
    for make in (_with_square, _with_particles):
        shown = make(trajectory)
        rgb = renderer.render(scene, shown)
        truth = annotate(scene, shown, scene.camera(64, 64))
        there = np.isfinite(truth.depth)
        error = np.abs(renderer.depth() - truth.depth)[there] / truth.depth[there]
        assert (error < 1e-4).mean() > 0.995
        red = rgb[truth.object_ids == 1].mean(axis=0)
        assert red[0] > 60 and red[0] > 4 * red[1]


def test_contacts_name_both_sides_and_carry_the_weight(make_scene: Any) -> None:
    """A ball of 33.5 kg at rest on the floor: mass times gravity."""
    scene = make_scene({"position_m": [0.0, 0.0, 0.2], "restitution": 0.1}, num_frames=13)
    rows = contacts(scene, simulate(scene))
    last = rows[rows[:, 0] == 12]
    assert len(last) == 1
    assert sorted(last[0, 1:3]) == [0, 1]
    assert np.allclose(last[0, 3:6], (0, 0, 0), atol=0.002)
    assert last[0, 9] == pytest.approx(scene.objects[0].mass_kg * 9.81, rel=0.02)


def test_carrying_to_the_same_frame_changes_nothing(ball_scene: tuple[Any, Trajectory]) -> None:
    scene, trajectory = ball_scene
    camera = scene.camera(32, 32)
    for make in (_with_square, _with_particles):
        hits = cast(scene, make(trajectory), 1, camera, pixel_rays(camera).reshape(-1, 3))
        hits = hits.take(np.flatnonzero(hits.object_ids))
        there = transform(carry(make(trajectory), hits, 1), camera.camera_from_world)
        assert np.allclose(there[:, 2], hits.distance)
