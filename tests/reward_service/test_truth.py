"""Scenes that cannot be built are faults of the data, and scenes are remembered by their bytes."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from phys4d import scenes
from phys4d.reward.plugin import DataError
from phys4d.scenes.registry import draw_spec
from reward_service.config import ChamferSettings
from reward_service.scene_cache import SceneCache, num_bytes
from reward_service.scoring import RolloutChamfer, SceneChamfer, score, version_of
from reward_service.truth import build_truth


@pytest.mark.parametrize(
    ("category", "family", "path", "value"),
    [
        ("rigid", "drop", ("objects", 0, "shape"), []),
        ("rigid", "drop", ("fixtures", 0, "shape"), []),
        ("rigid", "drop", ("fixtures", 0, "texture_repeat"), None),
        ("rigid", "drop", ("camera",), None),
        ("articulated", None, ("objects", 0, "joint"), []),
        ("deformable", None, ("objects",), [{}]),
        ("thermodynamics", None, ("objects",), None),
    ],
)
def test_hostile_parameters_are_a_bad_scene(
    category: str, family: str | None, path: tuple, value: Any
) -> None:

    spec = draw_spec(category, family or scenes.families()[category][0], 1, num_frames=2)
    parameters: Any = deepcopy(spec.parameters)
    inner = parameters
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    with pytest.raises(DataError) as info:
        build_truth(replace(spec, parameters=parameters), 16, 16, 32)
    assert info.value.reason == "BAD_SCENE" and info.value.message


def test_objects_that_leave_the_image_at_once_leave_nothing_to_compare(make_truth) -> None:
    """Two frames a second apart: what was thrown at 60 m/s is far away."""
    spec = draw_spec("rigid", "projectile", 1, num_frames=2)
    parameters = deepcopy(spec.parameters)
    for entry in parameters["objects"]:
        entry["linear_velocity_m_s"] = [0.0, 0.0, 60.0]
    truth = make_truth("projectile", spec=replace(spec, parameters=parameters, fps=1.0))
    with pytest.raises(DataError) as info:
        score(replace(truth, depth=np.nan_to_num(truth.depth, nan=10.0)), ChamferSettings())
    assert info.value.reason == "NOTHING_TO_COMPARE"


def test_scores_under_other_settings_are_of_another_version() -> None:
    settings, other = ChamferSettings(), ChamferSettings(tau_m=0.5)
    assert SceneChamfer(settings).version == RolloutChamfer(settings).version == version_of(settings)
    assert SceneChamfer(other).version == version_of(other) != version_of(settings)
    assert version_of(settings).startswith("1+")


def test_scenes_are_remembered_by_their_bytes() -> None:
    cache: SceneCache[np.ndarray] = SceneCache(1000)
    made: list[int] = []

    def get(key: int, size: int) -> None:
        cache.get(key, lambda: made.append(key) or np.zeros(size, np.uint8))

    for key in (1, 2, 1, 3, 1, 2):
        get(key, 400)
    assert made == [1, 2, 3, 2] and cache.held_bytes == 800
    get(9, 5000)
    assert cache.held_bytes == 5000
    get(1, 400)
    assert cache.held_bytes == 400
    spec = draw_spec("rigid", "drop", 1, num_frames=2)
    small, large = (num_bytes(build_truth(spec, size, size, 32)) for size in (16, 256))
    assert large - small >= 9 * (256**2 - 16**2)
