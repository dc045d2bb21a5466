"""What the reward on every frame's surfaces thinks of perfect, broken and dishonest rollouts."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from phys4d import scenes
from phys4d.reward.plugin import DataError
from phys4d.scenes.annotations import annotate
from phys4d.scenes.registry import CATEGORIES, sample_scene
from phys4d.types import Rollout, Score
from reward_service import surface
from reward_service.config import ChamferSettings, SurfaceSettings
from reward_service.scoring import SceneChamfer
from reward_service.surface import SurfaceChamfer
from reward_service.truth import rebuild

CHAMFER, SURFACE = ChamferSettings(), SurfaceSettings()
FAMILIES = ("drop", "collision", "ramp", "tower", "projectile")
FIRST = [(category, names[0]) for category, names in scenes.families().items()]
MakeTruth = Callable[..., Rollout]


def score(rollout: Rollout, **changes) -> Score:
    return SurfaceChamfer(CHAMFER, replace(SURFACE, **changes)).score(rollout)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_simulators_own_video_scores_one(make_truth: MakeTruth, family: str, seed: int) -> None:
    """Up to the rounding of float16."""
    result = score(make_truth(family, seed))
    assert result.value > 0.99
    assert result.components["area_ratio"] == pytest.approx(1, abs=0.02)
    assert result.components["missing_frames_fraction"] == 0
    assert result.components["depth_warp_m"] < 0.02
    assert result.components["gain"] > 0.1


@pytest.mark.parametrize(("category", "family"), FIRST)
def test_every_category_is_seen(category: str, family: str) -> None:
    scene, trajectory = sample_scene(category, family, 0)
    camera = scene.camera(64, 64)
    truth = annotate(scene, trajectory, camera)
    rollout = Rollout(
        sample_id="truth",
        scene=scene.spec,
        camera=camera,
        depth=np.nan_to_num(truth.depth, nan=100.0),
        motion=truth.motion,
        object_ids=truth.object_ids[0],
    )
    result = score(rollout)
    assert result.value > 0.99
    assert CATEGORIES[category].still or result.components["gain"] > 0


def with_second_object(truth: Rollout) -> Rollout:
    """From frame 1 on what is at the object's place is also seen half an image to the side, as far away."""
    depth = np.array(truth.depth)
    width = depth.shape[2]
    empty = np.maximum.reduce(depth)
    nearer = depth[1:] < empty - SURFACE.margin_m
    other = np.roll(depth[1:], width // 2, axis=2)
    shown = np.roll(nearer, width // 2, axis=2)
    depth[1:][shown] = np.minimum(depth[1:], other)[shown]
    return replace(truth, depth=depth)


def grown(truth: Rollout) -> Rollout:
    """From frame 1 on all that is near reaches four pixels further."""
    depth = np.array(truth.depth)
    for frame in depth[1:]:
        for axis in (0, 1):
            frame[:] = np.minimum.reduce([np.roll(frame, shift, axis) for shift in range(-4, 5)])
    return replace(truth, depth=depth)


def absent(truth: Rollout) -> Rollout:
    depth = np.array(truth.depth)
    depth[1:] = 100.0
    return replace(truth, depth=depth)


def held_before_the_camera(truth: Rollout) -> Rollout:
    depth = np.array(truth.depth)
    depth[1:] = depth.min()
    return replace(truth, depth=depth)


def frozen(truth: Rollout) -> Rollout:
    return replace(truth, depth=np.repeat(truth.depth[:1], len(truth.depth), 0), motion=0 * truth.motion)


def reversed_time(truth: Rollout) -> Rollout:
    return replace(truth, depth=np.concatenate([truth.depth[:1], truth.depth[:0:-1]]))


ATTACKS = (with_second_object, grown, absent, held_before_the_camera, frozen, reversed_time)


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("family", FAMILIES)
def test_honest_beats_every_attack_by_a_margin(make_truth: MakeTruth, family: str, attack) -> None:
    truth = make_truth(family)
    assert score(truth).value - score(attack(truth)).value > 0.05


def test_what_a_video_adds_is_seen_here_only(make_truth: MakeTruth) -> None:
    """`scene_chamfer` follows points of frame 0 and looks nowhere else."""
    truth = make_truth("projectile")
    followed = SceneChamfer(CHAMFER)
    added = with_second_object(truth)
    assert followed.score(added).value == pytest.approx(followed.score(truth).value, abs=0.01)
    assert score(truth).value - score(added).value > 0.2
    assert score(added).components["area_ratio"] > 1.5


def test_a_frame_without_an_object_is_as_bad_as_tau(make_truth: MakeTruth) -> None:
    result = score(absent(make_truth("drop")))
    assert result.components["missing_frames_fraction"] == 1
    assert result.components["surface_cd_m"] == SURFACE.tau_m
    excess = SURFACE.tau_m - SURFACE.floor_m
    assert result.value == pytest.approx(1 / (1 + excess / SURFACE.sigma_m))


def test_what_shows_after_the_last_object_has_left_is_as_bad_as_tau(make_truth: MakeTruth) -> None:
    """Both balls leave the picture before the middle of the video."""
    spec = scenes.sample_spec("rigid", "collision", 6, num_frames=49)
    truth = make_truth("collision", spec=spec)
    first, _ = rebuild(spec, 64, 64, CHAMFER.max_points)
    shown = np.unique(surface.see(first, 49, SURFACE).frame_id)
    gone = np.setdiff1d(np.arange(49), shown)
    assert len(gone) > 10
    depth = np.array(truth.depth)
    depth[gone] = 1.0
    honest, wall = score(truth), score(replace(truth, depth=depth))
    assert honest.value > 0.99
    lost = 1 - 1 / (1 + (SURFACE.tau_m - SURFACE.floor_m) / SURFACE.sigma_m)
    assert honest.value - wall.value == pytest.approx(lost * len(gone) / 48, abs=0.01)
    assert wall.components["area_ratio"] > 2
    assert wall.components["missing_frames_fraction"] == 0


def test_errors_are_those_of_their_definition() -> None:
    """Frame by frame: half as deep a wall, one point of two, too much, missing, and rightly nothing."""
    at = {x: (x, 0.0, 1.0) for x in (0.0, 0.1, 0.3)}
    pred = {0: [0.0], 1: [0.1], 2: [0.0, 0.3], 3: [0.0], 4: [], 5: []}
    true = {0: [0.0], 1: [0.0], 2: [0.0], 3: [], 4: [0.3], 5: []}
    clouds = []
    for points in (pred, true):
        clouds.append(np.array([at[x] for xs in points.values() for x in xs]))
        clouds.append(np.repeat(np.arange(6), [len(xs) for xs in points.values()]))
    errors = surface._compare(*clouds, 6, SURFACE)
    np.testing.assert_allclose(errors.acc_m, [0.1, 0.15, 0.5, 0.5, 0.0])
    np.testing.assert_allclose(errors.comp_m, [0.1, 0.0, 0.0, 0.5, 0.0])
    np.testing.assert_allclose(errors.cd_m, [0.1, 0.075, 0.5, 0.5, 0.0])


def test_points_are_where_the_rays_of_their_pixels_hit() -> None:
    """A picture that is wider than high, and an object that is not in its middle."""
    spec = scenes.sample_spec("rigid", "projectile", 0)
    first, _ = rebuild(spec, 80, 48, CHAMFER.max_points)
    seen = surface.see(first, spec.num_frames, replace(SURFACE, max_rays=80 * 48))
    camera, expected = first.camera, []
    trajectory = scenes.simulate(first.scene)
    for frame in range(spec.num_frames):
        depth, ids = scenes.raycast(first.scene, trajectory, frame, camera)[:2]
        for row, column in zip(*np.nonzero((ids > 0) & (depth < seen.limit_m)), strict=True):
            x = (column + 0.5 - camera.cx) / camera.fx
            y = (row + 0.5 - camera.cy) / camera.fy
            expected.append(depth[row, column] * np.array([x, y, 1.0]))
    assert len(expected) > 100
    np.testing.assert_allclose(seen.points_m, expected, atol=1e-9)


@pytest.mark.parametrize(
    ("height", "width", "max_rays"),
    [(48, 64, 4096), (170, 215, 4096), (480, 848, 4096), (1000, 10, 1), (7, 5, 6)],
)
def test_pixels_are_spread_over_the_picture_and_not_too_many(height: int, width: int, max_rays: int) -> None:
    rows, columns = surface.lattice(height, width, max_rays)
    assert 0 < len(rows) * len(columns) <= max_rays
    for chosen, size in ((rows, height), (columns, width)):
        assert chosen[0] >= 0 and chosen[-1] < size
        assert abs(chosen.mean() - (size - 1) / 2) <= max(1, np.diff(chosen, prepend=0).max() / 2)
    if height * width <= max_rays:
        assert len(rows) * len(columns) == height * width


def test_settings_of_the_motion_rewards_do_not_change_its_version() -> None:
    version = SurfaceChamfer(CHAMFER, SURFACE).version
    assert SurfaceChamfer(replace(CHAMFER, tau_m=2.0, fit_frames=5), SURFACE).version == version
    assert SurfaceChamfer(replace(CHAMFER, fit_shift=False), SURFACE).version != version


def test_a_margin_that_hides_all_objects_is_told(make_truth: MakeTruth) -> None:
    with pytest.raises(DataError, match=r"no object is 50.0 m before .* surface.margin_m, .*lower it"):
        score(make_truth("drop"), margin_m=50.0)


def test_a_frozen_rollout_earns_the_frozen_baseline(make_truth: MakeTruth) -> None:
    for family in FAMILIES:
        assert score(frozen(make_truth(family))).components["gain"] == pytest.approx(0, abs=0.01)


def test_depth_in_other_units_is_aligned_first(make_truth: MakeTruth) -> None:
    truth = make_truth("collision")
    other = replace(truth, depth=np.asarray(truth.depth, np.float64) * 0.7 + 0.2)
    assert score(other).value == pytest.approx(score(truth).value, abs=0.01)


def test_fewer_rays_tell_about_the_same(make_truth: MakeTruth) -> None:
    truth = make_truth("tower")
    attack = reversed_time(truth)
    assert score(truth, max_rays=1024).value > 0.99
    assert score(attack, max_rays=1024).value == pytest.approx(score(attack).value, abs=0.05)
    assert score(truth).scorer_version != score(truth, max_rays=1024).scorer_version


def test_siblings_share_one_look_at_the_scene(make_truth: MakeTruth, monkeypatch: pytest.MonkeyPatch) -> None:
    truth, looked, see = make_truth("drop", 78), [], surface.see
    monkeypatch.setattr(surface, "see", lambda *given: looked.append(given) or see(*given))
    values = {score(replace(truth, sample_id=name)).value for name in ("a", "b", "c")}
    assert len(values) == 1 and len(looked) == 1
    score(replace(truth, scene=replace(truth.scene, seed=79)))
    assert len(looked) == 2


def test_what_cannot_be_read_is_a_data_error(make_truth: MakeTruth) -> None:
    truth = make_truth("drop")
    depth = np.array(truth.depth)
    depth[2, 0, 0] = np.nan
    with pytest.raises(DataError) as info:
        score(replace(truth, depth=depth))
    assert info.value.reason == "NON_FINITE_DEPTH"


@pytest.mark.parametrize("settings", [SURFACE, CHAMFER])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"tau_m": 0.0}, "tau_m must be above 0 and finite, got 0.0"),
        ({"tau_m": np.inf}, "tau_m must be above 0 and finite, got inf"),
        ({"sigma_m": np.inf}, "sigma_m must be above 0 and finite"),
        ({"sigma_m": np.nan}, "sigma_m must be above 0 and finite"),
        ({"floor_m": -0.1}, "floor_m must be at least 0"),
        ({"floor_m": np.nan}, "floor_m must be at least 0"),
        ({"floor_m": 0.3, "tau_m": 0.3}, "below tau_m, 0.3, got 0.3; .* a missing object earns"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: object, changes: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(settings, **changes)


@pytest.mark.parametrize("changes", [{"max_rays": 0}, {"margin_m": -1.0}])
def test_settings_of_its_own_are_checked(changes: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        replace(SURFACE, **changes)
