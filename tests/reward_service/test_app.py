"""The ingress by itself, in front of scorers that Ray would be replacing."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from ray.serve.handle import DeploymentHandle

from phys4d.reward import wire
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from phys4d.types import Outcome, Rollout, Score
from reward_service import app
from reward_service.config import ServiceConfig
from reward_service.ready import free_port
from reward_service.rewards import Offer


class Ingress(app.Ingress):
    """Python would call `__del__` too, and wait for nothing."""

    def __del__(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        pass


class Replicas:
    """Stands for Ray: hands calls to a deployment's replicas, here to one after the other."""

    deployment_name = "Scorer"

    def __init__(self, *answers: tuple[str, Offer]) -> None:
        self.answers = list(answers)
        self.num_asked = self.num_scored = 0
        self.scorer_versions = ["1"]
        self.answering = asyncio.Event()
        self.scoring = asyncio.Event()
        self.describe = SimpleNamespace(remote=self._describe)
        self.score = SimpleNamespace(remote=lambda *call: asyncio.ensure_future(self._score(*call)))

    async def _describe(self) -> tuple[str, Offer]:
        self.num_asked += 1
        await self.answering.wait()
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    async def _score(self, name: str, rollout: Rollout) -> Outcome:
        self.num_scored += 1
        await self.scoring.wait()
        version = self.scorer_versions[min(self.num_scored, len(self.scorer_versions)) - 1]
        return Outcome(sample_id=rollout.sample_id, result=Score(value=1.0, scorer_version=version))


@asynccontextmanager
async def ingress_before(
    *kinds: Replicas,
) -> AsyncIterator[tuple[Ingress, reward_pb2_grpc.RewardServiceStub]]:
    """The ingress of edition `new`, and a caller of it."""
    ingress, port = Ingress.__new__(Ingress), free_port()
    await ingress.__init__(ServiceConfig(), cast(list[DeploymentHandle], list(kinds)), "new", port)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield ingress, reward_pb2_grpc.RewardServiceStub(channel)
    finally:
        ingress._asking.cancel()
        assert ingress._server is not None
        await ingress._server.stop(None)


async def offered(stub: reward_pb2_grpc.RewardServiceStub) -> dict[str, str]:
    info = await stub.GetServerInfo(pb.GetServerInfoRequest(), timeout=10)
    return {reward.name: reward.version for reward in info.rewards}


def test_what_new_scorers_offer_is_told_once_they_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Old ones answer first; `b` goes from one kind to the other meanwhile."""
    monkeypatch.setattr(app, "ASK_PERIOD_S", 0.05)

    async def run() -> None:
        before, after = ("old", Offer(versions={"a": "1", "b": "1"})), ("new", Offer(versions={"a": "2"}))
        first = Replicas(before, before, after, before)
        second = Replicas(("old", Offer(versions={"c": "1"})), ("new", Offer(versions={"b": "1"})))
        async with ingress_before(first, second) as (ingress, stub):
            first.answering.set()
            second.answering.set()
            assert await offered(stub) == {"a": "1", "b": "1", "c": "1"}
            await asyncio.wait_for(ingress._asking, 10)
            assert await offered(stub) == {"a": "2", "b": "1"}
        assert (first.num_asked, second.num_asked) == (3, 2)

    asyncio.run(run())


def test_two_kinds_of_scorers_with_one_reward_are_told_to_callers() -> None:
    async def run() -> None:
        kinds = [Replicas(("new", Offer(versions={"a": "1"}))) for _ in range(2)]
        async with ingress_before(*kinds) as (_, stub):
            for kind in kinds:
                kind.answering.set()
            with pytest.raises(grpc.aio.AioRpcError, match="two rewards share a name"):
                await offered(stub)

    asyncio.run(run())


def test_a_score_of_another_version_than_is_announced_is_not_remembered(small_rollouts) -> None:
    async def run() -> None:
        scorers = Replicas(("new", Offer(versions={"a": "2"})))
        scorers.scorer_versions = ["1", "2"]
        async with ingress_before(scorers) as (_, stub):
            scorers.answering.set()
            scorers.scoring.set()
            message = wire.rollout_to_proto(small_rollouts(1)[0])
            message.idempotency_key = "once"
            told = []
            for _ in range(3):
                answer = await stub.ScoreBatch(pb.ScoreBatchRequest(rollouts=[message]), timeout=30)
                score = answer.outcomes[0].score
                told.append((score.scorer_version, score.cached))
            assert told == [("1", False), ("2", False), ("2", True)]

    asyncio.run(run())


@pytest.fixture
def replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray tells a replica of itself."""
    monkeypatch.setattr(app.serve, "get_replica_context", lambda: SimpleNamespace(deployment="Ingress"))


@pytest.mark.usefixtures("replica")
def test_calls_that_waited_for_the_offer_together_end_before_a_service_that_stops(small_rollouts) -> None:
    async def run() -> None:
        scorers = Replicas(("new", Offer(versions={"a": "1"})))
        async with ingress_before(scorers) as (ingress, stub):
            requests = [pb.ScoreBatchRequest(rollouts=[wire.rollout_to_proto(r)]) for r in small_rollouts(2)]
            calls = [asyncio.ensure_future(stub.ScoreBatch(request, timeout=30)) for request in requests]
            await asyncio.sleep(0.1)
            scorers.answering.set()
            while scorers.num_scored < 2:
                await asyncio.sleep(0.01)
            draining = asyncio.create_task(ingress.drain(20))
            await asyncio.sleep(0.1)
            assert not draining.done()
            scorers.scoring.set()
            assert await draining == ("Ingress", 0)
            assert [(await call).outcomes[0].score.value for call in calls] == [1.0, 1.0]

    asyncio.run(run())


@pytest.mark.usefixtures("replica")
def test_a_service_that_stops_before_its_scorers_answer_takes_no_call() -> None:
    async def run() -> None:
        scorers = Replicas(("new", Offer(versions={"a": "1"})))
        async with ingress_before(scorers) as (ingress, stub):
            assert await ingress.drain(0) == ("Ingress", 0)
            scorers.answering.set()
            with pytest.raises(grpc.aio.AioRpcError, match="the service is stopping"):
                await stub.ScoreBatch(pb.ScoreBatchRequest(), timeout=10)

    asyncio.run(run())
