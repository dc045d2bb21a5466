"""Every metric on simulator truth, and on worlds that break a law in a scripted way.

A ball falls on a floor. Each violation edits the simulated poses, and rays annotate it as they do the truth.
"""

import functools
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from phys4d.geometry import world_from_camera
from phys4d.metrics.consistency.clouds import (
    C_TIME_M,
    PointTracks,
    carried_tracks,
    centroid_drift,
    cloud_chamfer_m,
    object_pixels,
    rigid_tracks,
    simulated_tracks,
    track_l2_m,
)
from phys4d.metrics.consistency.conservation import energy_residual, momentum_residual
from phys4d.metrics.consistency.depth import aligned_depth_errors, depth_flicker, depth_warp_l1, same_surface
from phys4d.metrics.consistency.flow import flow_cycle_error, flow_epe, flow_epe_3d
from phys4d.metrics.consistency.free_fall import free_fall_errors
from phys4d.metrics.masked_mean import NothingToCompareError
from phys4d.scenes import Trajectory, simulate
from phys4d.scenes.annotations import Annotations, annotate, track_points
from phys4d.types import Camera

FPS, NUM_FRAMES, SIZE = 12.0, 14, 64
FLIGHT = 6
"""Frames before the ball hits the floor."""
GRAVITY = 9.81


BALL = {
    "size_m": [0.25],
    "position_m": [-0.5, 0.0, 1.2],
    "linear_velocity_m_s": [0.6, 0.0, 0.0],
    "restitution": 0.6,
}
CAMERA = {"position_m": [0.0, -4.0, 1.0], "target_m": [0.0, 0.0, 0.6], "fov_deg": 45.0}


@dataclass(frozen=True, eq=False)
class World:
    """The scene, its truth, and the camera."""

    built: Any
    trajectory: Trajectory
    truth: Annotations
    camera: Camera
    way_back: np.ndarray
    """Motion from each frame to the one before: the forward motion of the reversed trajectory."""


@pytest.fixture(scope="module")
def world(make_scene: Any) -> World:
    """A ball 1.2 m up with a sideways push, seen from y = -4."""
    built = make_scene(BALL, num_frames=NUM_FRAMES, fps=FPS, camera=CAMERA)
    trajectory, camera = simulate(built), built.camera(SIZE, SIZE)
    way_back = annotate(built, played(trajectory, BACKWARDS), camera).motion[::-1]
    return World(built, trajectory, annotate(built, trajectory, camera), camera, way_back)


def moved(trajectory: Trajectory, position_m: np.ndarray) -> Trajectory:
    """The same ball at other places."""
    qpos = trajectory.qpos.copy()
    qpos[:, :3] = position_m[:, 0]
    return replace(trajectory, position_m=position_m, qpos=qpos)


def played(trajectory: Trajectory, order: np.ndarray) -> Trajectory:
    """The same poses in another order."""
    return replace(
        trajectory,
        position_m=trajectory.position_m[order],
        rotation=trajectory.rotation[order],
        qpos=trajectory.qpos[order],
    )


BACKWARDS = np.arange(NUM_FRAMES)[::-1]


def violations(world: World) -> dict[str, Annotations]:
    position = world.trajectory.position_m
    t = world.trajectory.times_s
    teleport = position.copy()
    teleport[3:, :, 0] += 0.4
    penetration = position.copy()
    penetration[:, 0, 2] = np.minimum(position[:, 0, 2], 1.2 - 0.5 * GRAVITY * t**2)
    edited = {
        "frozen": played(world.trajectory, np.zeros(NUM_FRAMES, int)),
        "reversed": played(world.trajectory, BACKWARDS),
        "teleport": moved(world.trajectory, teleport),
        "penetration": moved(world.trajectory, penetration),
    }
    videos = {name: annotate(world.built, trajectory, world.camera) for name, trajectory in edited.items()}
    truth, growth = world.truth, 1.03 ** np.arange(NUM_FRAMES)[:, None, None]
    motion = truth.motion.copy()
    motion[..., 2] = motion[..., 2] * growth[1:] + truth.depth[:-1] * np.diff(growth, axis=0)
    return videos | {"scale drift": replace(truth, depth=truth.depth * growth, motion=motion)}


def errors(world: World, video: Annotations) -> dict[str, float]:
    """All metrics of a video in a known scene; lower is better. No energy where nothing moves."""
    truth, camera = world.truth, world.camera
    on_object = truth.object_ids[:-1] > 0
    pixels, index = object_pixels(truth.object_ids[0])
    found = carried_tracks(video.depth, video.motion, pixels, index, camera)
    exact = rigid_tracks(
        truth.depth[0], truth.object_ids[0], world.trajectory.position_m, world.trajectory.rotation, camera
    )
    drift = centroid_drift(found, exact, FPS)
    fall = free_fall_errors(video.object_ids == 1, truth.object_ids == 1)
    depth = aligned_depth_errors(video.depth, truth.depth)
    filled = [np.where(np.isfinite(v.depth), v.depth, 100.0) for v in (video, truth)]
    surface = same_surface(truth.object_ids, truth.motion, truth.visible)
    flight = (
        world_from_camera(found.points_m[:FLIGHT], camera)[:, found.present[:FLIGHT].all(0)].mean(1)[:, None],
        world.trajectory.times_s[:FLIGHT],
        np.ones(1),
    )
    found_errors = {
        "depth_warp_m": depth_warp_l1(video.depth, video.motion, surface),
        "flicker_m": depth_flicker(video.depth, truth.object_ids == 0),
        "momentum_m_s": momentum_residual(*flight, gravity_m_s2=GRAVITY),
        "abs_rel": depth.abs_rel,
        "1 - delta1": 1 - depth.delta1,
        "flow_epe_px": flow_epe(video.motion, truth.motion, on_object),
        "flow_cycle_px": flow_cycle_error(video.motion, world.way_back, surface & on_object),
        "flow_epe_3d_m": flow_epe_3d(filled[0], video.motion, filled[1], truth.motion, camera, on_object),
        "cd_frame_m": cloud_chamfer_m(found, exact),
        "cd_spacetime_m": cloud_chamfer_m(found, exact, c_time_m=C_TIME_M),
        "track_l2_m": track_l2_m(found, exact),
        "drift_1s_m": drift.at_horizon_m[1.0],
        "drift_final_m": drift.final_m,
        "drift_slope_m_s": drift.slope_m_s,
        "fall_l2": fall.l2,
        "fall_chamfer": fall.chamfer,
        "1 - fall_iou": 1 - fall.iou,
    }
    with suppress(NothingToCompareError):
        found_errors["energy"] = energy_residual(*flight, gravity_m_s2=GRAVITY)
    return found_errors


FLOORS = {
    "depth_warp_m": 0.001,
    "flicker_m": 0.0,
    "momentum_m_s": 0.001,
    "energy": 0.001,
    "abs_rel": 1e-6,
    "1 - delta1": 0.0,
    "flow_epe_px": 0.0,
    "flow_cycle_px": 0.1,
    "flow_epe_3d_m": 0.0,
    "cd_frame_m": 0.01,
    "cd_spacetime_m": 0.01,
    "track_l2_m": 0.01,
    "drift_1s_m": 0.01,
    "drift_final_m": 0.01,
    "drift_slope_m_s": 0.01,
    "fall_l2": 0.0,
    "fall_chamfer": 0.0,
    "1 - fall_iou": 0.0,
}
BLIND = {
    "frozen": {"depth_warp_m", "flicker_m", "energy"},
    "reversed": {"energy", "drift_slope_m_s"},
    "teleport": set(),
    "penetration": {"depth_warp_m", "flicker_m", "momentum_m_s", "energy"},
    "scale drift": {
        "depth_warp_m",
        "flow_epe_px",
        "flow_cycle_px",
        "fall_l2",
        "fall_chamfer",
        "1 - fall_iou",
    },
}
"""Which metrics do not see a violation; all others do.

Nothing contradicts itself in a frozen world, and what rests has no energy. Played backwards, the ball is not
where its points are sought, so they rest. It goes through the floor in free flight, smoothly. Where depth
grows as a whole, and motion with it, the picture stays as it is. The flow cycle is closed by the simulator's
way back: by its own every one of these worlds would come back to where it was.
"""


def test_the_truth_is_at_the_stated_floor_of_every_metric(world: World) -> None:
    found = errors(world, world.truth)
    assert set(found) == set(FLOORS)
    assert not {name: value for name, value in found.items() if value > FLOORS[name]}


def test_points_that_the_simulator_follows_are_where_poses_take_them(world: World) -> None:
    """So that whatever bends or flows is measured on the simulator's tracks as rigid bodies are on poses."""
    truth, trajectory, camera = world.truth, world.trajectory, world.camera
    tracks = track_points(world.built, trajectory, camera, points_per_object=20)
    followed = simulated_tracks(tracks.position, tracks.object_index, camera)
    posed = rigid_tracks(
        truth.depth[0], truth.object_ids[0], trajectory.position_m, trajectory.rotation, camera
    )
    pixels, _ = object_pixels(truth.object_ids[0])
    same = [np.flatnonzero((pixels == uv).all(1))[0] for uv in np.round(tracks.position[0, :, :2], 6)]
    np.testing.assert_allclose(followed.points_m, posed.points_m[:, same], atol=1e-6)


def test_each_violation_is_caught_by_every_metric_but_those_that_are_blind_to_it(world: World) -> None:
    """Caught: over .01 and three times the truth's. Blind: within .005 of it, or nothing to compare."""
    best, videos = errors(world, world.truth), violations(world)
    assert set(videos) == set(BLIND)
    for name, video in videos.items():
        found = errors(world, video)
        caught = {m for m in found if found[m] > 0.01 and found[m] > 3 * best[m]}
        assert caught == set(FLOORS) - BLIND[name], name
        assert not {m: v for m, v in found.items() if m in BLIND[name] and v > best[m] + 0.005}, name


def test_depth_that_drifts_against_its_own_motion_does_not_warp_onto_itself(world: World) -> None:
    truth = world.truth
    surface = same_surface(truth.object_ids, truth.motion, truth.visible)
    drifting = truth.depth * 1.03 ** np.arange(NUM_FRAMES)[:, None, None]
    assert depth_warp_l1(drifting, truth.motion, surface) > 0.1


def test_alignment_takes_back_any_scale_and_shift(world: World) -> None:
    found = aligned_depth_errors(0.3 * world.truth.depth - 0.4, world.truth.depth)
    assert found.abs_rel < 1e-6 and found.delta1 == 1.0
    assert (found.scale, found.shift_m) == (pytest.approx(1 / 0.3), pytest.approx(0.4 / 0.3))
    inside_out = aligned_depth_errors(9.0 - world.truth.depth, world.truth.depth)
    assert inside_out.scale == 0.0 and inside_out.abs_rel > 0.05


def test_depth_turned_inside_out_or_left_out_is_no_depth(world: World) -> None:
    """A negative scale would make the first perfect, and dropping pixels the second, which lacks half."""
    true = world.truth.depth
    inverted = aligned_depth_errors(-true, true)
    assert inverted.scale == 0 and inverted.abs_rel > 0.05
    holes = np.where(np.arange(SIZE) % 2, np.nan, true)
    lost = np.isfinite(true[..., 1::2]).sum() / np.isfinite(true).sum()
    found = aligned_depth_errors(holes, true)
    assert (found.abs_rel, found.delta1) == (pytest.approx(lost), pytest.approx(1 - lost))
    nothing = aligned_depth_errors(np.full_like(true, np.nan), true)
    assert (nothing.abs_rel, nothing.delta1) == (1.0, 0.0)


def test_a_video_of_5_s_has_a_drift_at_5_s(world: World) -> None:
    """40 frames at 8 fps; the last shows 4.875 s. A point leaves at 0.1 m/s."""
    there = np.zeros((40, 1, 3))
    away = there + np.array([0.1, 0, 0]) * (np.arange(40) / 8)[:, None, None]
    truth, found = (PointTracks(points_m=p, present=np.ones((40, 1), bool), object_index=np.zeros(1, int))
                    for p in (there, away))  # fmt: skip
    drift = centroid_drift(found, truth, 8.0)
    assert drift.at_horizon_m == pytest.approx({1.0: 0.1, 2.0: 0.2, 3.0: 0.3, 4.0: 0.4, 5.0: 0.4875})


def test_truth_leads_back_where_it_came_from_and_a_wrong_return_does_not(world: World) -> None:
    truth, back = world.truth, world.way_back
    mask = same_surface(truth.object_ids, truth.motion, truth.visible) & (truth.object_ids[:-1] > 0)
    exact = flow_cycle_error(truth.motion, back, mask)
    assert exact < 0.1
    assert flow_cycle_error(truth.motion, 0 * back, mask) > 10 * exact
    assert flow_cycle_error(truth.motion, -back, mask) > 20 * exact
    # Without a mask of the truth a place that is covered or left counts, and noise still ranks far worse.
    noise = np.random.default_rng(0).normal(0, 8, (2, *truth.motion.shape))
    assert flow_cycle_error(truth.motion, back) < 0.3 < 3 < flow_cycle_error(*noise)


@pytest.mark.parametrize("gravity", [GRAVITY, 1.62])
def test_a_simulated_free_flight_keeps_energy_and_gains_the_momentum_of_gravity(
    make_scene: Any, gravity: float
) -> None:
    """Exact up to rounding: velocities are second-order differences of a parabola."""
    flight = simulate(make_scene(BALL, num_frames=NUM_FRAMES, fps=FPS, floor_m=-100.0, gravity_m_s2=gravity))
    args = (flight.times_s, np.array([2.0]))
    energy = functools.partial(energy_residual, gravity_m_s2=gravity)
    momentum = functools.partial(momentum_residual, gravity_m_s2=gravity)
    assert energy(flight.position_m, *args) < 1e-9
    assert momentum(flight.position_m, *args) < 1e-9
    frozen = np.broadcast_to(flight.position_m[:1], flight.position_m.shape)
    teleport = flight.position_m.copy()
    teleport[7:, :, 0] += 0.4
    slowed = flight.position_m[:1] + 0.5 * (flight.position_m - flight.position_m[:1])
    for broken in (teleport, slowed):
        assert energy(broken, *args) > 10 * energy(flight.position_m, *args) + 0.01
        assert momentum(broken, *args) > 0.02 * gravity
    assert momentum(frozen, *args) > 0.1 * gravity
    assert momentum(flight.position_m * [1, 1, -1], *args) > 0.5 * gravity, "it falls upwards"
    with pytest.raises(NothingToCompareError, match="nothing moves"):
        energy(frozen, *args)


def test_an_elastic_collision_keeps_both_and_a_ball_that_passes_through_keeps_both_too() -> None:
    """Masses 1 and 3 at 2 and 0 m/s part at -1 and 1 m/s. Without gravity. A stop of both keeps neither."""
    times = np.arange(20) / 10
    before, after = np.array([2.0, 0.0]), np.array([-1.0, 1.0])
    hit = times[10] - 0.05
    x = np.where(times[:, None] < hit, before * times[:, None], before * hit + after * (times[:, None] - hit))
    stop = before * np.minimum(times, hit)[:, None]
    mass = np.array([1.0, 3.0])
    elastic, stopped = (np.stack([v, 0 * v, 0 * v], -1) for v in (x, stop))
    kept = momentum_residual(elastic, times, mass, gravity_m_s2=0.0)
    assert kept < 1e-12 < 0.1 < momentum_residual(stopped, times, mass, gravity_m_s2=0.0)
    # Differences across the hit blur two frames of eighteen.
    blurred = energy_residual(elastic, times, mass, gravity_m_s2=0.0)
    assert blurred < 0.1 < energy_residual(stopped, times, mass, gravity_m_s2=0.0)


def test_a_lost_object_counts_as_bad_as_can_be() -> None:
    true = np.zeros((3, 20, 20), bool)
    true[:, 5:9, 5:9] = True
    gone = true.copy()
    gone[2] = False
    found = free_fall_errors(gone, true)
    assert (found.num_lost, found.iou, found.l2, found.chamfer) == (1, 0.5, 0.5, 1.0)


def test_a_shift_of_two_pixels_by_hand() -> None:
    """A 4 x 4 square moved by 2 of 20 sqrt(2) pixels: half of each square is 1 or 2 pixels from the other."""
    true = np.zeros((2, 20, 20), bool)
    true[:, 5:9, 5:9] = True
    found = free_fall_errors(np.roll(true, 2, axis=2), true)
    diagonal = 20 * np.sqrt(2)
    assert found.l2 == pytest.approx(2 / diagonal)
    assert found.chamfer == pytest.approx(2 * (0.25 * 1 + 0.25 * 2) / diagonal)
    assert found.iou == pytest.approx(8 / 24)


def test_what_cannot_be_compared_is_refused(world: World) -> None:
    empty = np.zeros((NUM_FRAMES - 1, SIZE, SIZE), bool)
    with pytest.raises(ValueError, match="flow_epe: no pixel to compare"):
        flow_epe(world.truth.motion, world.truth.motion, empty)
    with pytest.raises(ValueError, match="depth_warp_l1: no pixel"):
        depth_warp_l1(world.truth.depth, world.truth.motion, empty)
    with pytest.raises(ValueError, match="frame 0 shows no object"):
        object_pixels(np.zeros((SIZE, SIZE), np.uint8))
    with pytest.raises(ValueError, match="truth shows no object"):
        free_fall_errors(np.zeros((3, 8, 8), bool), np.zeros((3, 8, 8), bool))
    with pytest.raises(ValueError, match="need at least 4 frames"):
        energy_residual(np.zeros((3, 1, 3)), np.arange(3.0), np.ones(1), gravity_m_s2=GRAVITY)
