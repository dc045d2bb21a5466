"""Several rewards, functions, order of arrival, and a service that is killed and comes back."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from trl.trainer.utils import nanstd

from phys4d.runtime.errors import UserError
from phys4d.types import Camera, Failure, Outcome, Rollout, SceneSpec, Score
from policy.advantages import compute_advantages
from policy.config import AlgorithmConfig, RewardConfig, TrainConfig
from policy.ranks import Ranks
from policy.rewards import Pending, Rewards, Source, parse_sources, values
from policy.scoring import Sampled, Scoring

ROOT = Path(__file__).parents[2]


def rollouts(number: int) -> list[Rollout]:
    base = Rollout(
        sample_id="",
        scene=SceneSpec(category="rigid", family="drop", seed=0, parameters={}, num_frames=4, fps=12.0),
        camera=Camera(fx=9.0, fy=9.0, cx=4.0, cy=3.0, width=8, height=6, camera_from_world=np.eye(4)),
        depth=np.ones((4, 6, 8), np.float16),
        motion=np.zeros((3, 6, 8, 3), np.float16),
        object_ids=np.ones((6, 8), np.uint8),
        rgb=np.full((4, 6, 8, 3), 51, np.uint8),
    )
    motions = np.random.default_rng(0).normal(size=(number, 3, 6, 8, 3)).astype(np.float16)
    return [replace(base, sample_id=f"s{i}", motion=motions[i]) for i in range(number)]


def brightness(completions: list[np.ndarray], **_: object) -> list[float]:
    return [float(c.mean()) / 255 for c in completions]


def darkness(completions: list[np.ndarray], **_: object) -> list[float]:
    return [1 - value for value in brightness(completions)]


class PlainService:
    """The plain reward service as a process that can be killed and started again on its port."""

    def __init__(self, folder: Path, options: str = "") -> None:
        self.folder = folder
        self.reward = f"examples.motion_smoothness:MotionSmoothness{options}"
        self.port = "0"
        self.start()

    def start(self) -> None:
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "reward_service.plain", "--port", self.port, "--no-scene-chamfer"]
        command += ["--rewards", self.reward, "--ready-file", str(ready)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert self.process.poll() is None and time.monotonic() < deadline, "the service did not start"
            time.sleep(0.02)
        self.endpoint = ready.read_text().strip()
        self.port = self.endpoint.rpartition(":")[2]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[PlainService]:
    service = PlainService(tmp_path)
    yield service
    service.kill()


def test_sources_are_rewards_of_the_run_of_other_services_and_functions() -> None:
    assert parse_sources(RewardConfig()) == [Source("", 1.0)]
    assert parse_sources(RewardConfig(name="smooth")) == [Source("smooth", 1.0)]
    config = RewardConfig(sources={"scene_chamfer": 1, "smooth@host:9001": 0.5, "mine.rewards:bright": -0.1})
    assert parse_sources(config) == [
        Source("scene_chamfer", 1),
        Source("smooth", 0.5, endpoint="host:9001"),
        Source("bright", -0.1, function="mine.rewards:bright"),
    ]
    twice = RewardConfig(sources={"smooth": 1, "smooth@host:9001": 1, "mine:smooth": 1, "mine:bright": 1})
    rewards = Rewards.__new__(Rewards)
    rewards.sources = parse_sources(twice)
    assert rewards.labels == ["smooth@endpoint", "smooth@host:9001", "mine:smooth", "bright"]
    for sources, message in (
        ({"a b": 1.0}, "a reward is NAME, NAME@HOST:PORT or package.module:function, got 'a b'"),
        ({"a": 0.0}, "the weight of reward 'a' must be finite and not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_sources(RewardConfig(sources=sources))
    named = RewardConfig(name="smooth", sources={"": 1.0, "mine:brightness": 0.25})
    assert [(x.name, x.weight) for x in parse_sources(named)] == [("smooth", 1.0), ("brightness", 0.25)]
    for sources, why in (
        ({"": 1.0, "first": 1.0}, "both be logged as"),
        ({"mine:mean": 1.0}, "called 'mean'"),
    ):
        with pytest.raises(ValueError, match=why):
            parse_sources(RewardConfig(sources=sources))
    with pytest.raises(ValueError, match="the name stands where sources have an empty one"):
        RewardConfig(name="smooth", sources={"": 1.0, "smooth": 1.0})
    with pytest.raises(ValueError, match="give either name or sources"):
        RewardConfig(name="a", sources={"b": 1.0})


def test_a_killed_service_that_comes_back_loses_nothing_and_scores_the_same(service: PlainService) -> None:
    """Two rewards of one service, one of another form; the run's service dies and is started again."""
    sources = {"motion_smoothness": 1.0, f"{__name__}:brightness": 0.5}
    config = RewardConfig(sources=sources, timeout_s=20, outage_s=120)
    sent = rollouts(6)
    with Rewards(config, service.endpoint) as rewards:
        before = values(rewards.score(sent))
        service.kill()
        threading.Timer(3.0, service.start).start()
        after = values(rewards.score(sent))
        assert rewards.num_outages == 1 and rewards.num_resent == 6
    assert torch.equal(before, after)
    assert before[:, 1].tolist() == pytest.approx([0.2] * 6)
    assert len(set(before[:, 0].tolist())) == 6


def test_of_two_services_one_may_die_and_come_back(service: PlainService, tmp_path: Path) -> None:
    """Each rollout goes to both; only what the dead one had is sent again, and to it alone."""
    (tmp_path / "other").mkdir()
    other = PlainService(tmp_path / "other", "(scale_px=0.5)")
    try:
        sources = {"motion_smoothness": 1.0, f"motion_smoothness@{other.endpoint}": -2.0}
        sources[f"{__name__}:brightness"] = 1.0
        config = RewardConfig(sources=sources, timeout_s=20, outage_s=120)
        sent = rollouts(6)
        with Rewards(config, service.endpoint) as rewards:
            told = rewards.versions()
            names = [f"reward motion_smoothness@{place}" for place in ("endpoint", other.endpoint)]
            assert list(told) == [*names, "reward brightness"] and told["reward brightness"] == "brightness 1"
            assert told[names[0]].startswith("motion_smoothness ") and told[names[0]] != told[names[1]]
            assert rewards.takes_geometry == [True, True, True]
            with (
                Rewards(RewardConfig(name="absent"), service.endpoint) as absent,
                pytest.raises(UserError, match="offers motion_smoothness, not 'absent'; name one of those"),
            ):
                absent.versions()
            before = values(rewards.score(sent))
            other.kill()
            threading.Timer(2.0, other.start).start()
            after = values(rewards.score(sent))
            resent = [reward.num_resent for reward in rewards._rewards]
        assert resent == [0, 6, 0]
        assert torch.equal(before, after) and not before.isnan().any()
        assert not torch.equal(before[:, 0], before[:, 1]), "their scales differ"
    finally:
        other.kill()


def test_a_function_takes_geometry_if_it_names_it_or_takes_all() -> None:
    sources = {f"{__name__}:{name}": 1.0 for name in ("brightness", "pixels_alone", "by_motion")}
    with Rewards(RewardConfig(sources=sources), "") as rewards:
        assert rewards.takes_geometry == [True, False, True]


def pixels_alone(completions: list[np.ndarray], prompts: list[str]) -> list[float]:
    return [0.0 for _ in completions]


def by_motion(completions: list[np.ndarray], motions: list[np.ndarray]) -> list[float]:
    return [float(motion.mean()) for motion in motions]


def test_a_service_that_stays_away_gives_failures_and_no_numbers(service: PlainService) -> None:
    """Batches that follow one another wait for one outage together."""
    config = RewardConfig(timeout_s=5, outage_s=6.0, max_attempts=1)
    with Rewards(config, service.endpoint) as rewards:
        service.kill()
        start = time.monotonic()
        rewards.submit(rollouts(2))
        rewards.submit(rollouts(2))
        (outcomes,) = rewards.score(rollouts(2))
        assert time.monotonic() - start < 6.0 + 3 * (2.0 + 2.0), "three batches, 6 s each, are 18 s and more"
        assert rewards.num_outages == 1
    assert all(isinstance(o.result, Failure) and o.result.error_class == "INFRA" for o in outcomes)
    assert values([outcomes]).isnan().all()


def scoring(config: TrainConfig, rewards: torch.Tensor, order: list[int]) -> Scoring:
    """Batches of 4 videos of 2 groups whose rewards arrive in `order`."""
    pending = [Pending([Future() for _ in rewards[0]]) for _ in range(len(rewards) // 4)]
    sampled = Sampled(rollouts=[None] * len(pending), pending=pending)  # pyright: ignore
    sampled.group_ids = [[2 * b, 2 * b, 2 * b + 1, 2 * b + 1] for b in range(len(pending))]
    for b in order:
        for k, future in enumerate(pending[b].futures):
            column = rewards[4 * b : 4 * b + 4, k].tolist()
            future.set_result([Outcome(sample_id=str(v), result=Score(value=v)) for v in column])
    return Scoring(sampled, config, Rewards(config.reward, ""), Ranks.alone())


@pytest.mark.parametrize("name", ["grpo", "ddpo"])
@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_the_order_in_which_batches_come_back_does_not_matter(name: str, aggregation: str) -> None:
    config = TrainConfig(
        algorithm=AlgorithmConfig(name=name),  # pyright: ignore[reportArgumentType]
        reward=RewardConfig(
            sources={f"{__name__}:brightness": 1.0, f"{__name__}:darkness": 0.5},
            aggregation=aggregation,  # pyright: ignore[reportArgumentType]
        ),
    )
    rewards = torch.randn(12, 2, generator=torch.Generator().manual_seed(0)).double()
    results = []
    for order, asked in (([0, 1, 2], [0, 1, 2]), ([2, 0, 1], [1, 2, 0])):
        found = scoring(config, rewards, order)
        by_batch = {b: found.advantages(b).values for b in asked}
        results.append(torch.cat([by_batch[b] for b in range(3)]))
    assert torch.equal(results[0], results[1])
    groups = [0] * 12 if name == "ddpo" else [i // 2 for i in range(12)]
    whole = compute_advantages(rewards, groups, weights=[1.0, 0.5], aggregation=aggregation)
    torch.testing.assert_close(results[0], whole.values)


@pytest.mark.parametrize("aggregation", ["sum_then_normalize", "normalize_then_sum"])
def test_advantages_of_several_rewards_are_those_of_trl(aggregation: str) -> None:
    """TRL's arithmetic with its own nanstd, whose n / (n - 1) is float32, for 3 groups of 4."""
    rewards = torch.randn(12, 2, generator=torch.Generator().manual_seed(1)).double() * torch.tensor([1, 40])
    weights = torch.tensor([1.0, 0.5], dtype=torch.float64)
    grouped = rewards.view(3, 4, 2)
    if aggregation == "sum_then_normalize":
        total = grouped @ weights
        expected = (total - total.mean(1, keepdim=True)) / (nanstd(total, dim=1, keepdim=True) + 1e-4)
    else:
        scaled = (grouped - grouped.mean(1, keepdim=True)) / (nanstd(grouped, dim=1, keepdim=True) + 1e-4)
        total = scaled @ weights
        expected = (total - total.mean()) / (nanstd(total.flatten()) + 1e-4)
    found = compute_advantages(
        rewards,
        [i // 4 for i in range(12)],
        weights=weights.tolist(),
        aggregation=aggregation,  # pyright: ignore[reportArgumentType]
        clip=100.0,
    )
    torch.testing.assert_close(found.values, expected.flatten(), rtol=1e-7, atol=1e-7)
