"""What the scene reward thinks of perfect, broken and dishonest rollouts."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from phys4d import scenes
from phys4d.reward.plugin import DataError
from phys4d.types import Camera, Rollout, SceneSpec
from reward_service.alignment import align_depth
from reward_service.config import ChamferSettings
from reward_service.scoring import SceneChamfer, score

SETTINGS = ChamferSettings()
FAMILIES = ("drop", "collision", "ramp", "tower", "projectile")
MakeTruth = Callable[..., Rollout]


def value(rollout: Rollout, **changes) -> float:
    return score(rollout, replace(SETTINGS, **changes)).value


def reason(rollout: Rollout) -> str:
    with pytest.raises(DataError) as info:
        SceneChamfer(SETTINGS).score(rollout)
    return info.value.reason


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_simulators_own_video_scores_near_one(make_truth: MakeTruth, family: str, seed: int) -> None:
    """Not 1: points near an outline or on a spinning ball cannot be followed exactly at 64 pixels."""
    result = score(make_truth(family, seed), SETTINGS)
    assert result.value > 0.75
    assert result.components["cd_frame_m"] < 0.06
    assert result.components["missing_fraction"] < 0.3
    assert result.components["alignment_scale"] == pytest.approx(1, abs=2e-3)
    assert result.components["alignment_shift_m"] == pytest.approx(0, abs=5e-3)
    assert result.components["gain"] > 0.3


def test_a_point_that_flies_is_followed_to_within_2_cm(make_truth: MakeTruth) -> None:
    components = score(make_truth("drop"), SETTINGS).components
    assert components["track_l2_m"] < 0.02 and components["final_centroid_l2_m"] < 0.02


def test_siblings_share_one_compiled_model(make_truth: MakeTruth, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three videos of a scene that was never scored before compile one model; a changed scene is another."""
    truth, built, build = make_truth("drop", 77), [], scenes.build
    monkeypatch.setattr("reward_service.truth.scenes.build", lambda spec: built.append(spec) or build(spec))
    for name in ("a", "b", "c"):
        score(replace(truth, sample_id=name), SETTINGS)
    assert len(built) == 1
    score(replace(truth, scene=replace(truth.scene, seed=78)), SETTINGS)
    assert len(built) == 2


def attacks(truth: Rollout) -> dict[str, Rollout]:
    """Dishonest or bad variants of a perfect rollout."""
    depth, motion = np.asarray(truth.depth, np.float32), np.asarray(truth.motion, np.float32)
    on_object = truth.object_ids > 0
    jump, kick = motion.copy(), np.zeros_like(motion)
    jump[4, ..., 0] += 8
    kick[:, on_object, 0] = 500
    vanish = motion.copy()
    vanish[:, truth.object_ids == 1] = (500, 0, 0)
    growth = np.linspace(1, 1.3, len(depth))[:, None, None]
    wild = motion.copy()
    wild[:, on_object & (np.random.default_rng(0).random(on_object.shape) < 0.05)] += (30, 30, 0)
    # All points of an object are thrown onto a few cells: as many points as before, most of them twice.
    v, u = np.mgrid[: depth.shape[1], : depth.shape[2]]
    piled = motion.copy()
    piled[0, ..., 0] -= u % 8
    piled[0, ..., 1] -= v % 8
    return {
        "frozen": replace(truth, depth=np.repeat(depth[:1], len(depth), 0), motion=0 * motion),
        "frozen motion only": replace(truth, motion=0 * motion),
        "reversed direction": replace(truth, motion=-motion),
        "reversed time": replace(truth, motion=motion[::-1]),
        "half speed": replace(truth, motion=motion / 2),
        "teleported": replace(truth, motion=jump),
        "all off the image": replace(truth, motion=motion + kick),
        "one object off the image": replace(truth, motion=vanish),
        "drifting depth": replace(truth, depth=depth * growth),
        "points piled up": replace(truth, motion=piled),
        "5 % outliers on objects": replace(truth, motion=wild),
        "flat depth": replace(truth, depth=np.full_like(depth, 3.0)),
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_honest_beats_every_attack_by_a_margin(make_truth: MakeTruth, family: str) -> None:
    truth = make_truth(family)
    honest = value(truth)
    margins = {name: honest - value(attack) for name, attack in attacks(truth).items()}
    assert min(margins.values()) > 0.1, margins


@pytest.mark.parametrize("family", FAMILIES)
def test_outliers_cost_about_their_share(make_truth: MakeTruth, family: str) -> None:
    """5 % of all depth and motion 50 m and more away: strictly below honest, and not much, since distances
    are truncated; squared ones would be three orders of magnitude larger."""
    truth = make_truth(family)
    depth, motion = np.array(truth.depth, np.float32), np.array(truth.motion, np.float32)
    random = np.random.default_rng(0)
    depth[1:][random.random(depth[1:].shape) < 0.05] = 100.0
    alone = value(truth) - value(replace(truth, depth=depth))
    motion[random.random(motion.shape[:-1]) < 0.05, 2] += 50.0
    both = value(truth) - value(replace(truth, depth=depth, motion=motion))
    # Single wild pixels of depth are left out where a point is read off its four neighbours.
    assert -1e-9 < alone < both
    assert 0.05 < both < 0.2


def test_an_object_off_the_image_is_as_bad_as_tau(make_truth: MakeTruth) -> None:
    attack = attacks(make_truth("projectile"))["all off the image"]
    result = score(attack, SETTINGS)
    assert result.components["missing_fraction"] == 1.0
    assert result.components["cd1_m"] == SETTINGS.tau_m
    excess = SETTINGS.tau_m - SETTINGS.floor_m
    assert result.value == pytest.approx(1 / (1 + excess / SETTINGS.sigma_m))


def test_a_frozen_rollout_earns_the_frozen_baseline(make_truth: MakeTruth) -> None:
    """Up to the rounding of float16 depth."""
    result = score(attacks(make_truth("projectile"))["frozen"], SETTINGS)
    assert result.components["gain"] == pytest.approx(0, abs=0.01)


def test_growing_error_of_motion_costs_more_and_more(make_truth: MakeTruth) -> None:
    truth = make_truth("projectile")
    values = [value(replace(truth, motion=truth.motion * s)) for s in (1.0, 0.9, 0.7, 0.5, 0.0)]
    assert values == sorted(values, reverse=True)
    assert min(-np.diff(values)) > 0.005


@pytest.mark.parametrize(("scale", "shift_m"), [(0.6, 0.0), (1.8, 0.0), (1.2, -0.3)])
def test_scale_and_shift_of_depth_cost_nothing(make_truth: MakeTruth, scale: float, shift_m: float) -> None:
    """A head may know depth only up to these two; generated = (metric - shift) / scale."""
    truth = make_truth("drop")
    motion = np.asarray(truth.motion, np.float32) / (1, 1, scale)
    changed = replace(truth, depth=(np.asarray(truth.depth, np.float32) - shift_m) / scale, motion=motion)
    result = score(changed, SETTINGS)
    assert result.components["alignment_scale"] == pytest.approx(scale, rel=2e-3)
    assert result.components["alignment_shift_m"] == pytest.approx(shift_m, abs=5e-3)
    assert result.value == pytest.approx(value(truth), abs=0.02)


def test_the_scale_is_clamped() -> None:
    true_depth = np.linspace(2, 6, 400).reshape(20, 20)
    everywhere = np.ones((20, 20), bool)
    assert align_depth(true_depth / 5, true_depth, everywhere, fit_shift=True).scale == 2.0
    assert align_depth(true_depth * 5, true_depth, everywhere, fit_shift=False).scale == 0.5


def test_a_third_of_wild_pixels_does_not_move_the_alignment() -> None:
    true_depth = np.random.default_rng(0).uniform(2, 6, (30, 30))
    depth = true_depth.copy()
    depth[:10] = 20.0
    for fit_shift in (False, True):
        fit = align_depth(depth, true_depth, np.ones((30, 30), bool), fit_shift=fit_shift)
        assert fit.scale == pytest.approx(1, abs=0.01) and fit.shift_m == pytest.approx(0, abs=0.01)


def test_both_sources_of_depth_agree_on_the_truth(make_truth: MakeTruth) -> None:
    truth = make_truth("tower")
    assert value(truth, depth_source="carried") == pytest.approx(value(truth), abs=0.05)


def test_the_same_rollout_scores_the_same(make_truth: MakeTruth) -> None:
    truth = make_truth("collision")
    assert score(truth, SETTINGS).components == score(truth, SETTINGS).components


def with_spec(rollout: Rollout, **changes) -> Rollout:
    return replace(rollout, scene=replace(rollout.scene, **changes))


def test_input_without_sense_is_an_error_and_never_a_number(make_truth: MakeTruth) -> None:
    truth = make_truth("drop")
    depth, motion = np.asarray(truth.depth, np.float32), np.asarray(truth.motion, np.float32)
    nan_depth, zero_depth, inf_motion = depth.copy(), depth.copy(), motion.copy()
    nan_depth[3, 5, 5], zero_depth[8, 0, 0], inf_motion[2, 1, 1, 0] = np.nan, 0.0, np.inf
    moved = truth.camera.camera_from_world.copy()
    moved[0, 3] += 0.1
    camera = truth.camera.to_dict()
    expected = {
        "NON_FINITE_DEPTH": replace(truth, depth=nan_depth),
        "NON_POSITIVE_DEPTH": replace(truth, depth=zero_depth),
        "NON_FINITE_MOTION": replace(truth, motion=inf_motion),
        "WRONG_SHAPE": replace(truth, depth=depth[:8]),
        "UNKNOWN_FAMILY": with_spec(truth, family="dorp"),
        "UNKNOWN_CATEGORY": with_spec(truth, category="magic"),
        "ENGINE_MISMATCH": with_spec(truth, engine="mujoco 3.0.0"),
        "SCENE_TOO_LONG": with_spec(truth, timestep_s=1e-6),
        "UNSTABLE_SCENE": with_spec(truth, parameters={**truth.scene.parameters, "gravity_m_s2": 1e300}),
        "BAD_SCENE": with_spec(truth, parameters={**truth.scene.parameters, "objects": []}),
        "CAMERA_MISMATCH": replace(truth, camera=Camera.from_dict({**camera, "camera_from_world": moved})),
        "OBJECT_MASK_MISMATCH": replace(truth, object_ids=np.roll(truth.object_ids, 6, axis=1)),
    }
    assert {name: reason(rollout) for name, rollout in expected.items()} == {name: name for name in expected}
    zoomed = replace(truth, camera=Camera.from_dict({**camera, "fx": camera["fx"] * 1.01}))
    assert reason(zoomed) == "CAMERA_MISMATCH"
    assert reason(replace(truth, object_ids=np.full_like(truth.object_ids, 9))) == "OBJECT_MASK_MISMATCH"
    assert reason(replace(truth, object_ids=0 * truth.object_ids)) == "OBJECT_MASK_MISMATCH"


def test_a_scene_whose_objects_are_out_of_view_cannot_be_scored(make_truth: MakeTruth) -> None:
    truth = make_truth("projectile")
    parameters = SceneSpec.from_json(truth.scene.to_json()).parameters
    aside = parameters["camera"]
    aside["target_m"] = [2 * p - t for p, t in zip(aside["position_m"], aside["target_m"], strict=True)]
    spec = replace(truth.scene, parameters=parameters)
    turned = replace(
        truth,
        scene=spec,
        camera=scenes.build(spec).camera(64, 64),
        object_ids=0 * truth.object_ids,
    )
    assert reason(turned) == "NO_VISIBLE_OBJECT"


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="tau_m must be above 0"):
        ChamferSettings(tau_m=0)
    with pytest.raises(ValueError, match="min_iou"):
        ChamferSettings(min_iou=1.5)
