"""What the pixel reward thinks of the simulated video and of dishonest ones."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import cv2
import numpy as np
import pytest

from phys4d import scenes
from phys4d.reward.plugin import DataError
from phys4d.scenes.rgb import RgbRenderer
from phys4d.types import Rollout
from reward_service.config import ServiceConfig
from reward_service.rewards import make_rewards
from reward_service.scene_motion import SceneMotion

SIZE = 64
MakeTruth = Callable[..., Rollout]


def filmed(rollout: Rollout) -> Rollout:
    """The rollout with the scene's video, drawn by a renderer of its own."""
    scene = scenes.build(rollout.scene)
    trajectory = scenes.simulate(scene)
    renderer = RgbRenderer(width=SIZE, height=SIZE, num_frames=rollout.scene.num_frames)
    return replace(rollout, rgb=renderer.render(scene, trajectory))


@pytest.fixture(scope="module")
def honest(make_truth: MakeTruth) -> Rollout:
    return filmed(make_truth("projectile", size=SIZE))


def attacks(video: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Dishonest variants of the true video."""
    background = video[0].copy()
    background[ids > 0] = np.median(video[0][ids == 0], axis=0).astype(np.uint8)
    moving = (np.abs(video.astype(int) - background).max(-1) > 24).astype(np.uint8)
    grown = video.copy()
    ghost = video.copy()
    for frame, mask in enumerate(moving):
        if frame == 0:
            continue
        larger = cv2.dilate(mask, np.ones((9, 9), np.uint8)).astype(bool)
        grown[frame][larger] = np.median(video[frame][mask > 0], axis=0).astype(np.uint8)
        ghost[frame] = np.where(
            np.roll(mask, 16, 1)[..., None] > 0, np.roll(video[frame], 16, 1), ghost[frame]
        )
    noise = np.random.default_rng(0).normal(0, 40, video.shape)
    return {
        "frozen": np.repeat(video[:1], len(video), 0),
        "reversed": video[::-1].copy(),
        "half speed": video[np.arange(len(video)) // 2],
        "vanished": np.concatenate([video[:1], np.repeat(background[None], len(video) - 1, 0)]),
        "grown": grown,
        "there twice": ghost,
        "flickering": np.clip(video + noise, 0, 255).astype(np.uint8),
        "dimmed": (video * np.linspace(1, 0.3, len(video))[:, None, None, None]).astype(np.uint8),
    }


def test_the_simulated_video_scores_1_and_every_attack_well_below(honest: Rollout) -> None:
    """Growth and a second object leave the points that are followed where they are, but not the pixels."""
    reward = SceneMotion()
    best = reward.score(honest)
    assert best.value == 1.0
    assert best.components == {"s_iou": 1.0, "ws_iou": 1.0, "st_iou": 1.0, "mse": 0.0}
    assert honest.rgb is not None
    false = attacks(honest.rgb, honest.object_ids)
    values = {name: reward.score(replace(honest, rgb=video)).value for name, video in false.items()}
    assert max(values.values()) < 0.85, values
    assert values["frozen"] < 0.2 and values["vanished"] < 0.4, values


def test_threads_draw_scenes_one_after_the_other_and_to_the_same_bits(make_truth: MakeTruth) -> None:
    rollouts = [filmed(make_truth(family, 91, size=SIZE)) for family in ("drop", "ramp", "collision")] * 2
    with ThreadPoolExecutor(6) as pool:
        assert [score.value for score in pool.map(SceneMotion().score, rollouts)] == [1.0] * 6


def test_a_rollout_without_pixels_or_with_others_is_refused(honest: Rollout) -> None:
    assert honest.rgb is not None
    for rgb, reason in (
        (None, "NO_RGB: scene_motion compares pixels, the rollout has none; send rgb"),
        (honest.rgb[:-1], r"WRONG_SHAPE: rgb must be uint8 \(\d+, 64, 64, 3\) .* got uint8"),
        (honest.rgb.astype(np.float32), "WRONG_SHAPE: .* got float32"),
    ):
        with pytest.raises(DataError, match=reason):
            SceneMotion().score(replace(honest, rgb=rgb))
    with pytest.raises(DataError, match="UNKNOWN_FAMILY"):
        SceneMotion().score(replace(honest, scene=replace(honest.scene, family="perpetuum mobile")))


def test_a_service_offers_it_beside_the_built_in_rewards() -> None:
    rewards = make_rewards(ServiceConfig(rewards=("reward_service.scene_motion:SceneMotion",)))
    assert list(rewards) == ["scene_chamfer", "rollout_chamfer", "scene_motion"]
