"""Every scripted way to earn reward without the right motion earns clearly less than honest work."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from phys4d.metrics.chamfer import ChamferTerms, chamfer4d
from phys4d.metrics.chamfer_reward import chamfer_reward, motion_weight

NUM_FRAMES, NUM_OBJECTS, NUM_POINTS, RADIUS_M = 8, 4, 128, 0.25
TAU_M, SIGMA_M = 0.5, 0.05
MARGIN = 0.02
FLOOR_M = 0.5 * math.sqrt(4 * math.pi * RADIUS_M**2 / NUM_POINTS)
"""Chamfer distance of two random samples of one surface: sqrt(area / N) / 2."""


def sphere(seed: int, num_points: int = NUM_POINTS) -> np.ndarray:
    """Points spread at random over a ball's surface."""
    directions = np.random.default_rng(seed).normal(size=(num_points, 3))
    return RADIUS_M * directions / np.linalg.norm(directions, axis=1, keepdims=True)


def centres() -> np.ndarray:
    """Four balls (T, O, 3): one falls 2.5 m, two roll, one rests."""
    t = np.linspace(0, 1, NUM_FRAMES)
    path = np.zeros((NUM_FRAMES, NUM_OBJECTS, 3))
    path[:, :, 0] = 2.0 * np.arange(NUM_OBJECTS)
    path[:, 0, 2] = 2.5 * (1 - t**2)
    path[:, 1, 1] = 1.2 * t
    path[:, 2, 1] = -0.8 * t
    return path


def scene(seed: int, path: np.ndarray | None = None) -> np.ndarray:
    """A draw of surface points (T, O, N, 3); the same points of each ball in all frames."""
    path = centres() if path is None else path
    return path[:, :, None] + np.stack([sphere(10 * seed + o) for o in range(NUM_OBJECTS)])[None]


GT = scene(1)
WEIGHT = np.broadcast_to(
    motion_weight(np.linalg.norm(np.diff(centres(), axis=0), axis=-1).sum(0)), (NUM_FRAMES, NUM_OBJECTS)
)


def compare(pred: np.ndarray, gt: np.ndarray = GT, **options) -> ChamferTerms:
    """Terms of clouds (T, O, N, 3), each with a number of points of its own."""
    ids = {}
    for side, points in (("pred", pred), ("gt", gt)):
        frames, objects, _ = np.indices(points.shape[:3]).reshape(3, -1)
        ids |= {f"{side}_frame_id": frames, f"{side}_object_id": objects}
    options = {"shape": (1, *gt.shape[:2]), "tau_m": TAU_M} | options
    return chamfer4d(pred.reshape(-1, 3), gt.reshape(-1, 3), **ids, **options)


def reward(pred: np.ndarray, **options) -> float:
    cd1_m = compare(pred, **options).cd1_m[0]
    return float(chamfer_reward(cd1_m, WEIGHT, sigma_m=SIGMA_M, floor_m=FLOOR_M))


def honest() -> np.ndarray:
    """Another draw of the surfaces, with centres that drift off by up to 8 cm."""
    drift = np.linspace(0, 0.08, NUM_FRAMES)[:, None, None] * np.array([0.6, 0.0, 0.8])
    return scene(2, centres() + drift)


def but(change: Callable[[np.ndarray], object]) -> np.ndarray:
    """The honest points with a change made in place."""
    points = honest()
    change(points)
    return points


def outliers(points: np.ndarray) -> None:
    points[:, :, :: round(1 / 0.05)] += 1000.0


ATTACKS = {
    "an empty cloud": lambda: np.zeros((NUM_FRAMES, NUM_OBJECTS, 0, 3)),
    "points that are not finite": lambda: np.full((NUM_FRAMES, NUM_OBJECTS, NUM_POINTS, 3), np.inf),
    "one object of four left out": lambda: but(lambda p: p[:, 2].fill(np.nan)),
    "the falling ball left out": lambda: but(lambda p: p[:, 0].fill(np.nan)),
    "a frozen video": lambda: np.broadcast_to(GT[:1], GT.shape).copy(),
    "a frozen ball": lambda: but(lambda p: p[:, 0].__setitem__(slice(None), p[:1, 0])),
    "an eighth of the points, eight times": lambda: np.repeat(honest()[:, :, ::8], 8, axis=2),
    "a twentieth of the points far away": lambda: but(outliers),
    "perfect points where they are few": lambda: np.where(
        np.arange(NUM_POINTS)[:, None] % 10 == 0, GT, np.nan
    ),
    "one perfect point": lambda: GT[:, :, :1].copy(),
    "points all over the room": lambda: np.random.default_rng(0).uniform(
        (-1, -1, -1), (7, 2, 3), (NUM_FRAMES, NUM_OBJECTS, 4 * NUM_POINTS, 3)
    ),
    "every point at its ball's centre": lambda: np.broadcast_to(GT.mean(2, keepdims=True), GT.shape).copy(),
    "balls that trade places": lambda: honest()[:, ::-1].copy(),
    "time backwards": lambda: honest()[::-1].copy(),
    "two frames late": lambda: but(lambda p: p.__setitem__(slice(2, None), p[:-2].copy())),
    "the average over time": lambda: np.broadcast_to(honest().mean(0), GT.shape).copy(),
    "bad frames left out": lambda: but(lambda p: p[4:].fill(np.nan)),
}


VARIANTS = {
    "frame by frame": {},
    "thinned by voxels": {"num_points": 64, "resample": "voxel"},
    "thinned to far points": {"num_points": 64, "resample": "farthest"},
    "space-time": {"c_time_m": 0.25, "band_frames": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_earns_less_than_honest_work(attack: str, variant: str) -> None:
    options = VARIANTS[variant]
    assert reward(ATTACKS[attack](), **options) < reward(honest(), **options) - MARGIN


def test_a_perfect_rollout_earns_nearly_all() -> None:
    """Another draw of the true surfaces; what is left is the scatter around the sampling floor."""
    assert reward(scene(3)) > 0.9


def test_a_floor_with_most_of_the_points_does_not_hide_that_the_ball_is_gone() -> None:
    """Floor 1152 points, ball 128: the mean over points hardly moves, the reward falls by more than half."""
    draws = np.random.default_rng(0)

    def clouds(seed: int, ball: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        floor = np.column_stack([np.random.default_rng(seed).uniform(-2, 2, (1152, 2)), np.zeros(1152)])
        points = [np.concatenate([floor, path]) for path in ball]
        frames = np.repeat(np.arange(NUM_FRAMES), 1280)
        return np.concatenate(points), frames, np.tile((np.arange(1280) >= 1152).astype(int), NUM_FRAMES)

    falling = centres()[:, :1] + sphere(3)
    gt, gt_frames, gt_objects = clouds(1, falling)
    weight = np.broadcast_to(motion_weight(np.array([0.0, 2.5])), (NUM_FRAMES, 2))
    earned = {}
    for name, ball in {
        "honest": falling + draws.normal(scale=0.03, size=falling.shape),
        "frozen": np.broadcast_to(falling[:1], falling.shape),
        "absent": np.full_like(falling, np.nan),
    }.items():
        pred, frames, objects = clouds(2, ball)
        terms = chamfer4d(
            pred,
            gt,
            pred_frame_id=frames,
            gt_frame_id=gt_frames,
            pred_object_id=objects,
            gt_object_id=gt_objects,
            shape=(1, NUM_FRAMES, 2),
            tau_m=TAU_M,
        )
        earned[name] = float(chamfer_reward(terms.cd1_m[0], weight, sigma_m=SIGMA_M, floor_m=0.02))
        if name == "absent":
            assert terms.missing[0, :, 1].all() and not terms.missing[0, :, 0].any()
    assert earned["frozen"] < 0.5 * earned["honest"]
    assert earned["absent"] < 0.5 * earned["honest"]


def test_moving_each_frame_to_fit_would_let_a_frozen_ball_pass() -> None:
    """Why nothing may be aligned per frame: the comparison keeps the offset that tells the two apart."""
    ball, frozen = GT[:, :1], np.broadcast_to(GT[:1, :1], GT[:, :1].shape)
    aligned = frozen + (ball - frozen).mean(2, keepdims=True)
    assert compare(aligned, ball).cd1_m.max() < 1e-9
    assert compare(frozen, ball).cd1_m[0, 1:].mean() > 0.3


def test_outliers_blow_up_a_squared_distance_and_not_a_truncated_one() -> None:
    attacked, fair = but(outliers), honest()
    d = {name: compare(points) for name, points in (("attacked", attacked), ("fair", fair))}
    squares = [
        float(np.square(np.linalg.norm(p[:, 0, :, None] - GT[:, 0, None], axis=-1).min(-1)).mean())
        for p in (attacked, fair)
    ]
    assert squares[0] > 1000 * squares[1]
    assert d["attacked"].cd1_m.mean() < 1.5 * d["fair"].cd1_m.mean()


def test_an_object_that_is_missing_has_no_finite_distance_without_tau() -> None:
    with pytest.raises(ValueError, match="give chamfer4d a finite tau_m"):
        chamfer_reward(np.array([[math.inf]]), np.ones((1, 1)), sigma_m=0.1)


def test_a_sigma_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="sigma_m must be above 0 and floor_m at least 0, got 0, 0.0"):
        chamfer_reward(np.ones((1, 1)), np.ones((1, 1)), sigma_m=0)


def test_the_reward_is_one_half_at_sigma_above_the_floor() -> None:
    weight = np.ones((1, 1))
    assert chamfer_reward(np.array([[0.25]]), weight, sigma_m=0.2, floor_m=0.05) == 0.5
    assert chamfer_reward(np.array([[0.04]]), weight, sigma_m=0.2, floor_m=0.05) == 1.0


def test_a_missing_object_costs_its_weight_and_not_its_points() -> None:
    """Objects weigh 3 and 1; the second is absent at tau = 0.9 = 9 sigma."""
    reward = chamfer_reward(np.array([[0.0, 0.9]]), np.array([[3.0, 1.0]]), sigma_m=0.1)
    assert reward == pytest.approx((3 + 0.1) / 4)


def test_a_reward_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="made up"):
        chamfer_reward(np.array([[np.nan]]), np.ones((1, 1)), sigma_m=0.1)
