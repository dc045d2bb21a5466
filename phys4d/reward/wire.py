"""Conversion between wire messages and values.

What comes from the wire is checked before memory is taken for it. Whether the numbers make sense (finite,
positive depth) is for the reward to judge.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf import any_pb2, struct_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from phys4d.reward.v1 import reward_pb2 as pb
from phys4d.types import Camera, Failure, Outcome, Rollout, SceneSpec, Score

ERROR_DOMAIN = "phys4d.reward"
MAX_AXES = 8
DTYPES = {
    pb.D_TYPE_FLOAT16: np.dtype("<f2"),
    pb.D_TYPE_FLOAT32: np.dtype("<f4"),
    pb.D_TYPE_UINT8: np.dtype("u1"),
}
DTYPE_CODES = {dtype: code for code, dtype in DTYPES.items()}
REQUIRED_TENSORS = {"depth": "f", "motion": "f", "object_ids": "u"}
OPTIONAL_TENSORS = {"rgb": "u"}


class WireError(Exception):
    """A message that breaks the contract."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.reason}: {failure.message}")
        self.failure = failure


def _refuse(reason: str, message: str, error_class: str = "DATA") -> WireError:
    assert error_class in ("INFRA", "DATA")
    return WireError(Failure(error_class=error_class, reason=reason, message=message))


def tensor_to_proto(name: str, array: np.ndarray) -> pb.Tensor:
    """Pack an array; its dtype must be float16, float32 or uint8."""
    array = np.ascontiguousarray(array)
    dtype = array.dtype.newbyteorder("<")
    if dtype not in DTYPE_CODES:
        raise ValueError(f"tensor {name!r} must be float16, float32 or uint8, got {array.dtype}")
    data = array.astype(dtype, copy=False).tobytes()
    return pb.Tensor(
        name=name,
        dtype=DTYPE_CODES[dtype],
        shape=array.shape,
        codec=pb.CODEC_NONE,
        byte_size=len(data),
        crc32c=google_crc32c.value(data),
        data=data,
    )


def tensor_from_proto(tensor: pb.Tensor, *, max_bytes: int) -> np.ndarray:
    """Unpack an array, read-only, without a copy.

    Raises:
        WireError: format, shape and sizes disagree or exceed `max_bytes` (DATA), or the checksum
            does not fit (INFRA: the bytes were damaged on the way).
    """
    where = f"tensor {tensor.name!r}"
    if tensor.dtype not in DTYPES:
        raise _refuse("WRONG_DTYPE", f"{where} must be float16, float32 or uint8, got code {tensor.dtype}")
    if tensor.codec != pb.CODEC_NONE:
        raise _refuse("UNKNOWN_CODEC", f"{where} must have codec NONE, got code {tensor.codec}")
    shape = tuple(tensor.shape)
    if not 1 <= len(shape) <= MAX_AXES or min(shape) < 1:
        raise _refuse(
            "WRONG_SHAPE", f"{where} must have 1 to {MAX_AXES} axes of at least 1, got {shape[:16]}"
        )
    dtype = DTYPES[tensor.dtype]
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes > max_bytes:
        raise _refuse("TOO_LARGE", f"{where} has {num_bytes} bytes; the server takes {max_bytes} per tensor")
    if not num_bytes == tensor.byte_size == len(tensor.data):
        raise _refuse(
            "WRONG_SIZE",
            f"{where} of shape {shape} takes {num_bytes} bytes, byte_size says {tensor.byte_size} "
            f"and {len(tensor.data)} came",
        )
    if google_crc32c.value(tensor.data) != tensor.crc32c:
        raise _refuse("CHECKSUM_MISMATCH", f"{where} was damaged on the way: its CRC-32C differs", "INFRA")
    return np.frombuffer(tensor.data, dtype).reshape(shape)


def _parameters_to_python(value: struct_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return {k: _parameters_to_python(v) for k, v in value.struct_value.fields.items()}
    if kind == "list_value":
        return [_parameters_to_python(v) for v in value.list_value.values]
    return None if kind in (None, "null_value") else getattr(value, kind)


def scene_to_proto(scene: SceneSpec) -> pb.SceneSpec:
    """Convert a scene; float64 values arrive exactly."""
    parameters = struct_pb2.Struct()
    parameters.update(scene.parameters)
    return pb.SceneSpec(**{**scene.__dict__, "parameters": parameters})


def scene_from_proto(message: pb.SceneSpec) -> SceneSpec:
    """Inverse of `scene_to_proto`: the result is equal and has the same digest."""
    parameters = {k: _parameters_to_python(v) for k, v in message.parameters.fields.items()}
    names = (f.name for f in message.DESCRIPTOR.fields if f.name != "parameters")
    return SceneSpec(parameters=parameters, **{name: getattr(message, name) for name in names})


def camera_to_proto(camera: Camera) -> pb.Camera:
    """Convert a camera."""
    return pb.Camera(**{**camera.__dict__, "camera_from_world": camera.camera_from_world.ravel().tolist()})


def camera_from_proto(message: pb.Camera) -> Camera:
    """Inverse of `camera_to_proto`."""
    if len(message.camera_from_world) != 16:
        raise ValueError(f"camera_from_world must have 16 values, got {len(message.camera_from_world)}")
    pose = np.array(message.camera_from_world, np.float64).reshape(4, 4)
    names = (f.name for f in message.DESCRIPTOR.fields if f.name != "camera_from_world")
    return Camera(camera_from_world=pose, **{name: getattr(message, name) for name in names})


def compact_float(array: np.ndarray) -> np.ndarray:
    """The array as float16, or as float32 if a finite value does not fit (|x| above 65504)."""
    array = np.asarray(array)
    if array.dtype == np.float16:
        return array
    largest = np.max(np.abs(array), initial=0.0, where=np.isfinite(array))
    return array.astype(np.float16 if largest <= 65504 else np.float32)


def rollout_to_proto(rollout: Rollout) -> pb.Rollout:
    """Pack a rollout, attempt 1, with a key made of its content.

    Depth and motion travel as float16: at 4 to 8 m depth is rounded to the nearest 4 mm.
    """
    tensors = [
        tensor_to_proto("depth", compact_float(rollout.depth)),
        tensor_to_proto("motion", compact_float(rollout.motion)),
        tensor_to_proto("object_ids", np.asarray(rollout.object_ids)),
    ]
    if rollout.rgb is not None:
        tensors.append(tensor_to_proto("rgb", np.asarray(rollout.rgb)))
    message = pb.Rollout(
        sample_id=rollout.sample_id,
        attempt=1,
        scene=scene_to_proto(rollout.scene),
        camera=camera_to_proto(rollout.camera),
        tensors=tensors,
        text=rollout.text,
    )
    digest = hashlib.sha256(f"{rollout.scene.digest()} {rollout.camera.to_dict()} {rollout.text}".encode())
    for tensor in tensors:
        digest.update(f"{tensor.name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.data)
    message.idempotency_key = f"{rollout.sample_id}/{digest.hexdigest()[:32]}"
    return message


def rollout_from_proto(message: pb.Rollout, *, max_tensor_bytes: int) -> Rollout:
    """Check and unpack a rollout.

    Raises:
        WireError: a part is missing, malformed, or its shape disagrees with the scene and camera.
    """
    if not message.sample_id:
        raise _refuse("MISSING_SAMPLE_ID", "sample_id must not be empty")
    for name in ("scene", "camera"):
        if not message.HasField(name):
            raise _refuse(f"MISSING_{name.upper()}", f"a rollout needs a {name}")
    try:
        scene, camera = scene_from_proto(message.scene), camera_from_proto(message.camera)
    except ValueError as error:
        raise _refuse("BAD_SCENE_OR_CAMERA", str(error)) from error
    _check_shapes(message.tensors, scene, camera)
    arrays = {t.name: tensor_from_proto(t, max_bytes=max_tensor_bytes) for t in message.tensors}
    return Rollout(sample_id=message.sample_id, scene=scene, camera=camera, text=message.text, **arrays)


def _check_shapes(tensors: Iterable[pb.Tensor], scene: SceneSpec, camera: Camera) -> None:
    num_frames, height, width = scene.num_frames, camera.height, camera.width
    shapes = {
        "depth": (num_frames, height, width),
        "motion": (num_frames - 1, height, width, 3),
        "object_ids": (height, width),
        "rgb": (num_frames, height, width, 3),
    }
    kinds = REQUIRED_TENSORS | OPTIONAL_TENSORS
    seen = set()
    for tensor in tensors:
        name = tensor.name
        if name not in shapes or name in seen:
            fault = "twice" if name in seen else "unknown"
            raise _refuse("WRONG_TENSORS", f"tensor {name[:64]!r} is {fault}; known: {sorted(shapes)}")
        seen.add(name)
        if tuple(tensor.shape) != shapes[name]:
            raise _refuse(
                "WRONG_SHAPE",
                f"{name} must be {shapes[name]} for {num_frames} frames of {width}x{height}, "
                f"got {tuple(tensor.shape)[:16]}",
            )
        if tensor.dtype in DTYPES and DTYPES[tensor.dtype].kind != kinds[name]:
            raise _refuse("WRONG_DTYPE", f"{name} must not be {DTYPES[tensor.dtype]}")
    if missing := sorted(set(REQUIRED_TENSORS) - seen):
        raise _refuse("WRONG_TENSORS", f"a rollout needs the tensors {missing}")


def outcome_to_proto(outcome: Outcome, *, attempt: int = 0) -> pb.Outcome:
    """Convert an outcome."""
    message = pb.Outcome(sample_id=outcome.sample_id, attempt=attempt)
    if isinstance(outcome.result, Score):
        message.score.CopyFrom(pb.Score(**outcome.result.__dict__))
        return message
    failure = outcome.result
    info = error_details_pb2.ErrorInfo(
        reason=failure.reason, domain=ERROR_DOMAIN, metadata={"class": failure.error_class}
    )
    detail = any_pb2.Any()
    detail.Pack(info)
    code = code_pb2.INVALID_ARGUMENT if failure.error_class == "DATA" else code_pb2.UNAVAILABLE
    message.error.CopyFrom(status_pb2.Status(code=code, message=failure.message, details=[detail]))
    return message


def outcome_from_proto(message: pb.Outcome) -> Outcome:
    """Convert an outcome; one that breaks the contract becomes a failure, never a number."""
    return Outcome(sample_id=message.sample_id, result=_result_from_proto(message))


def _result_from_proto(message: pb.Outcome) -> Score | Failure:
    kind = message.WhichOneof("result")
    if kind == "score":
        score = message.score
        try:
            return Score(
                value=score.value,
                components=dict(score.components),
                scorer_version=score.scorer_version,
                simulator=score.simulator,
                scoring_s=score.scoring_s,
            )
        except ValueError as error:
            return Failure(error_class="INFRA", reason="BAD_OUTCOME", message=f"the server sent {error}")
    if kind == "error":
        return failure_from_status(message.error)
    return Failure(
        error_class="INFRA", reason="BAD_OUTCOME", message="the server sent neither score nor error"
    )


def failure_from_status(status: status_pb2.Status) -> Failure:
    """Read class and reason from the ErrorInfo; without one the class is INFRA."""
    info = error_details_pb2.ErrorInfo()
    metadata: Mapping[str, str] = {}
    for detail in status.details:
        if detail.TypeName() == info.DESCRIPTOR.full_name:
            detail.Unpack(info)
            metadata = info.metadata
    is_data = metadata.get("class") == "DATA"
    return Failure(
        error_class="DATA" if is_data else "INFRA",
        reason=info.reason or "UNKNOWN",
        message=status.message,
    )
