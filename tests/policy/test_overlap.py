"""Sampling, scoring and updating beside each other, on-policy and one step off-policy."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from policy.config import AlgorithmConfig, RolloutConfig
from policy.rollout import Rollouts, sample
from policy.update import UpdateStats, update_policy
from tests.policy.small_trainer import CONFIG, brightness, make_trainer

second_is_sampled = threading.Event()


def patient(completions: list[np.ndarray]) -> list[float]:
    assert second_is_sampled.wait(30), "nothing is sampled while rewards are computed"
    time.sleep(0.5)
    return brightness(completions)


def test_the_trainer_samples_on_while_rewards_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is scored only once the second has been sampled, and the wait is what is left then."""
    trainer = make_trainer(CONFIG, f"{__name__}:patient")
    sampled: list[Rollouts] = []

    def watched(*args: Any, **settings: Any) -> Rollouts:
        sampled.append(sample(*args, **settings))
        if len(sampled) == 2:
            second_is_sampled.set()
        return sampled[-1]

    second_is_sampled.clear()
    monkeypatch.setattr("policy.trainer.sample", watched)
    row = trainer.iterate(0)
    assert len(sampled) == 2 and row["failed_fraction"] == 0
    # Two batches of half a second, one after the other, when nothing is left to sample.
    assert 0.4 < row["wait_s"] < row["iteration_s"]


OFF_POLICY = replace(CONFIG, num_iterations=3, rollout=replace(CONFIG.rollout, one_step_off_policy=True))


def test_one_step_off_policy_videos_are_sampled_by_the_weights_before_the_last_update(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer = make_trainer(OFF_POLICY)
    sampled_by: list[torch.Tensor] = []

    def watched(*args: Any, **settings: Any) -> Rollouts:
        sampled_by.append(trainer.parameters[1].detach().clone())
        return sample(*args, **settings)

    monkeypatch.setattr("policy.trainer.sample", watched)
    before, gaps = [], []
    for iteration in range(3):
        before.append(trainer.parameters[1].detach().clone())
        gaps.append(trainer.iterate(iteration)["ratio_max"])
    assert not torch.equal(before[0], before[1]) and not torch.equal(before[1], before[2])
    # Two batches each; nothing is sampled for a fourth iteration.
    expected = [before[0]] * 4 + [before[1]] * 2
    assert len(sampled_by) == 6
    assert all(torch.equal(a, b) for a, b in zip(sampled_by, expected, strict=True))
    assert min(gaps[1:]) > 1e-4, "the ratio tells how far the policy has moved since"
    with pytest.raises(ValueError, match="diffusion_nft has no ratio that makes up for older videos"):
        replace(OFF_POLICY, algorithm=AlgorithmConfig(name="diffusion_nft"))


@pytest.mark.parametrize("rollout", [CONFIG.rollout, OFF_POLICY.rollout])
def test_a_restored_trainer_goes_on_to_the_same_bits(rollout: RolloutConfig, tmp_path: Path) -> None:
    """What was sampled ahead is lost with the process and sampled again; more iterations may be asked for."""
    config = replace(OFF_POLICY, rollout=rollout)
    whole = make_trainer(config)
    rows = [whole.iterate(iteration) for iteration in range(3)]
    first = make_trainer(replace(config, num_iterations=2))
    for iteration in range(2):
        first.iterate(iteration)
    first.rewards.count_on([(2, 5)])
    first.save(tmp_path)
    second = make_trainer(config)
    second.restore(tmp_path)
    row = second.iterate(2)
    assert (row["reward_outages"], row["rollouts_resent"]) == (2, 5), "counts are of the whole run"
    assert row["reward_mean"] == rows[2]["reward_mean"] and row["ratio_max"] == rows[2]["ratio_max"]
    assert all(torch.equal(a, b) for a, b in zip(second.parameters, whole.parameters, strict=True))


update_has_begun = threading.Event()


def later(completions: list[np.ndarray], sample_ids: list[str]) -> list[float]:
    if sample_ids[0].startswith("iteration-1/"):
        assert update_has_begun.wait(30), "the first update waits for the second sampling's rewards"
    return brightness(completions)


def test_one_step_off_policy_rewards_are_computed_during_the_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """Iteration 1 is under way at the service when iteration 0 is differentiated."""
    trainer = make_trainer(OFF_POLICY, f"{__name__}:later")

    def watched(*args: Any, **settings: Any) -> UpdateStats:
        update_has_begun.set()
        return update_policy(*args, **settings)

    update_has_begun.clear()
    monkeypatch.setattr("policy.trainer.update_policy", watched)
    assert [trainer.iterate(i)["failed_fraction"] for i in range(2)] == [0, 0]
