"""Reward functions of TRL's kind behind our plug-in protocol."""

import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from phys4d.reward.callables import CallableReward
from phys4d.reward.plugin import DataError, load_reward
from phys4d.types import Camera, Failure, Outcome, Rollout, SceneSpec

RED = np.zeros((3, 6, 8, 3), np.uint8)
RED[..., 0] = 255


def rollouts(number: int = 2, rgb: np.ndarray | None = RED) -> list[Rollout]:
    base = Rollout(
        sample_id="",
        scene=SceneSpec(category="rigid", family="drop", seed=0, parameters={}, num_frames=3, fps=12.0),
        camera=Camera(fx=9.0, fy=9.0, cx=4.0, cy=3.0, width=8, height=6, camera_from_world=np.eye(4)),
        depth=np.ones((3, 6, 8), np.float16),
        motion=np.zeros((2, 6, 8, 3), np.float16),
        object_ids=np.ones((6, 8), np.uint8),
        rgb=rgb,
        text="a red wall",
    )
    return [replace(base, sample_id=f"s{i}") for i in range(number)]


def redness(prompts, completions, **kwargs):
    """As TRL would call it."""
    assert prompts == ["a red wall"] * len(completions) and kwargs["sample_ids"][0] == "s0"
    return [float((c[..., 0] / 255).mean() * (i + 1)) for i, c in enumerate(completions)]


def reasons(outcomes: list[Outcome]) -> list[str]:
    return [o.result.reason if isinstance(o.result, Failure) else "" for o in outcomes]


def test_a_function_scores_all_videos_in_one_call() -> None:
    outcomes = CallableReward(redness).score_all(rollouts())
    assert [o.score.value for o in outcomes if o.score] == [1.0, 2.0]
    assert [o.sample_id for o in outcomes] == ["s0", "s1"]


def test_a_function_gets_what_it_names_and_may_be_a_coroutine() -> None:
    async def later(completions):
        return [0.25 for _ in completions]

    assert CallableReward(later).score(rollouts(1)[0]).value == 0.25


def test_what_is_no_number_is_a_failure_with_a_reason() -> None:
    mixed = CallableReward(lambda completions: [None, math.nan][: len(completions)])
    assert reasons(mixed.score_all(rollouts())) == ["NOT_APPLICABLE", "NON_FINITE_REWARD"]
    with pytest.raises(DataError, match="NOT_APPLICABLE"):
        mixed.score(rollouts(1)[0])
    short = CallableReward(lambda completions: [1.0])
    assert reasons(short.score_all(rollouts())) == ["REWARD_RAISED", "REWARD_RAISED"]
    assert reasons(CallableReward(redness).score_all(rollouts(rgb=None))) == ["NO_RGB", "NO_RGB"]


def test_a_service_loads_one_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rewards.py").write_text("def half(completions):\n    return [0.5 for _ in completions]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    reward = load_reward("phys4d.reward.callables:CallableReward(function='my_rewards:half', version='2')")
    assert (reward.name, reward.version) == ("half", "2")
    assert reward.score(rollouts(1)[0]).value == 0.5
    del sys.modules["my_rewards"]
    for target, message in (
        ("my_rewards:whole", "has no function whole"),
        ("my_reward:half", "is it installed or in the working folder"),
        ("half", "named package.module:function, got 'half'"),
    ):
        with pytest.raises(ValueError, match=message):
            CallableReward(target)
