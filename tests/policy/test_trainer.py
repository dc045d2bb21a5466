"""The whole loop in one process, on an untrained tiny Wan and a reward function; and the look before it."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from phys4d.models.heads import GeometryHeads
from phys4d.models.lora import add_lora
from phys4d.models.lora_scope import least_level, limit_to_levels
from phys4d.models.protocol import Conditioning
from phys4d.models.wan import tiny_wan
from phys4d.runtime.errors import UserError
from phys4d.training import Ema
from phys4d.types import Camera, SceneSpec
from policy.algorithms import has_old_policy
from policy.config import AlgorithmConfig, MemoryConfig, RewardConfig, RolloutConfig, TrainConfig
from policy.monitors import Monitors, pixel_statistics
from policy.preflight import note_skipped, preflight
from policy.prompts import load_prompts
from policy.ranks import Ranks
from policy.reading import Reader
from policy.rewards import Rewards
from policy.rollout import Rollouts, sample, sampling_rule
from policy.schedules import flow_schedule
from policy.train import check_rewards, least_trained_level
from policy.trainer import OldPolicy, Trainer, update_scalars
from policy.update import UpdateStats, update_policy

T, H, W = 5, 32, 32
CAPTIONS = ["a red ball falls from rest", "a blue box slides left at 1.25", "a ball", "a box"]
CONFIG = TrainConfig(
    rollout=RolloutConfig(num_prompts=2, prompts_per_batch=1, group_size=3, num_steps=4, window_end=3),
    algorithm=AlgorithmConfig(lora_rank=2, learning_rate=0.01),
)


def brightness(completions: list[np.ndarray], **_: object) -> list[float]:
    return [float(c[1:].mean()) / 255 for c in completions]


def silent(completions: list[np.ndarray], **_: object) -> list[None]:
    return [None] * len(completions)


calls = [0]


def fickle(completions: list[np.ndarray], **_: object) -> list[float]:
    calls[0] += 1
    return [float(calls[0])] * len(completions)


def dataset() -> Any:
    """Four scenes; what a dataset's samples have that prompts need."""
    rng = np.random.default_rng(0)
    camera = Camera(fx=9.0, fy=9.0, cx=16.0, cy=16.0, width=W, height=H, camera_from_world=np.eye(4))
    scene = SceneSpec(category="rigid", family="drop", seed=0, parameters={}, num_frames=T, fps=12.0)
    ids = np.zeros((T, H, W), np.uint8)
    ids[:, 8:16, 8:16] = 1
    return [
        SimpleNamespace(
            key=f"{i:06d}",
            caption=caption,
            spec=scene,
            camera=camera,
            object_ids=ids,
            rgb=rng.integers(0, 255, (T, H, W, 3), np.uint8),
        )
        for i, caption in enumerate(CAPTIONS)
    ]


def make_trainer(config: TrainConfig = CONFIG, *rewards: str) -> Trainer:
    torch.manual_seed(0)
    model = tiny_wan(CAPTIONS, width=32, num_layers=3).eval()
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.2)
    heads = GeometryHeads(**(model.head_sizes | {"channels": 16})).eval()
    parameters = add_lora(model.transformer, "policy", rank=2, targets=model.lora_targets)
    rollout = config.rollout
    sources = {f"{__name__}:{reward}": 1.0 for reward in rewards or ("brightness",)}
    rule = sampling_rule(
        model,
        rollout.num_steps,
        shift=rollout.shift,
        sampler=rollout.sampler,
        noise_level=rollout.noise_level,
    )
    limit_to_levels(model.transformer, "policy", least_trained_level(config, rule.schedule))
    return Trainer(
        config=config,
        model=model,
        reader=Reader(model, heads, None),
        rewards=Rewards(RewardConfig(sources=sources), ""),
        dataset=dataset(),
        held_out=load_prompts(dataset(), range(2)),
        rule=rule,
        parameters=parameters,
        optimiser=torch.optim.AdamW(parameters, config.algorithm.learning_rate),
        ema=Ema(parameters, 0.9),
        ranks=Ranks.alone(),
        watcher=Reader(model, heads, None),
        old=OldPolicy(parameters, 0.0) if has_old_policy(config) else None,
    )


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


def test_a_sound_run_passes_the_look_before_it_and_is_left_as_it_was(tmp_path: Path) -> None:
    trainer = make_trainer()
    before, state = [p.detach().clone() for p in trainer.parameters], torch.get_rng_state()
    checks = preflight(trainer, tmp_path)
    names = ["conditioning", "replay", "ratio", "gradient", "memory", "reward", "monitors"]
    assert [c.name for c in checks] == names
    told = "the reward of these videos is the same by either reader, so none may be held out"
    assert checks[-1].found == told, "it sees pixels"
    assert all(torch.equal(a, b) for a, b in zip(trainer.parameters, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert json.loads((tmp_path / "preflight.json").read_text())["checks"][3]["passed"]
    note_skipped(tmp_path)
    assert json.loads((tmp_path / "preflight.json").read_text())["skipped"]


def test_each_fault_is_found_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="pre-flight failed .reward: the same rollout earns 1.0 and then 2.0"):
        preflight(make_trainer(CONFIG, "fickle"), tmp_path)
    with pytest.raises(UserError, match="reward: no score of silent: DATA NOT_APPLICABLE"):
        preflight(make_trainer(CONFIG, "brightness", "silent"), tmp_path)

    trainer = make_trainer()
    unused = torch.nn.Parameter(torch.zeros(2, 2))
    trainer.model.transformer.register_parameter("unused", unused)
    trainer.parameters.append(unused)
    with pytest.raises(UserError, match=r"gradient: reaches \d+ of \d+ adapter matrices, not unused"):
        preflight(trainer, tmp_path)

    rollout = replace(CONFIG.rollout, group_size=3_000_000)
    with pytest.raises(UserError, match="memory: .* MiB beside weights .* MiB free.*--skip-preflight"):
        preflight(make_trainer(replace(CONFIG, rollout=rollout)), tmp_path)

    trainer = make_trainer(replace(CONFIG, memory=MemoryConfig(cache=tmp_path / "cache")))
    encode_text = trainer.model.encode_text
    monkeypatch.setattr(
        trainer.model, "encode_text", lambda texts: (e := encode_text(texts)) + 1e-6 * torch.randn_like(e)
    )
    with pytest.raises(UserError, match="conditioning: another hash when encoded again"):
        preflight(trainer, tmp_path)
    monkeypatch.setattr(trainer.model, "encode_text", lambda texts: -encode_text(texts))
    with pytest.raises(UserError, match="conditioning: sampling saw one that differs"):
        preflight(trainer, tmp_path)
    trainer = make_trainer()
    with monkeypatch.context() as patch:
        # The prompts in turn, where the siblings of each should be next to one another.
        patch.setattr(Conditioning, "repeat", lambda c, times: c.select(torch.arange(len(c)).repeat(times)))
        with pytest.raises(UserError, match="conditioning: siblings are not sampled from their own prompt"):
            preflight(trainer, tmp_path)

    trainer = make_trainer()
    trainer.watcher = None
    with pytest.raises(UserError, match="monitors: no depth estimator in .*estimator to read a held-out"):
        preflight(trainer, tmp_path)

    trainer = make_trainer()
    trainer.parameters[1].data.fill_(torch.nan)
    with pytest.raises(UserError, match="replay: log-probabilities differ by nan; ratio: 1 to within nan"):
        preflight(trainer, tmp_path)

    trainer = make_trainer()
    predict, seen = trainer.model.predict, [0.0]

    def drifting(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 0.05
        out = predict(*args, **kwargs)
        return replace(out, velocity_BCThw=out.velocity_BCThw + seen[0])

    monkeypatch.setattr(trainer.model, "predict", drifting)
    with pytest.raises(UserError, match="replay: log-probabilities differ by .*ratio: 1 to within"):
        preflight(trainer, tmp_path)


def nearness(completions: list[np.ndarray], depths: list[np.ndarray]) -> list[float]:
    return [-float(np.asarray(depth, np.float32).mean()) for depth in depths]


def dimness(completions: list[np.ndarray]) -> list[float]:
    return [1000.0 - value for value in brightness(completions)]


def test_the_held_out_reward_is_read_otherwise_and_without_what_takes_pixels_alone(tmp_path: Path) -> None:
    """`dimness` is the same whoever reads the geometry, and would hide what the other reward loses."""
    trainer = make_trainer(CONFIG, "nearness", "dimness")
    other = GeometryHeads(**(trainer.model.head_sizes | {"channels": 16})).eval()
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    trainer.watcher = Reader(trainer.model, other, None)
    assert preflight(trainer, tmp_path)[-1].found == "a held-out reward watches, of nearness"
    latents, conditioning, prompts = videos = trainer.held_out_videos()
    earned = [
        np.mean(nearness([], [r.depth for r in reader.rollouts(latents, conditioning, prompts, ["a", "b"])]))
        for reader in (trainer.watcher, trainer.reader)
    ]
    seen = trainer.watch(videos)["held_out_reward"]
    assert seen == pytest.approx(earned[0]) and abs(seen - earned[1]) > 0.001
    alone = make_trainer(CONFIG, "dimness")
    assert preflight(alone, tmp_path)[-1].found == "all rewards take pixels alone, so none is held out"
    assert "held_out_reward" not in alone.watch(alone.held_out_videos())
    record = {"val_reward": 1.0}
    Monitors(CONFIG.monitor, tmp_path, has_held_out_reward=alone.has_held_out_reward).check(0, record)
    with pytest.raises(UserError, match="monitors have no held_out_reward"):
        Monitors(CONFIG.monitor, tmp_path).check(0, record)


def test_held_out_videos_tell_the_mean_of_each_reward() -> None:
    trainer = make_trainer(CONFIG, "brightness", "dimness")
    seen = trainer.evaluate()
    first, second = seen["val_reward_brightness"], seen["val_reward_dimness"]
    assert first + second == pytest.approx(1000.0) and 0 < first < 1
    assert seen["val_reward"] == pytest.approx(first + second)
    alone = make_trainer()
    assert "val_reward_brightness" not in alone.evaluate()
    assert alone.trained_reward({"val_reward": 0.5}) == 0.5


def test_the_held_out_reward_is_beside_what_takes_depth_and_motion() -> None:
    """A price on pixels that grows must not hide that the trained reward rises."""
    trainer = make_trainer(CONFIG, "nearness", "dimness")
    seen = {"val_reward": -1.0, "val_reward_nearness": 0.5, "val_reward_dimness": -1.5}
    assert trainer.trained_reward(seen) == 0.5
    assert trainer.trained_reward({"val_failed_fraction": 1.0}) is None


def test_the_kl_of_one_step_tells_that_of_the_window() -> None:
    """The first step of a window is the noisiest, so its KL is the least."""
    measured = {}
    for weight in (0.0, 1e-9):
        trainer = make_trainer(with_algorithm(kl_weight=weight, learning_rate=0.05))
        trainer.iterate(0)
        measured[weight] = trainer.iterate(1)["kl_joint_nats"]
    assert measured[0.0] == pytest.approx(measured[1e-9], rel=0.15)


second_is_sampled = threading.Event()


def patient(completions: list[np.ndarray]) -> list[float]:
    assert second_is_sampled.wait(30), "nothing is sampled while rewards are computed"
    time.sleep(0.5)
    return brightness(completions)


def test_the_trainer_samples_on_while_rewards_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first batch is scored only once the second has been sampled, and the wait is what is left then."""
    trainer = make_trainer(CONFIG, "patient")
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
    trainer = make_trainer(OFF_POLICY, "later")

    def watched(*args: Any, **settings: Any) -> UpdateStats:
        update_has_begun.set()
        return update_policy(*args, **settings)

    update_has_begun.clear()
    monkeypatch.setattr("policy.trainer.update_policy", watched)
    assert [trainer.iterate(i)["failed_fraction"] for i in range(2)] == [0, 0]


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
