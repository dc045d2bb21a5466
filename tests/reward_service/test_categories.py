"""The scene reward on every category: re-simulated, fair to the truth, hard on what stands still."""

from dataclasses import replace

import numpy as np
import pytest

from phys4d import scenes
from phys4d.reward.plugin import DataError
from phys4d.scenes.annotations import annotate
from phys4d.scenes.registry import CATEGORIES, draw_spec, sample_scene
from phys4d.types import Rollout
from reward_service.config import ChamferSettings
from reward_service.scoring import score

FIRST = [(category, names[0]) for category, names in scenes.families().items() if category != "rigid"]
"""Rigid families have tests of their own."""


@pytest.mark.parametrize(("category", "family"), FIRST)
def test_the_simulators_own_video_beats_one_that_stands_still(category: str, family: str) -> None:
    scene, trajectory = sample_scene(category, family, 0)
    camera = scene.camera(64, 64)
    truth = annotate(scene, trajectory, camera)
    # A ray that meets nothing has no depth; a generated video has some everywhere.
    depth = np.nan_to_num(truth.depth, nan=10.0)
    rollout = Rollout(
        sample_id="truth",
        scene=scene.spec,
        camera=camera,
        depth=depth,
        motion=truth.motion,
        object_ids=truth.object_ids[0],
    )
    honest = score(rollout, ChamferSettings())
    assert honest.simulator == CATEGORIES[category].engine()
    still = replace(rollout, depth=np.repeat(depth[:1], len(depth), 0), motion=0 * truth.motion)
    frozen = score(still, ChamferSettings())
    assert honest.value > 0.6
    assert honest.components["track_l2_m"] < 0.1
    # Where heat flows nothing need move.
    assert CATEGORIES[category].still or honest.value > frozen.value + 0.05


def test_a_scene_of_another_engine_is_refused_for_every_category() -> None:
    for category, family in FIRST:
        spec = draw_spec(category, family, 1, num_frames=2)
        camera = scenes.build(spec).camera(16, 16)
        rollout = Rollout(
            sample_id="x",
            scene=replace(spec, engine="another 1.0"),
            camera=camera,
            depth=np.ones((2, 16, 16)),
            motion=np.zeros((1, 16, 16, 3)),
            object_ids=np.zeros((16, 16), np.uint8),
        )
        with pytest.raises(DataError, match="this service has") as info:
            score(rollout, ChamferSettings())
        assert info.value.reason == "ENGINE_MISMATCH"
