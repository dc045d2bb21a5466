"""Which promises of phys4d.reward.v1 a server keeps.

    python -m phys4d.reward.conformance --endpoint 127.0.0.1:9000

Sends small rollouts of a made-up scene and asks for the scores of `--reward`; a server that rebuilds scenes
may refuse them as DATA, which counts as an answer. Exit code 1: a required promise is broken.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import grpc
import numpy as np

from phys4d.reward import wire
from phys4d.reward.calls import details, status_code
from phys4d.reward.endpoints import ClientTls, Endpoint
from phys4d.reward.tensors import chunks
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.types import Camera, Failure, Outcome, Rollout, SceneSpec, Score

PIECE = 200


@dataclass(frozen=True, kw_only=True)
class ConformanceConfig:
    """Check a reward server."""

    endpoint: str = "127.0.0.1:9000"
    """`host:port`."""
    reward: str = ""
    """Reward to ask for; empty is the server's first."""
    token_file: Path | None = None
    """File with the bearer token, if the server asks for one."""
    ca_file: Path | None = None
    """PEM file of the authority of the server's certificate; none connects without TLS."""
    timeout_s: float = 20.0
    """Seconds for one call."""

    def __post_init__(self) -> None:
        if ":" not in self.endpoint:
            raise ValueError(f"endpoint must be host:port, got {self.endpoint!r}")
        if not self.timeout_s > 0:
            raise ValueError(f"timeout_s must be above 0, got {self.timeout_s}")


class Broken(Exception):
    """A promise is not kept; the message says what came instead."""


class NotOffered(Exception):
    """An optional part that the server says it lacks."""


@dataclass(frozen=True)
class Promise:
    """One promise of the protocol."""

    text: str
    check: Callable[["Probe"], None]
    required: bool


@dataclass(frozen=True)
class Verdict:
    """Whether a promise is kept."""

    promise: Promise
    result: Literal["kept", "broken", "not offered"]
    note: str = ""


PROMISES: list[Promise] = []


def promise(text: str, *, required: bool = True) -> Callable[[Callable[["Probe"], None]], None]:
    """Register the check of a promise; it raises `Broken` or `NotOffered`."""

    def register(check: Callable[["Probe"], None]) -> None:
        PROMISES.append(Promise(text, check, required))

    return register


def made_up_rollouts(count: int) -> list[Rollout]:
    """Distinct 8 x 6 rollouts of 3 frames: a plane at 2 m in slow uniform motion, an object in the middle."""
    scene = SceneSpec(category="rigid", family="drop", seed=0, parameters={}, num_frames=3, fps=12.0)
    camera = Camera(fx=9.0, fy=9.0, cx=4.0, cy=3.0, width=8, height=6, camera_from_world=np.eye(4))
    object_ids = np.zeros((6, 8), np.uint8)
    object_ids[2:4, 2:6] = 1
    return [
        Rollout(
            sample_id=f"conformance-{index}",
            scene=scene,
            camera=camera,
            depth=np.full((3, 6, 8), 2.0, np.float16),
            motion=np.full((2, 6, 8, 3), 0.25 * (index + 1), np.float16),
            object_ids=object_ids,
        )
        for index in range(count)
    ]


class Probe:
    """Calls to the server under test."""

    def __init__(self, config: ConformanceConfig) -> None:
        tls = ClientTls(ca_file=config.ca_file) if config.ca_file else None
        self._endpoint = Endpoint(config.endpoint, tls)
        self.stub = self._endpoint.stub
        self.reward = config.reward
        self.timeout_s = config.timeout_s
        self.metadata: list[tuple[str, str]] = []
        if config.token_file is not None:
            token = config.token_file.read_text(encoding="utf-8").strip()
            self.metadata.append(("authorization", f"Bearer {token}"))
        self.info = pb.GetServerInfoResponse()

    def close(self) -> None:
        """Close the connection."""
        self._endpoint.channel.close()

    def batch(self, messages: list[pb.Rollout], **fields) -> list[Outcome]:
        """Outcomes of ScoreBatch, one for each message in their order."""
        request = pb.ScoreBatchRequest(rollouts=messages, **{"reward": self.reward, **fields})
        response = self.stub.ScoreBatch(request, timeout=self.timeout_s, metadata=self.metadata)
        sent, came = [m.sample_id for m in messages], [o.sample_id for o in response.outcomes]
        if sent != came:
            raise Broken(f"sent {sent}, outcomes are of {came}")
        return [wire.outcome_from_proto(outcome) for outcome in response.outcomes]

    def stream(self, messages: list[pb.Rollout], spoil: int | None = None) -> dict[int, Outcome]:
        """Outcomes of ScoreStream by index; the second chunk of rollout `spoil` is left out."""
        if not self.info.streams:
            raise NotOffered("GetServerInfo says that it does not stream")
        parts = self._parts(messages, spoil)
        answers = list(self.stub.ScoreStream(parts, timeout=self.timeout_s, metadata=self.metadata))
        outcomes = {a.rollout: wire.outcome_from_proto(a.outcome) for a in answers}
        if len(answers) != len(messages) or set(outcomes) != set(range(len(messages))):
            raise Broken(f"{len(messages)} headers, answers to {sorted(a.rollout for a in answers)}")
        return outcomes

    def _parts(self, messages: list[pb.Rollout], spoil: int | None) -> Iterator[pb.ScoreStreamRequest]:
        yield pb.ScoreStreamRequest(open=pb.StreamOpen(reward=self.reward))
        for index, message in enumerate(messages):
            header = pb.Rollout()
            header.CopyFrom(message)
            for tensor in header.tensors:
                tensor.ClearField("data")
            yield pb.ScoreStreamRequest(header=header)
            for number, tensor in enumerate(message.tensors):
                for offset, data in chunks(tensor.data, PIECE):
                    if index == spoil and number == 0 and offset == PIECE:
                        continue
                    chunk = pb.Chunk(rollout=index, tensor=number, offset=offset, data=data)
                    yield pb.ScoreStreamRequest(chunk=chunk)

    def refuses(self, call: Callable[[], object], code: grpc.StatusCode) -> None:
        """Check that a call ends with a status."""
        try:
            call()
        except grpc.RpcError as error:
            if status_code(error) != code:
                raise Broken(f"expected {code.name}, got {details(error)}") from error
            return
        raise Broken(f"expected {code.name}, the call was answered")


def _messages(count: int, mark: str = "") -> list[pb.Rollout]:
    return [wire.rollout_to_proto(replace(r, text=mark)) for r in made_up_rollouts(count)]


def _failure(outcome: Outcome, error_class: str) -> Failure:
    if not isinstance(outcome.result, Failure):
        raise Broken(f"expected a failure of class {error_class}, got the score {outcome.result.value}")
    if outcome.result.error_class != error_class:
        told = f"{outcome.result.error_class}/{outcome.result.reason}"
        raise Broken(f"expected a failure of class {error_class}, got {told}: {outcome.result.message}")
    return outcome.result


def _same(one: Outcome, other: Outcome) -> bool:
    if isinstance(one.result, Score) and isinstance(other.result, Score):
        values = (one.result.value, dict(one.result.components), one.result.scorer_version)
        return values == (other.result.value, dict(other.result.components), other.result.scorer_version)
    return isinstance(one.result, Failure) and isinstance(other.result, Failure)


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
    for outcome in probe.batch(_messages(4)):
        if isinstance(outcome.result, Failure) and outcome.result.reason in ("UNKNOWN", "BAD_OUTCOME"):
            raise Broken(f"{outcome.result.reason}: {outcome.result.message}")


@promise("An empty ScoreBatch has no outcomes")
def _empty(probe: Probe) -> None:
    probe.batch([])


@promise("The same rollout has the same score")
def _repeat(probe: Probe) -> None:
    messages = _messages(2, "repeat")
    first = probe.batch(messages)
    for message in messages:
        message.attempt, message.idempotency_key = 2, ""
    second = probe.batch(messages)
    if not all(_same(*pair) for pair in zip(first, second, strict=True)):
        raise Broken("a repeat was scored otherwise")


@promise("Outcomes echo the attempt")
def _attempt(probe: Probe) -> None:
    message = _messages(1)[0]
    message.attempt = 3
    request = pb.ScoreBatchRequest(rollouts=[message], reward=probe.reward)
    response = probe.stub.ScoreBatch(request, timeout=probe.timeout_s, metadata=probe.metadata)
    if response.outcomes[0].attempt != 3:
        raise Broken(f"attempt 3 came back as {response.outcomes[0].attempt}")


@promise("A damaged tensor fails its rollout as INFRA, and no other")
def _damage(probe: Probe) -> None:
    messages = _messages(2, "damage")
    good = probe.batch([messages[1]])[0]
    messages[0].tensors[0].crc32c ^= 1
    spoilt, other = probe.batch(messages)
    _failure(spoilt, "INFRA")
    if not _same(good, other):
        raise Broken("the other rollout was answered otherwise than alone")


def _spoilt(change: Callable[[pb.Rollout], object]) -> Callable[[Probe], None]:
    def check(probe: Probe) -> None:
        message = _messages(1, "spoilt")[0]
        change(message)
        _failure(probe.batch([message])[0], "DATA")

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
    message = _messages(1)[0]
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
        _failure(outcome, "DATA")


@promise("NaN never earns a number")
def _nan(probe: Probe) -> None:
    rollout = made_up_rollouts(1)[0]
    nothing = replace(
        rollout, depth=np.full_like(rollout.depth, np.nan), motion=np.full_like(rollout.motion, np.nan)
    )
    _failure(probe.batch([wire.rollout_to_proto(nothing)])[0], "DATA")


@promise("An unknown reward is refused with INVALID_ARGUMENT")
def _reward(probe: Probe) -> None:
    probe.refuses(
        lambda: probe.batch(_messages(1), reward="no such reward"), grpc.StatusCode.INVALID_ARGUMENT
    )


@promise("Two rollouts of one sample_id are refused with INVALID_ARGUMENT")
def _twice(probe: Probe) -> None:
    message = _messages(1)[0]
    probe.refuses(lambda: probe.batch([message, message]), grpc.StatusCode.INVALID_ARGUMENT)


@promise("A call without the token is refused with UNAUTHENTICATED", required=False)
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


@promise("ScoreStream answers every header once", required=False)
def _stream(probe: Probe) -> None:
    messages = _messages(3, "stream")
    outcomes, alone = probe.stream(messages), probe.batch(messages)
    if not all(_same(outcomes[index], outcome) for index, outcome in enumerate(alone)):
        raise Broken("a stream is answered otherwise than a batch")


@promise("A missing chunk fails its rollout as INFRA, and no other", required=False)
def _chunk(probe: Probe) -> None:
    messages = _messages(3, "missing chunk")
    outcomes = probe.stream(messages, spoil=1)
    _failure(outcomes[1], "INFRA")
    alone = probe.batch([messages[0], messages[2]])
    if not (_same(outcomes[0], alone[0]) and _same(outcomes[2], alone[1])):
        raise Broken("the other rollouts were answered otherwise than in a batch")


@promise("Rollouts compressed with Blosc2 score like others", required=False)
def _blosc2(probe: Probe) -> None:
    if pb.CODEC_BLOSC2 not in probe.info.codecs:
        raise NotOffered("GetServerInfo does not list CODEC_BLOSC2")
    rollouts = made_up_rollouts(2)
    packed = [wire.rollout_to_proto(r, "blosc2") for r in rollouts]
    raw = [wire.rollout_to_proto(r) for r in rollouts]
    pairs = zip(probe.batch(packed), probe.batch(raw), strict=True)
    if not all(_same(one, other) for one, other in pairs):
        raise Broken("a compressed rollout was scored otherwise")


def run_suite(config: ConformanceConfig) -> list[Verdict]:
    """Check every promise on a running server.

    Raises:
        UserError: no server answers, or it refuses the token.
    """
    probe = Probe(config)
    try:
        try:
            probe.info = probe.stub.GetServerInfo(
                pb.GetServerInfoRequest(), timeout=config.timeout_s, metadata=probe.metadata
            )
        except grpc.RpcError as error:
            raise UserError(f"no reward server at {config.endpoint}: {details(error)}") from error
        return [_judge(each, probe) for each in PROMISES]
    finally:
        probe.close()


def _judge(each: Promise, probe: Probe) -> Verdict:
    try:
        each.check(probe)
    except NotOffered as error:
        return Verdict(each, "not offered", str(error))
    except Broken as error:
        return Verdict(each, "broken", str(error))
    except grpc.RpcError as error:
        return Verdict(each, "broken", details(error))
    return Verdict(each, "kept")


def main() -> None:
    """Command line."""
    verdicts = run_suite(load(ConformanceConfig))
    for verdict in verdicts:
        note = f" ({verdict.note})" if verdict.note else ""
        print(f"{verdict.result:12s} {verdict.promise.text}{note}")
    broken = [verdict for verdict in verdicts if verdict.result == "broken"]
    num_kept = sum(verdict.result == "kept" for verdict in verdicts)
    print(f"\n{num_kept} of {len(verdicts)} promises kept, {len(broken)} broken")
    if any(verdict.promise.required for verdict in broken):
        raise SystemExit(1)


if __name__ == "__main__":
    run_main(main)
