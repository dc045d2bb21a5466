"""A thousand hostile messages: each is answered, none with a number it did not earn, and the server lives."""

from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phys4d.reward import wire
from phys4d.reward.calls import status_code
from phys4d.reward.conformance import made_up_rollouts, real_rollouts
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.reward.v1 import reward_pb2_grpc
from phys4d.types import Score

METHODS = ("GetServerInfo", "ScoreBatch")
VALID = [wire.rollout_to_proto(rollout) for rollout in made_up_rollouts(2)]
SMOOTH = "motion_smoothness"
REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory, run_service) -> Iterator[grpc.Channel]:
    flags = ["--rewards", "examples.motion_smoothness:MotionSmoothness"]
    flags += ["--limits.max-tensor-bytes", str(1 << 20), "--limits.max-request-bytes", str(4 << 20)]
    flags += ["--log-level", "WARNING"]
    folder = tmp_path_factory.mktemp("hostile")
    with run_service("plain", folder, *flags) as (endpoint, _), grpc.insecure_channel(endpoint) as opened:
        yield opened
        # It still answers, and has logged no bug of its own.
        stub = reward_pb2_grpc.RewardServiceStub(opened)
        response = stub.ScoreBatch(pb.ScoreBatchRequest(rollouts=VALID, reward=SMOOTH), timeout=30)
        assert all(o.HasField("score") for o in response.outcomes)
    assert "Traceback" not in (folder / "log.txt").read_text()


def sizes() -> st.SearchStrategy[int]:
    return st.sampled_from([-(2**63), -1, 0, 1, 2, 7, 2**20, 2**31 - 1, 2**40, 2**63 - 1]) | st.integers(
        0, 64
    )


tensors = st.builds(
    pb.Tensor,
    name=st.sampled_from(["depth", "motion", "object_ids", "rgb", "", "x" * 300]) | st.text(max_size=5),
    dtype=st.integers(0, 4),
    shape=st.lists(sizes(), max_size=10),
    codec=st.integers(0, 3),
    byte_size=sizes(),
    crc32c=st.integers(0, 2**32 - 1),
    data=st.binary(max_size=200),
    packed_size=sizes(),
)


@st.composite
def rollouts(draw: st.DrawFn) -> pb.Rollout:
    """A valid rollout with some of its parts replaced."""
    message = pb.Rollout()
    message.CopyFrom(draw(st.sampled_from(VALID)))
    message.sample_id = draw(st.text(max_size=8) | st.just("x" * 1000))
    if draw(st.booleans()):
        index = draw(st.integers(0, len(message.tensors) - 1))
        message.tensors[index].CopyFrom(draw(tensors))
    if draw(st.booleans()):
        tensor = message.tensors[draw(st.integers(0, len(message.tensors) - 1))]
        field = draw(st.sampled_from(["byte_size", "packed_size", "crc32c", "codec", "dtype"]))
        setattr(tensor, field, draw(st.integers(0, 4)))
    if draw(st.booleans()):
        message.camera.width = draw(st.sampled_from([-1, 0, 1, 2**31 - 1]))
    if draw(st.booleans()):
        number = draw(st.floats(width=64))
        message.camera.camera_from_world[draw(st.integers(0, 15))] = number
    if draw(st.booleans()):
        message.scene.num_frames = draw(st.sampled_from([-(2**31), 0, 1, 2, 2**31 - 1]))
    if draw(st.booleans()):
        message.scene.parameters["x"] = draw(st.floats())
    message.seed = draw(sizes())
    return message


def answer(channel: grpc.Channel, method: str, data: bytes) -> pb.ScoreBatchResponse | None:
    """What the server answers to bytes; None for a refusal of the call."""
    call = channel.unary_unary(f"/phys4d.reward.v1.RewardService/{method}")
    try:
        response = call(data, timeout=30)
    except grpc.RpcError as error:
        assert status_code(error) in REFUSALS, error
        return None
    return pb.ScoreBatchResponse.FromString(response) if method == "ScoreBatch" else None


@given(st.sampled_from(METHODS), st.binary(max_size=400))
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_bytes_are_refused(channel: grpc.Channel, method: str, data: bytes) -> None:
    response = answer(channel, method, data)
    assert response is None or not any(o.HasField("score") for o in response.outcomes)


@given(st.lists(rollouts(), min_size=1, max_size=3), st.sampled_from([0, 1, -5, 2**62]))
@settings(max_examples=440, deadline=None, suppress_health_check=list(HealthCheck))
def test_rollouts_with_hostile_parts_are_answered_one_by_one(
    channel: grpc.Channel, messages: list[pb.Rollout], budget_ms: int
) -> None:
    """A score is earned only by a message that our own reading of the contract accepts."""
    request = pb.ScoreBatchRequest(rollouts=messages, budget_ms=budget_ms, reward=SMOOTH)
    response = answer(channel, "ScoreBatch", request.SerializeToString())
    if response is None:
        return
    assert [o.sample_id for o in response.outcomes] == [m.sample_id for m in messages]
    for outcome, message in zip(response.outcomes, messages, strict=True):
        result = wire.outcome_from_proto(outcome).result
        if outcome.HasField("score"):
            rollout = wire.rollout_from_proto(message, max_tensor_bytes=1 << 20)
            assert np.isfinite(outcome.score.value) and np.isfinite(rollout.motion).all()
        else:
            assert result.reason not in ("UNKNOWN", "BAD_OUTCOME", "REWARD_RAISED"), result  # pyright: ignore


REAL = wire.rollout_to_proto(real_rollouts(1)[0])
odd = st.sampled_from([None, [], {}, "x", [1.0, 2.0], -1.0, 0.0, 1e9, True])


@st.composite
def hostile_scenes(draw: st.DrawFn) -> pb.Rollout:
    """A real rollout, one of whose scene's parameters is something else."""
    message = pb.Rollout()
    message.CopyFrom(REAL)
    scene = wire.scene_from_proto(REAL.scene)
    inner: Any = scene.parameters
    while True:
        keys = list(range(len(inner))) if isinstance(inner, list) else sorted(inner)
        key = draw(st.sampled_from(keys))
        if not (isinstance(inner[key], dict | list) and inner[key]) or draw(st.booleans()):
            break
        inner = inner[key]
    inner[key] = draw(odd)
    message.scene.CopyFrom(wire.scene_to_proto(scene))
    message.idempotency_key = ""
    return message


@given(st.lists(hostile_scenes(), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_hostile_scenes_are_faults_of_the_data(channel: grpc.Channel, messages: list[pb.Rollout]) -> None:
    """Some of what is odd does not matter: then the rollout has its score."""
    for number, message in enumerate(messages):
        message.sample_id = f"{number}"
    request = pb.ScoreBatchRequest(rollouts=messages, reward="scene_chamfer")
    response = answer(channel, "ScoreBatch", request.SerializeToString())
    assert response is not None
    for outcome in response.outcomes:
        result = wire.outcome_from_proto(outcome).result
        assert isinstance(result, Score) or result.error_class == "DATA", result


parts = st.one_of(
    st.builds(pb.ScoreStreamRequest, header=rollouts()),
    st.builds(
        pb.ScoreStreamRequest,
        chunk=st.builds(
            pb.Chunk,
            rollout=st.integers(0, 3),
            tensor=st.integers(0, 4),
            offset=sizes(),
            data=st.binary(max_size=300),
        ),
    ),
    st.just(pb.ScoreStreamRequest()),
    st.just(pb.ScoreStreamRequest(open=pb.StreamOpen())),
)


@given(st.lists(parts, max_size=8))
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_hostile_streams_end(channel: grpc.Channel, messages: list[pb.ScoreStreamRequest]) -> None:
    stub = reward_pb2_grpc.RewardServiceStub(channel)
    opening = pb.ScoreStreamRequest(open=pb.StreamOpen(reward=SMOOTH))
    answers = []
    try:
        answers += stub.ScoreStream(iter([opening, *messages]), timeout=30)
    except grpc.RpcError as error:
        assert status_code(error) in REFUSALS, error
        return
    headers = [part.header for part in messages if part.WhichOneof("part") == "header"]
    assert sorted(a.rollout for a in answers) == list(range(len(headers)))
