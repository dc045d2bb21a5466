"""The promises of phys4d.reward.v1 that a server can be asked to show."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import grpc
import numpy as np

from phys4d.reward import wire
from phys4d.reward.calls import details, status_code
from phys4d.reward.probe import (
    Broken,
    NotOffered,
    NotShown,
    Probe,
    Promise,
    Spoil,
    check_same,
    check_scored,
    failure,
    packed,
    parts_of,
    real_rollouts,
)
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Failure

MAX_ROLLOUTS_TRIED = 10_000
LARGE_SEED = 2**53 + 1
"""No float64 holds it."""
PROMISES: list[Promise] = []


def promise(text: str) -> Callable[[Callable[[Probe], None]], None]:
    """Register the check of a promise; it raises `Broken`, `NotOffered` or `NotShown`."""

    def register(check: Callable[[Probe], None]) -> None:
        PROMISES.append(Promise(text, check))

    return register


@promise("GetServerInfo names at least one reward, each with a version")
def _info(probe: Probe) -> None:
    rewards = [(reward.name, reward.version) for reward in probe.info.rewards]
    if not rewards or not all(name and version for name, version in rewards):
        raise Broken(f"rewards: {rewards}")
    if len({name for name, _ in rewards}) != len(rewards):
        raise Broken(f"names are not unique: {rewards}")


@promise("GetServerInfo tells its limits")
def _limits(probe: Probe) -> None:
    limits = probe.info.limits
    if min(limits.max_request_bytes, limits.max_rollouts, limits.max_tensor_bytes) < 1:
        raise Broken(f"limits: {limits}".replace("\n", " "))


@promise("ScoreBatch answers every rollout once, in order, with a finite score or a failure with a reason")
def _batch(probe: Probe) -> None:
    outcomes = probe.batch(packed(4))
    for outcome in outcomes:
        if isinstance(outcome.result, Failure) and outcome.result.reason in ("UNKNOWN", "BAD_OUTCOME"):
            raise Broken(f"{outcome.result.reason}: {outcome.result.message}")
    check_scored(outcomes)


@promise("An empty ScoreBatch has no outcomes")
def _empty(probe: Probe) -> None:
    probe.batch([])


@promise("The same rollout has the same score")
def _repeat(probe: Probe) -> None:
    sent = packed(2, "repeat")
    first = probe.batch(sent)
    for message in sent:
        message.attempt, message.idempotency_key = 2, ""
    check_same(first, probe.batch(sent), "a repeat was scored otherwise")


@promise("A repeat under the same key is answered from memory, and says so")
def _cached(probe: Probe) -> None:
    sent = packed(1, f"remembered {time.time()}")
    first, again = probe.batch(sent), probe.batch(sent)
    check_same(first, again, "a repeat was scored otherwise")
    if not check_scored(again)[0].cached:
        raise NotOffered("repeats are scored again")


@promise("The same key with another content is not answered from memory")
def _another_content(probe: Probe) -> None:
    one, other = packed(2, "other content")
    probe.batch([one])
    alone = probe.batch([other])
    other.sample_id, other.idempotency_key = one.sample_id, one.idempotency_key
    check_same(alone, probe.batch([other]), "it was scored otherwise than under a key of its own")


@promise("A score echoes the seed, also one above 2^53")
def _seed(probe: Probe) -> None:
    sent = packed(2)
    for message, seed in zip(sent, (7, LARGE_SEED), strict=True):
        message.seed, message.idempotency_key = seed, ""
    seeds = [score.seed for score in check_scored(probe.batch(sent))]
    if seeds != [7, LARGE_SEED]:
        raise Broken(f"seeds 7 and {LARGE_SEED} came back as {seeds}")


@promise("What is not scored within budget_ms fails as INFRA, reason BUDGET_EXCEEDED")
def _budget(probe: Probe) -> None:
    sent = packed(16, f"in a hurry {time.time()}")
    start = time.monotonic()
    outcomes = probe.batch(sent, budget_ms=1)
    seconds = time.monotonic() - start
    late = [o for o in outcomes if isinstance(o.result, Failure) and o.result.error_class == "INFRA"]
    for outcome in late:
        failure(outcome, "INFRA", "BUDGET_EXCEEDED")
    if not late and seconds > 1:
        raise Broken(f"a budget of 1 ms was ignored for {seconds:.1f} s")
    if not late:
        raise NotShown(f"16 rollouts were answered in {1000 * seconds:.0f} ms")


@promise("Outcomes echo the attempt")
def _attempt(probe: Probe) -> None:
    message = packed(1)[0]
    message.attempt = 3
    request = pb.ScoreBatchRequest(rollouts=[message], reward=probe.reward)
    response = probe.stub.ScoreBatch(request, timeout=probe.timeout_s, metadata=probe.metadata)
    if response.outcomes[0].attempt != 3:
        raise Broken(f"attempt 3 came back as {response.outcomes[0].attempt}")


@promise("A damaged tensor fails its rollout as INFRA, and no other")
def _damage(probe: Probe) -> None:
    sent = packed(2, "damage")
    good = probe.batch([sent[1]])
    sent[0].tensors[0].crc32c ^= 1
    spoilt, other = probe.batch(sent)
    failure(spoilt, "INFRA")
    check_same(good, [other], "the other rollout was answered otherwise than alone")


def _spoilt(change: Callable[[pb.Rollout], object]) -> Callable[[Probe], None]:
    def check(probe: Probe) -> None:
        message = packed(1, "spoilt")[0]
        change(message)
        failure(probe.batch([message])[0], "DATA")

    return check


promise("A tensor of a wrong size fails as DATA")(
    _spoilt(lambda m: setattr(m.tensors[0], "byte_size", m.tensors[0].byte_size + 2))
)
promise("A tensor of a wrong shape fails as DATA")(_spoilt(lambda m: m.tensors[0].shape.__setitem__(0, 2)))
promise("A tensor of an unknown format fails as DATA")(_spoilt(lambda m: setattr(m.tensors[0], "dtype", 0)))
promise("A tensor of an unknown codec fails as DATA")(_spoilt(lambda m: setattr(m.tensors[0], "codec", 99)))
promise("A missing tensor fails as DATA")(_spoilt(lambda m: m.tensors.__delitem__(0)))
promise("A missing scene or camera fails as DATA")(_spoilt(lambda m: m.ClearField("camera")))


@promise("A shape that promises terabytes is refused")
def _terabytes(probe: Probe) -> None:
    message = packed(1)[0]
    tensor = message.tensors[0]
    tensor.shape[:] = [1 << 20, 1 << 20, 4]
    tensor.byte_size = math.prod(tensor.shape) * 2
    try:
        outcome = probe.batch([message])[0]
    except grpc.RpcError as error:
        if status_code(error) not in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        ):
            raise Broken(details(error)) from error
    else:
        failure(outcome, "DATA")


@promise("NaN never earns a number")
def _nan(probe: Probe) -> None:
    rollout = real_rollouts(1)[0]
    nothing = replace(
        rollout, depth=np.full_like(rollout.depth, np.nan), motion=np.full_like(rollout.motion, np.nan)
    )
    failure(probe.batch([wire.rollout_to_proto(nothing)])[0], "DATA")


@promise("An unknown reward is refused with INVALID_ARGUMENT")
def _reward(probe: Probe) -> None:
    probe.refuses(lambda: probe.batch(packed(1), reward="no such reward"), grpc.StatusCode.INVALID_ARGUMENT)


@promise("Two rollouts of one sample_id are refused with INVALID_ARGUMENT")
def _twice(probe: Probe) -> None:
    message = packed(1)[0]
    probe.refuses(lambda: probe.batch([message, message]), grpc.StatusCode.INVALID_ARGUMENT)


@promise("More rollouts than Limits.max_rollouts are refused with INVALID_ARGUMENT")
def _too_many(probe: Probe) -> None:
    count = probe.info.limits.max_rollouts + 1
    if count > MAX_ROLLOUTS_TRIED:
        raise NotOffered(f"it takes {count - 1} rollouts at once")
    many = [pb.Rollout(sample_id=str(index)) for index in range(count)]
    probe.refuses(lambda: probe.batch(many), grpc.StatusCode.INVALID_ARGUMENT)


@promise("A request_id above 128 characters is refused with INVALID_ARGUMENT")
def _request_id(probe: Probe) -> None:
    probe.refuses(lambda: probe.batch([], request_id="x" * 129), grpc.StatusCode.INVALID_ARGUMENT)


@promise("A call without the token is refused with UNAUTHENTICATED")
def _token(probe: Probe) -> None:
    if not probe.metadata:
        raise NotOffered("no --token-file was given")
    request = pb.GetServerInfoRequest()
    wrong = [("authorization", "Bearer wrong")]
    for metadata in ([], wrong):
        probe.refuses(
            lambda shown=metadata: probe.stub.GetServerInfo(request, timeout=probe.timeout_s, metadata=shown),
            grpc.StatusCode.UNAUTHENTICATED,
        )


@promise("ScoreStream answers every header once, as ScoreBatch does")
def _stream(probe: Probe) -> None:
    sent = packed(3, "stream")
    check_same(probe.stream(sent), probe.batch(sent), "a stream is answered otherwise than a batch")


def _spoilt_stream(what: str, reason: str, spoil: Spoil) -> None:
    def check(probe: Probe) -> None:
        sent = packed(3, reason)
        sent[1].idempotency_key = ""
        first, spoilt, last = probe.stream(sent, spoil)
        failure(spoilt, "INFRA", reason)
        alone = probe.batch([sent[0], sent[2]])
        check_same([first, last], alone, "the others were answered otherwise than in a batch")

    promise(f"A rollout with {what} fails as INFRA, reason {reason}, and no other")(check)


def _cut(parts: list[pb.ScoreStreamRequest]) -> None:
    del parts[-1]


def _swap(parts: list[pb.ScoreStreamRequest]) -> None:
    parts[1], parts[2] = parts[2], parts[1]


_spoilt_stream("a missing chunk", "MISSING_CHUNK", _cut)
_spoilt_stream("a chunk out of order", "CHUNK_OUT_OF_ORDER", _swap)


@promise("A cancelled call leaves the server as it was")
def _cancelled(probe: Probe) -> None:
    sent = packed(8, f"cancelled {time.time()}")
    request = pb.ScoreBatchRequest(rollouts=sent, reward=probe.reward)
    probe.stub.ScoreBatch.future(request, timeout=probe.timeout_s, metadata=probe.metadata).cancel()
    if probe.info.streams:
        opening = pb.ScoreStreamRequest(open=pb.StreamOpen(reward=probe.reward))
        parts = iter([opening, *parts_of(sent[0], 0)])
        probe.stub.ScoreStream(parts, timeout=probe.timeout_s, metadata=probe.metadata).cancel()
    check_same(probe.batch(sent[:1]), probe.batch(sent[:1]), "after it a rollout was scored otherwise")


@promise("Rollouts compressed with Blosc2 score like others")
def _blosc2(probe: Probe) -> None:
    if pb.CODEC_BLOSC2 not in probe.info.codecs:
        raise NotOffered("GetServerInfo does not list CODEC_BLOSC2")
    rollouts = real_rollouts(2)
    compressed = [wire.rollout_to_proto(r, "blosc2") for r in rollouts]
    raw = [wire.rollout_to_proto(r) for r in rollouts]
    check_same(probe.batch(compressed), probe.batch(raw), "a compressed rollout was scored otherwise")
