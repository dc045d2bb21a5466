import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.reward import tensors, wire
from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Camera, Failure, Outcome, Rollout, SceneSpec, Score

LIMIT = 1 << 20
json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


def make_rollout(**changes) -> Rollout:
    rng = np.random.default_rng(0)
    scene = SceneSpec(
        category="rigid",
        family="drop",
        seed=2**62,
        parameters={"mass_kg": 0.1, "list": [1, 2.5]},
        num_frames=3,
        fps=12.0,
    )
    camera = Camera(fx=9.5, fy=9.0, cx=4.0, cy=3.0, width=8, height=6, camera_from_world=np.eye(4))
    values = {
        "sample_id": "a",
        "scene": scene,
        "camera": camera,
        "depth": rng.uniform(1, 5, (3, 6, 8)).astype(np.float16),
        "motion": rng.normal(size=(2, 6, 8, 3)).astype(np.float16),
        "object_ids": np.ones((6, 8), np.uint8),
        "text": "a red ball",
    }
    return Rollout(**{**values, **changes})


def refusal(message: pb.Rollout) -> Failure:
    with pytest.raises(wire.WireError) as info:
        wire.rollout_from_proto(message, max_tensor_bytes=LIMIT)
    return info.value.failure


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4), st.floats(1e-3, 1e6))
@settings(max_examples=50, deadline=None)
def test_a_scene_arrives_exactly(parameters: dict, fps: float) -> None:
    scene = SceneSpec(
        category="rigid", family="drop", seed=2**63 - 1, parameters=parameters, num_frames=9, fps=fps
    )
    message = pb.SceneSpec.FromString(wire.scene_to_proto(scene).SerializeToString())
    arrived = wire.scene_from_proto(message)
    assert arrived == scene
    assert arrived.digest() == scene.digest()


def test_a_rollout_arrives_as_it_was_sent() -> None:
    sent = make_rollout(rgb=np.full((3, 6, 8, 3), 7, np.uint8))
    message = pb.Rollout.FromString(wire.rollout_to_proto(sent).SerializeToString())
    arrived = wire.rollout_from_proto(message, max_tensor_bytes=LIMIT)
    for name in ("depth", "motion", "object_ids", "rgb"):
        np.testing.assert_array_equal(getattr(arrived, name), getattr(sent, name))
    assert (arrived.sample_id, arrived.text, arrived.scene) == (sent.sample_id, sent.text, sent.scene)
    assert arrived.camera.to_dict() == sent.camera.to_dict()


def test_floats_travel_in_half_precision_unless_they_do_not_fit() -> None:
    depth = np.full((3, 6, 8), 4.001, np.float32)
    message = wire.rollout_to_proto(make_rollout(depth=depth))
    assert message.tensors[0].dtype == pb.D_TYPE_FLOAT16
    assert message.tensors[0].byte_size == 2 * depth.size
    far = depth.copy()
    far[0, 0, 0] = 70_000.0
    arrived = wire.rollout_from_proto(wire.rollout_to_proto(make_rollout(depth=far)), max_tensor_bytes=LIMIT)
    np.testing.assert_array_equal(arrived.depth, far)


def test_nan_travels_so_that_the_reward_can_refuse_it() -> None:
    depth = np.full((3, 6, 8), np.nan, np.float32)
    arrived = wire.rollout_from_proto(
        wire.rollout_to_proto(make_rollout(depth=depth)), max_tensor_bytes=LIMIT
    )
    assert np.isnan(arrived.depth).all()


def test_the_same_content_has_the_same_key_and_other_content_another() -> None:
    key = wire.rollout_to_proto(make_rollout()).idempotency_key
    assert key == wire.rollout_to_proto(make_rollout()).idempotency_key
    changed = make_rollout().motion.copy()
    changed[0, 0, 0, 0] += 1
    assert key != wire.rollout_to_proto(make_rollout(motion=changed)).idempotency_key
    assert key != wire.rollout_to_proto(make_rollout(sample_id="b")).idempotency_key


@pytest.mark.parametrize(
    ("change", "reason", "error_class"),
    [
        (lambda t: t.shape.__setitem__(0, 4), "WRONG_SHAPE", "DATA"),
        (lambda t: t.shape.__delitem__(0), "WRONG_SHAPE", "DATA"),
        (lambda t: setattr(t, "byte_size", 1), "WRONG_SIZE", "DATA"),
        (lambda t: setattr(t, "data", t.data[:-1]), "WRONG_SIZE", "DATA"),
        (lambda t: setattr(t, "data", t.data[:-1] + b"?"), "CHECKSUM_MISMATCH", "INFRA"),
        (lambda t: setattr(t, "crc32c", t.crc32c ^ 1), "CHECKSUM_MISMATCH", "INFRA"),
        (lambda t: setattr(t, "dtype", pb.D_TYPE_UINT8), "WRONG_DTYPE", "DATA"),
        (lambda t: setattr(t, "dtype", pb.D_TYPE_UNSPECIFIED), "WRONG_DTYPE", "DATA"),
        (lambda t: setattr(t, "dtype", 77), "WRONG_DTYPE", "DATA"),
        (lambda t: setattr(t, "codec", pb.CODEC_UNSPECIFIED), "UNKNOWN_CODEC", "DATA"),
        (lambda t: setattr(t, "name", "colour"), "WRONG_TENSORS", "DATA"),
    ],
)
def test_a_damaged_tensor_is_refused(change, reason: str, error_class: str) -> None:
    message = wire.rollout_to_proto(make_rollout())
    change(message.tensors[0])
    failure = refusal(message)
    assert (failure.reason, failure.error_class) == (reason, error_class)


def test_a_tensor_that_comes_twice_is_refused() -> None:
    message = wire.rollout_to_proto(make_rollout())
    message.tensors.append(message.tensors[0])
    assert refusal(message).message.startswith("tensor 'depth' is twice")


def test_a_shape_that_promises_terabytes_is_refused_before_memory_is_taken() -> None:
    tensor = pb.Tensor(
        name="x", dtype=pb.D_TYPE_FLOAT32, shape=[2**40, 2**40], codec=pb.CODEC_NONE, byte_size=2**62
    )
    with pytest.raises(wire.WireError, match="TOO_LARGE"):
        tensors.tensor_from_proto(tensor, max_bytes=LIMIT)


@pytest.mark.parametrize("shape", [[], [0, 3], [-1, 3], [1] * 9])
def test_shapes_without_sense_are_refused(shape: list[int]) -> None:
    tensor = pb.Tensor(name="x", dtype=pb.D_TYPE_UINT8, shape=shape, codec=pb.CODEC_NONE)
    with pytest.raises(wire.WireError, match="WRONG_SHAPE"):
        tensors.tensor_from_proto(tensor, max_bytes=LIMIT)


def test_missing_parts_are_named() -> None:
    message = wire.rollout_to_proto(make_rollout())
    for field, reason in (
        ("scene", "MISSING_SCENE"),
        ("camera", "MISSING_CAMERA"),
        ("sample_id", "MISSING_SAMPLE_ID"),
    ):
        without = pb.Rollout()
        without.CopyFrom(message)
        without.ClearField(field)
        assert refusal(without).reason == reason
    del message.tensors[1]
    assert refusal(message) == Failure(
        error_class="DATA", reason="WRONG_TENSORS", message="a rollout needs the tensors ['motion']"
    )


def test_scene_and_camera_without_sense_are_refused() -> None:
    message = wire.rollout_to_proto(make_rollout())
    message.scene.parameters["mass_kg"] = math.inf
    assert refusal(message).reason == "BAD_SCENE_OR_CAMERA"
    message = wire.rollout_to_proto(make_rollout())
    message.camera.camera_from_world[0] = 3.0
    assert "rigid" in refusal(message).message
    del message.camera.camera_from_world[-1]
    assert "16 values" in refusal(message).message


@pytest.mark.parametrize(
    "result",
    [
        Score(
            value=-0.1, components={"a": 1e300}, scorer_version="1", simulator="mujoco 4.0.1", scoring_s=0.1
        ),
        Failure(
            error_class="DATA", reason="NON_FINITE_DEPTH", message="depth has 3 values that are not finite"
        ),
        Failure(error_class="INFRA", reason="BUDGET_EXCEEDED", message="late"),
    ],
)
def test_an_outcome_arrives_as_it_was_sent(result: Score | Failure) -> None:
    sent = Outcome(sample_id="a", result=result)
    data = wire.outcome_to_proto(sent, attempt=2).SerializeToString()
    assert wire.outcome_from_proto(pb.Outcome.FromString(data)) == sent


def test_an_outcome_that_breaks_the_contract_is_a_failure_and_never_a_number() -> None:
    empty = wire.outcome_from_proto(pb.Outcome(sample_id="a"))
    nan = wire.outcome_from_proto(pb.Outcome(sample_id="a", score=pb.Score(value=math.nan)))
    for outcome in (empty, nan):
        assert outcome.score is None
        assert isinstance(outcome.result, Failure) and outcome.result.reason == "BAD_OUTCOME"


def test_only_the_three_dtypes_of_the_contract_are_sent() -> None:
    with pytest.raises(ValueError, match="float16, float32 or uint8, got int64"):
        wire.rollout_to_proto(replace(make_rollout(), object_ids=np.ones((6, 8), np.int64)))
