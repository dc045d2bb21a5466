"""Iterations of stage 3: every algorithm learns, resumes and counts what it leaves out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.models.lora_scope import least_level
from phys4d.runtime.errors import UserError
from policy.config import AlgorithmConfig, TrainConfig
from policy.monitors import pixel_statistics
from policy.rollout import Rollouts, sample
from policy.scalars import update_scalars
from policy.schedules import flow_schedule
from policy.train import check_rewards, least_trained_level
from policy.update import UpdateStats
from tests.policy.small_trainer import CONFIG, H, T, W, make_trainer


def test_an_adapter_of_window_levels_trains_and_leaves_the_last_steps_to_the_reference() -> None:
    """Windows end before position 3 of 4, so that the last step is the reference's whatever is learnt."""
    trainer = make_trainer(with_algorithm(lora_levels="window"))
    levels = [trainer.rule.schedule.model_level(i) for i in range(4)]
    assert least_level(trainer.model.transformer, "policy") == levels[2] > levels[3]
    trainer.iterate(0)
    conditioning = trainer.held_out_videos()[1]
    latents = torch.randn(len(conditioning), *trainer.model.latent_shape(T, H, W))
    for i, level in enumerate(levels):
        learnt = trainer.model.predict(latents, level, conditioning).velocity_BCThw
        with trainer.model.reference():
            given = trainer.model.predict(latents, level, conditioning).velocity_BCThw
        assert torch.equal(learnt, given) == (i == 3), i


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({}, 0.0),
        ({"lora_levels": "window"}, 0.9),
        ({"name": "diffusion_nft"}, 0.0),
    ],
)
def test_where_the_adapter_works(changes: dict[str, Any], level: float) -> None:
    """The third of eight steps with shift 3 is at .9; finished videos are noised to any level."""
    config = with_algorithm(**changes)
    assert least_trained_level(config, flow_schedule(8, shift=3.0)) == pytest.approx(level)
    with pytest.raises(ValueError, match="diffusion_nft has no windows and trains at all levels"):
        with_algorithm(lora_levels="window", name="diffusion_nft")


def with_algorithm(**changes: Any) -> TrainConfig:
    return replace(CONFIG, algorithm=replace(CONFIG.algorithm, **changes))


@pytest.mark.parametrize(
    "config",
    [
        with_algorithm(name="ddpo", inner_epochs=2),
        with_algorithm(name="grpo_guard", kl_weight=0.1),
        with_algorithm(name="diffusion_nft", nft_old_rate=0.2),
        replace(
            CONFIG,
            rollout=replace(
                CONFIG.rollout, shared_prefix=True, prompt_order="epochs", window="sliding", window_interval=1
            ),
        ),
    ],
    ids=["ddpo", "grpo_guard", "diffusion_nft", "grpo in fast mode"],
)
def test_every_algorithm_learns_and_resumes_bit_for_bit(config: TrainConfig, tmp_path: Path) -> None:
    """T17: three iterations are the same as two, a stop, and one more; also of the old policy and the EMA."""
    whole = make_trainer(config)
    rows = [whole.iterate(i) for i in range(2)]
    whole.save(tmp_path)
    rows.append(whole.iterate(2))
    resumed = make_trainer(config)
    resumed.restore(tmp_path)
    assert resumed.kl_joint_nats == rows[1]["kl_joint_nats"], "the alarm on it needs no iteration of its own"
    again = resumed.iterate(2)
    timings = {"sample_s", "wait_s", "wait_share", "update_s", "iteration_s"}
    assert {k: v for k, v in again.items() if k not in timings} == {
        k: v for k, v in rows[2].items() if k not in timings
    }
    pairs = [(whole.parameters, resumed.parameters), (whole.ema.average, resumed.ema.average)]
    if whole.old is not None and resumed.old is not None:
        pairs.append((whole.old.average, resumed.old.average))
        assert not torch.equal(whole.old.average[0], whole.parameters[0]), "the old policy lags behind"
    for first, second in pairs:
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(row["grad_norm"] > 0 and row["skipped_updates"] == 0 for row in rows)
    assert all(
        row["wait_share"] == row["wait_s"] / row["iteration_s"] and 0 < row["wait_share"] < 1 for row in rows
    )
    assert rows[2]["kl"] > 0 and rows[2]["kl_joint_nats"] > rows[2]["kl"]


def test_groups_whose_rewards_spread_less_than_their_noise_train_nothing() -> None:
    dropped = [make_trainer(with_algorithm(min_reward_spread=s)).iterate(0) for s in (1e-6, 1e3)]
    assert [row["dropped_groups"] for row in dropped] == [0, CONFIG.rollout.num_prompts]
    assert dropped[0]["grad_norm"] > 0 and dropped[1]["grad_norm"] == 0
    with pytest.raises(ValueError, match="min_reward_spread must be above 0, got 0.0"):
        AlgorithmConfig(min_reward_spread=0.0)


def test_an_update_without_terms_does_not_dilute_what_the_others_measured() -> None:
    one = UpdateStats(
        num_terms=8,
        policy_loss=0.5,
        kl=2e-3,
        ratio_max=1e-6,
        clip_fraction=0.1,
        grad_norm=1.0,
        skipped=False,
        non_finite=False,
    )
    none = replace(one, num_terms=0, policy_loss=0.0, kl=0.0, clip_fraction=0.0, grad_norm=0.0, skipped=True)
    both = update_scalars([one, none])
    assert (both["kl"], both["policy_loss"], both["clip_fraction"]) == (2e-3, 0.5, 0.1)
    assert (both["num_terms"], both["skipped_updates"], both["skipped"]) == (8, 1, 0.5)
    assert update_scalars([none, none])["kl"] == 0.0
    trainer = make_trainer(with_algorithm(min_reward_spread=1e3))
    trainer.kl_joint_nats = 5.0
    assert trainer.iterate(0)["kl_joint_nats"] == 5.0, "nothing was measured, so the last value stands"


def test_a_gradient_that_is_not_finite_is_skipped_and_counted_also_on_policy(tmp_path: Path) -> None:
    """Forward and ratio are sound, but one adapter matrix gets NaN; the first of the updates is on-policy."""
    trainer = make_trainer()
    before = [p.detach().clone() for p in trainer.parameters]
    broken = trainer.parameters[1].register_hook(lambda gradient: gradient * torch.nan)
    row = trainer.iterate(0)
    assert row["skipped_updates"] == row["non_finite"] == CONFIG.algorithm.updates_per_iteration == 2
    assert row["dropped_groups"] == 0 and row["ratio_max"] < 1e-5
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters, before, strict=True))
    assert not trainer.optimiser.state and trainer.ema.num_updates == 0
    for iteration in range(1, 4):
        trainer.iterate(iteration)
    trainer.save(tmp_path)
    again = make_trainer()
    again.restore(tmp_path)
    again.parameters[1].register_hook(lambda gradient: gradient * torch.nan)
    with pytest.raises(
        UserError, match="10 updates in a row are not finite, the last of iteration 4; train anew"
    ):
        again.iterate(4)
    broken.remove()
    row = trainer.iterate(0)
    assert row["skipped_updates"] == row["non_finite"] == 0 and row["grad_norm"] > 0
    assert trainer.non_finite_in_a_row == 0
    assert not torch.equal(trainer.parameters[1], before[1]) and trainer.ema.num_updates == 2


def test_each_group_has_a_window_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Siblings share it, the two groups of a batch need not; the first update is on-policy all the same."""
    starts = []

    def watched(*args: Any, **settings: Any) -> Rollouts:
        starts.append([w.start for w in settings["windows"]])
        return sample(*args, **settings)

    monkeypatch.setattr("policy.trainer.sample", watched)
    rollout = replace(CONFIG.rollout, num_prompts=4, prompts_per_batch=2, group_size=2)
    trainer = make_trainer(replace(CONFIG, rollout=rollout))
    rows = [trainer.iterate(i) for i in range(2)]
    assert len(starts) == 4 and all(a == b and c == d for a, b, c, d in starts)
    assert any(a != c for a, _, c, _ in starts) and {start for batch in starts for start in batch} == {0, 1}
    assert all(row["grad_norm"] > 0 and row["skipped_updates"] == 0 for row in rows)


def test_trls_sampler_visits_every_prompt_once_an_epoch() -> None:
    config = replace(CONFIG, rollout=replace(CONFIG.rollout, prompt_order="epochs"))
    trainer = make_trainer(config)
    drawn = [trainer.prompts_of(iteration, None) for iteration in range(4)]  # pyright: ignore
    assert sorted(drawn[0] + drawn[1]) == sorted(drawn[2] + drawn[3]) == [0, 1, 2, 3]


def test_the_kl_of_one_step_tells_that_of_the_window() -> None:
    """The first step of a window is the noisiest, so its KL is the least."""
    measured = {}
    for weight in (0.0, 1e-9):
        trainer = make_trainer(with_algorithm(kl_weight=weight, learning_rate=0.05))
        trainer.iterate(0)
        measured[weight] = trainer.iterate(1)["kl_joint_nats"]
    assert measured[0.0] == pytest.approx(measured[1e-9], rel=0.15)


def test_a_run_does_not_go_on_with_another_reward(tmp_path: Path) -> None:
    """The endpoint may change; what it offers under the name, or in its first place, may not."""
    noted = {"base model": "4f1c", "reward first": "scene_chamfer 1+4f1c22d0"}
    (tmp_path / "origin.json").write_text(json.dumps(noted))
    check_rewards(tmp_path, {"reward first": "scene_chamfer 1+4f1c22d0"})
    told = "reward first was scene_chamfer 1.4f1c22d0 and is smooth 2.* scores do not compare; serve those"
    with pytest.raises(UserError, match=told):
        check_rewards(tmp_path, {"reward first": "smooth 2"})
    with pytest.raises(UserError, match="reward other was not noted and is smooth 2"):
        check_rewards(tmp_path, {"reward other": "smooth 2"})


def test_monitors_look_at_the_same_videos_every_time(tmp_path: Path) -> None:
    trainer = make_trainer()
    first, second = trainer.watch(trainer.held_out_videos()), trainer.watch(trainer.held_out_videos())
    assert (
        first == second
        and first["held_out_failed_fraction"] == 0.0
        and set(pixel_statistics(np.zeros((1, 3, 4, 4, 3)))) <= set(first)
    )
    assert {"unique_points", "coverage"} <= set(first)
    silenced = make_trainer(CONFIG, "silent")
    seen = silenced.watch(silenced.held_out_videos())
    assert seen["held_out_failed_fraction"] == 1.0 and "held_out_reward" not in seen
    assert silenced.evaluate() == {"val_failed_fraction": 1.0}
    picture = trainer.write_picture(tmp_path / "videos.png", trainer.held_out_videos())
    assert picture.stat().st_size > 1000
