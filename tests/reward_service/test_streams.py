"""ScoreStream on a real server: chunks lost, mixed up and damaged, repeats, cancellation, memory."""

import asyncio
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest

from phys4d.reward import tensors, wire
from phys4d.reward.aio import AsyncRewardClient
from phys4d.reward.calls import Cancellation, status_code
from phys4d.reward.client import RewardClient
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from phys4d.types import Failure, Rollout
from reward_service.assembly import PartialRollout
from reward_service.config import LimitSettings
from reward_service.streams import ByteBudget

Part = pb.ScoreStreamRequest
PIECE = 100
STREAM_BYTES = 3 << 20


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, run_service) -> Iterator[tuple[str, int]]:
    targets = [f"rewards_for_tests:{name}" for name in ("Constant", "Slow", "Counting", "Raising")]
    flags = ["--no-scene-chamfer", "--num-replicas", "2", "--rewards", *targets]
    flags += ["--limits.max-stream-bytes", str(STREAM_BYTES), "--limits.max-chunk-bytes", str(1 << 20)]
    flags += ["--limits.stream-idle-s", "2"]
    with run_service("plain", tmp_path_factory.mktemp("streams"), *flags) as (where, pid):
        yield where, pid


@pytest.fixture
def endpoint(service: tuple[str, int]) -> str:
    return service[0]


def opening(reward: str = "constant", budget_ms: int = 20_000) -> Part:
    return Part(open=pb.StreamOpen(reward=reward, budget_ms=budget_ms))


def parts_of(message: pb.Rollout, index: int) -> list[Part]:
    """Header and chunks of 100 bytes."""
    header = pb.Rollout()
    header.CopyFrom(message)
    for tensor in header.tensors:
        tensor.ClearField("data")
    parts = [Part(header=header)]
    for number, tensor in enumerate(message.tensors):
        for offset, data in tensors.chunks(tensor.data, PIECE):
            chunk = pb.Chunk(rollout=index, tensor=number, offset=offset, data=data)
            parts.append(Part(chunk=chunk))
    return parts


def stream(endpoint: str, parts: list[Part]) -> dict[int, str]:
    """Send parts; index of each rollout and the reason of its failure, or SCORE."""
    with grpc.insecure_channel(endpoint) as channel:
        answers = list(reward_pb2_grpc.RewardServiceStub(channel).ScoreStream(iter(parts), timeout=60))
    results = {a.rollout: wire.outcome_from_proto(a.outcome).result for a in answers}
    assert len(results) == len(answers), "a rollout was answered twice"
    return {i: r.reason if isinstance(r, Failure) else "SCORE" for i, r in results.items()}


def messages(small_rollouts, count: int) -> list[pb.Rollout]:
    return [wire.rollout_to_proto(rollout) for rollout in small_rollouts(count)]


def test_every_rollout_of_a_stream_gets_its_score(endpoint: str, small_rollouts) -> None:
    sent = messages(small_rollouts, 5)
    parts = [opening(), *(part for i, m in enumerate(sent) for part in parts_of(m, i))]
    assert stream(endpoint, parts) == dict.fromkeys(range(5), "SCORE")


def lost(parts: list[Part]) -> list[Part]:
    return parts[:2] + parts[3:]


def swapped(parts: list[Part]) -> list[Part]:
    return [parts[0], parts[2], parts[1], *parts[3:]]


def repeated(parts: list[Part]) -> list[Part]:
    return [*parts[:2], parts[1], *parts[2:]]


def cut(parts: list[Part]) -> list[Part]:
    return parts[:-1]


def damaged(parts: list[Part]) -> list[Part]:
    parts[3].chunk.data = bytes(len(parts[3].chunk.data))
    return parts


def too_long(parts: list[Part]) -> list[Part]:
    last = max(i for i, part in enumerate(parts) if part.chunk.tensor == 0)
    parts[last].chunk.data += b"more"
    return parts


def foreign(parts: list[Part]) -> list[Part]:
    parts[1].chunk.tensor = 9
    return parts


def empty(parts: list[Part]) -> list[Part]:
    parts[1].chunk.data = b""
    return parts


def wrong_dtype(parts: list[Part]) -> list[Part]:
    parts[0].header.tensors[0].dtype = pb.D_TYPE_UINT8
    return parts


def wrong_size(parts: list[Part]) -> list[Part]:
    parts[0].header.tensors[0].byte_size += 1
    return parts


def terabytes(parts: list[Part]) -> list[Part]:
    header, side = parts[0].header, 1 << 20
    header.camera.width = header.camera.height = side
    shapes = {"depth": [3, side, side], "motion": [2, side, side, 3], "object_ids": [side, side]}
    for tensor in header.tensors:
        tensor.shape[:] = shapes[tensor.name]
        itemsize = 1 if tensor.name == "object_ids" else 2
        tensor.byte_size = tensor.packed_size = math.prod(shapes[tensor.name]) * itemsize
    return parts


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lost, "CHUNK_OUT_OF_ORDER"),
        (swapped, "CHUNK_OUT_OF_ORDER"),
        (repeated, "CHUNK_OUT_OF_ORDER"),
        (cut, "MISSING_CHUNK"),
        (damaged, "CHECKSUM_MISMATCH"),
        (too_long, "BAD_CHUNK"),
        (foreign, "BAD_CHUNK"),
        (empty, "BAD_CHUNK"),
        (wrong_dtype, "WRONG_DTYPE"),
        (wrong_size, "WRONG_SIZE"),
        (terabytes, "TOO_LARGE"),
    ],
)
def test_a_spoilt_rollout_fails_alone(endpoint: str, small_rollouts, spoil: Callable, reason: str) -> None:
    """The one before and the one after it are scored."""
    sent = messages(small_rollouts, 3)
    for message in sent:
        message.idempotency_key = ""
    first, second, third = (parts_of(m, i) for i, m in enumerate(sent))
    answers = stream(endpoint, [opening(), *first, *spoil(second), *third])
    assert answers == {0: "SCORE", 1: reason, 2: "SCORE"}


def test_a_rollout_cut_short_by_the_end_of_the_stream_fails(endpoint: str, small_rollouts) -> None:
    parts = parts_of(messages(small_rollouts, 1)[0], 0)
    parts[0].header.idempotency_key = ""
    assert stream(endpoint, [opening(), *parts[:-1]]) == {0: "MISSING_CHUNK"}


@pytest.mark.parametrize(
    ("parts", "complaint"),
    [
        ([], "begins with `open`"),
        ([Part()], "begins with `open`"),
        ([Part(chunk=pb.Chunk(data=b"x"))], "begins with `open`"),
        ([opening("beauty")], "unknown reward"),
        ([opening(budget_ms=-1)], "budget_ms"),
        ([opening(), opening()], "headers and chunks only"),
        ([opening(), Part(chunk=pb.Chunk(rollout=3, data=b"x"))], "no header"),
        ([opening(), Part(header=pb.Rollout(text="x" * (1 << 20)))], "bytes beside its tensors' data"),
    ],
)
def test_a_stream_without_sense_is_refused_as_a_whole(
    endpoint: str, parts: list[Part], complaint: str
) -> None:
    with pytest.raises(grpc.RpcError, match=complaint) as info:
        stream(endpoint, parts)
    assert status_code(info.value) == grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_that_falls_silent_ends(endpoint: str) -> None:
    def silent() -> Iterator[Part]:
        yield opening()
        time.sleep(8)

    start = time.monotonic()
    with grpc.insecure_channel(endpoint) as channel, pytest.raises(grpc.RpcError, match="nothing came"):
        list(reward_pb2_grpc.RewardServiceStub(channel).ScoreStream(silent(), timeout=60))
    assert time.monotonic() - start < 7


def big(rollout: Rollout, size: int) -> Rollout:
    """Noise, so that nothing compresses: 9 * size^2 bytes of float16 and a little more."""
    camera = replace(rollout.camera, width=size, height=size)
    rng = np.random.default_rng(size)
    return replace(
        rollout,
        camera=camera,
        depth=rng.uniform(1, 5, (3, size, size)).astype(np.float16),
        motion=rng.normal(size=(2, size, size, 3)).astype(np.float16),
        object_ids=np.ones((size, size), np.uint8),
    )


@pytest.mark.parametrize("codec", ["none", "blosc2"])
def test_large_rollouts_are_streamed_and_scored_like_small_ones(endpoint: str, small_rollouts, codec) -> None:
    rollouts = [big(rollout, 300) for rollout in small_rollouts(4)]
    with RewardClient(endpoint, reward="counting", codec=codec, max_request_bytes=8 << 20) as client:
        outcomes = client.score(rollouts)
        assert client.metrics().num_bytes > 4 * 18 * 300 * 300 * (0.3 if codec == "blosc2" else 0.9)
    for rollout, outcome in zip(rollouts, outcomes, strict=True):
        assert outcome.score is not None, outcome
        assert outcome.score.components["sum_of_depth"] == float(np.sum(rollout.depth, dtype=np.float64))


def test_a_header_counts_among_the_bytes_under_way(small_rollouts) -> None:
    message = messages(small_rollouts, 1)[0]
    small = PartialRollout(message, LimitSettings()).num_bytes
    message.text = "x" * 5000
    assert PartialRollout(message, LimitSettings()).num_bytes >= small + 5000
    with pytest.raises(ValueError, match="scene and text take"):
        wire.rollout_to_proto(replace(small_rollouts(1)[0], text="x" * (1 << 20)))


def test_a_place_in_the_queue_of_bytes_may_be_given_up_at_any_moment() -> None:
    """Cancelled in the very step in which the bytes before it become free."""

    async def main() -> None:
        budget = ByteBudget(10)
        await budget.take(10)
        first, second = (asyncio.create_task(budget.take(10)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        budget.give_back(10)
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.wait_for(second, 5)
        assert budget.held == 10
        budget.give_back(10)
        assert budget.take_now(10)

    asyncio.run(main())


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def test_memory_is_bounded_under_a_slow_scorer(service: tuple[str, int], small_rollouts) -> None:
    """40 MB are sent to scorers that take their time; the server holds 3 MB at once and reads no faster."""
    endpoint, pid = service
    rollouts = [replace(big(r, 240), text="0.05") for r in small_rollouts(32)]
    before, most = resident_bytes(pid), 0
    with RewardClient(endpoint, reward="slow", stream="always", max_request_bytes=1 << 30) as client:
        future = client.submit(rollouts)
        while not future.done():
            most = max(most, resident_bytes(pid) - before)
            time.sleep(0.02)
        assert all(o.score is not None for o in future.result())
        assert client.metrics().num_bytes > 32 << 20
    assert most < 24 << 20


def test_outcomes_come_as_each_is_ready(endpoint: str, small_rollouts) -> None:
    slow, fast = small_rollouts(2)
    rollouts = [replace(slow, text="1.0"), replace(fast, text="0")]
    with RewardClient(endpoint, reward="slow", stream="always") as client:
        assert [o.sample_id for o in client.score_as_ready(rollouts)] == ["s1", "s0"]


def test_a_cancelled_caller_is_answered_at_once(endpoint: str, small_rollouts) -> None:
    cancellation = Cancellation()
    with RewardClient(endpoint, reward="slow", stream="always") as client:
        future = client._submits.submit(
            client.score, small_rollouts(6, text="0.7"), cancellation=cancellation
        )
        time.sleep(0.3)
        start = time.monotonic()
        cancellation.cancel()
        outcomes = future.result(30)
        assert time.monotonic() - start < 1.5
    reasons = {o.result.reason for o in outcomes if isinstance(o.result, Failure)}
    assert reasons == {"CANCELLED"} and len(outcomes) == 6


def test_asyncio_callers_get_the_same(endpoint: str, small_rollouts) -> None:
    async def main() -> None:
        async with AsyncRewardClient(endpoint, reward="constant") as client:
            await client.wait_ready(5)
            outcomes = await client.score(small_rollouts(3))
            assert [o.sample_id for o in outcomes] == ["s0", "s1", "s2"]
            ready = [o.sample_id async for o in client.score_as_ready(small_rollouts(3))]
            assert sorted(ready) == ["s0", "s1", "s2"]
        async with AsyncRewardClient(endpoint, reward="slow") as client:
            scoring = asyncio.create_task(client.score(small_rollouts(2, text="1")))
            await asyncio.sleep(0.3)
            scoring.cancel()
            with pytest.raises(asyncio.CancelledError):
                await scoring

    asyncio.run(main())


@pytest.mark.parametrize("stream_mode", ["always", "never"])
def test_a_rollout_sent_twice_is_scored_once(endpoint: str, small_rollouts, stream_mode) -> None:
    rollouts = small_rollouts(4, text=f"sent twice, {stream_mode}")
    with RewardClient(endpoint, reward="counting", stream=stream_mode) as client:
        first, again = client.score(rollouts), client.score(rollouts)
    for one, other in zip(first, again, strict=True):
        assert one.score is not None and other.score is not None
        assert not one.score.cached and other.score.cached
        assert one.score.components == other.score.components


def test_a_rollout_sent_twice_at_once_is_scored_once(endpoint: str, small_rollouts) -> None:
    rollouts = small_rollouts(1, text="0.5")
    with RewardClient(endpoint, reward="slow") as a, RewardClient(endpoint, reward="slow") as b:
        both = [client.submit(rollouts) for client in (a, b)]
        scores = [future.result(60)[0].score for future in both]
    # The seconds of scoring would differ if it had been scored twice.
    assert scores[0] is not None and scores[1] is not None
    assert scores[0].scoring_s == scores[1].scoring_s


def test_the_same_key_with_other_content_is_scored_anew(endpoint: str, small_rollouts) -> None:
    message, other = (wire.rollout_to_proto(r) for r in small_rollouts(2))
    other.tensors[0].CopyFrom(tensors.tensor_to_proto("depth", np.full((3, 6, 8), 2, np.float16)))
    other.sample_id, other.idempotency_key = message.sample_id, message.idempotency_key
    with grpc.insecure_channel(endpoint) as channel:
        stub = reward_pb2_grpc.RewardServiceStub(channel)
        sums = []
        for one in (message, other):
            response = stub.ScoreBatch(pb.ScoreBatchRequest(rollouts=[one], reward="counting"), timeout=60)
            sums.append(response.outcomes[0].score.components["sum_of_depth"])
    assert sums == [144.0, 288.0]
