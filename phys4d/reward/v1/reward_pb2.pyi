from google.protobuf import struct_pb2 as _struct_pb2
from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    D_TYPE_UNSPECIFIED: _ClassVar[DType]
    D_TYPE_FLOAT16: _ClassVar[DType]
    D_TYPE_FLOAT32: _ClassVar[DType]
    D_TYPE_UINT8: _ClassVar[DType]

class Codec(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CODEC_UNSPECIFIED: _ClassVar[Codec]
    CODEC_NONE: _ClassVar[Codec]
    CODEC_BLOSC2: _ClassVar[Codec]
D_TYPE_UNSPECIFIED: DType
D_TYPE_FLOAT16: DType
D_TYPE_FLOAT32: DType
D_TYPE_UINT8: DType
CODEC_UNSPECIFIED: Codec
CODEC_NONE: Codec
CODEC_BLOSC2: Codec

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("rewards", "simulator", "categories", "limits", "codecs", "streams", "server")
    REWARDS_FIELD_NUMBER: _ClassVar[int]
    SIMULATOR_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CODECS_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    SERVER_FIELD_NUMBER: _ClassVar[int]
    rewards: _containers.RepeatedCompositeFieldContainer[RewardInfo]
    simulator: str
    categories: _containers.RepeatedCompositeFieldContainer[CategoryInfo]
    limits: Limits
    codecs: _containers.RepeatedScalarFieldContainer[Codec]
    streams: bool
    server: str
    def __init__(self, rewards: _Optional[_Iterable[_Union[RewardInfo, _Mapping]]] = ..., simulator: _Optional[str] = ..., categories: _Optional[_Iterable[_Union[CategoryInfo, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., codecs: _Optional[_Iterable[_Union[Codec, str]]] = ..., streams: bool = ..., server: _Optional[str] = ...) -> None: ...

class RewardInfo(_message.Message):
    __slots__ = ("name", "version", "description", "inputs")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    description: str
    inputs: _containers.RepeatedCompositeFieldContainer[InputSpec]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., description: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[InputSpec, _Mapping]]] = ...) -> None: ...

class InputSpec(_message.Message):
    __slots__ = ("name", "dtypes", "required")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtypes: _containers.RepeatedScalarFieldContainer[DType]
    required: bool
    def __init__(self, name: _Optional[str] = ..., dtypes: _Optional[_Iterable[_Union[DType, str]]] = ..., required: bool = ...) -> None: ...

class CategoryInfo(_message.Message):
    __slots__ = ("name", "families", "engine")
    NAME_FIELD_NUMBER: _ClassVar[int]
    FAMILIES_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    name: str
    families: _containers.RepeatedScalarFieldContainer[str]
    engine: str
    def __init__(self, name: _Optional[str] = ..., families: _Optional[_Iterable[str]] = ..., engine: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_request_bytes", "max_rollouts", "max_tensor_bytes", "max_chunk_bytes", "max_stream_bytes")
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    MAX_TENSOR_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_CHUNK_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_STREAM_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_request_bytes: int
    max_rollouts: int
    max_tensor_bytes: int
    max_chunk_bytes: int
    max_stream_bytes: int
    def __init__(self, max_request_bytes: _Optional[int] = ..., max_rollouts: _Optional[int] = ..., max_tensor_bytes: _Optional[int] = ..., max_chunk_bytes: _Optional[int] = ..., max_stream_bytes: _Optional[int] = ...) -> None: ...

class ScoreBatchRequest(_message.Message):
    __slots__ = ("rollouts", "reward", "budget_ms", "request_id")
    ROLLOUTS_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    rollouts: _containers.RepeatedCompositeFieldContainer[Rollout]
    reward: str
    budget_ms: int
    request_id: str
    def __init__(self, rollouts: _Optional[_Iterable[_Union[Rollout, _Mapping]]] = ..., reward: _Optional[str] = ..., budget_ms: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class ScoreBatchResponse(_message.Message):
    __slots__ = ("outcomes",)
    OUTCOMES_FIELD_NUMBER: _ClassVar[int]
    outcomes: _containers.RepeatedCompositeFieldContainer[Outcome]
    def __init__(self, outcomes: _Optional[_Iterable[_Union[Outcome, _Mapping]]] = ...) -> None: ...

class ScoreStreamRequest(_message.Message):
    __slots__ = ("open", "header", "chunk")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    open: StreamOpen
    header: Rollout
    chunk: Chunk
    def __init__(self, open: _Optional[_Union[StreamOpen, _Mapping]] = ..., header: _Optional[_Union[Rollout, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ...) -> None: ...

class StreamOpen(_message.Message):
    __slots__ = ("reward", "budget_ms", "request_id")
    REWARD_FIELD_NUMBER: _ClassVar[int]
    BUDGET_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    reward: str
    budget_ms: int
    request_id: str
    def __init__(self, reward: _Optional[str] = ..., budget_ms: _Optional[int] = ..., request_id: _Optional[str] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("rollout", "tensor", "offset", "data")
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    rollout: int
    tensor: int
    offset: int
    data: bytes
    def __init__(self, rollout: _Optional[int] = ..., tensor: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ScoreStreamResponse(_message.Message):
    __slots__ = ("outcome", "rollout")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    rollout: int
    def __init__(self, outcome: _Optional[_Union[Outcome, _Mapping]] = ..., rollout: _Optional[int] = ...) -> None: ...

class Rollout(_message.Message):
    __slots__ = ("sample_id", "attempt", "idempotency_key", "scene", "camera", "tensors", "text", "seed")
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    SCENE_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    sample_id: str
    attempt: int
    idempotency_key: str
    scene: SceneSpec
    camera: Camera
    tensors: _containers.RepeatedCompositeFieldContainer[Tensor]
    text: str
    seed: int
    def __init__(self, sample_id: _Optional[str] = ..., attempt: _Optional[int] = ..., idempotency_key: _Optional[str] = ..., scene: _Optional[_Union[SceneSpec, _Mapping]] = ..., camera: _Optional[_Union[Camera, _Mapping]] = ..., tensors: _Optional[_Iterable[_Union[Tensor, _Mapping]]] = ..., text: _Optional[str] = ..., seed: _Optional[int] = ...) -> None: ...

class SceneSpec(_message.Message):
    __slots__ = ("category", "family", "seed", "parameters", "num_frames", "fps", "timestep_s", "engine")
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    NUM_FRAMES_FIELD_NUMBER: _ClassVar[int]
    FPS_FIELD_NUMBER: _ClassVar[int]
    TIMESTEP_S_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    category: str
    family: str
    seed: int
    parameters: _struct_pb2.Struct
    num_frames: int
    fps: float
    timestep_s: float
    engine: str
    def __init__(self, category: _Optional[str] = ..., family: _Optional[str] = ..., seed: _Optional[int] = ..., parameters: _Optional[_Union[_struct_pb2.Struct, _Mapping]] = ..., num_frames: _Optional[int] = ..., fps: _Optional[float] = ..., timestep_s: _Optional[float] = ..., engine: _Optional[str] = ...) -> None: ...

class Camera(_message.Message):
    __slots__ = ("fx", "fy", "cx", "cy", "width", "height", "camera_from_world")
    FX_FIELD_NUMBER: _ClassVar[int]
    FY_FIELD_NUMBER: _ClassVar[int]
    CX_FIELD_NUMBER: _ClassVar[int]
    CY_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    CAMERA_FROM_WORLD_FIELD_NUMBER: _ClassVar[int]
    fx: float
    fy: float
    cx: float
    cy: float
    width: int
    height: int
    camera_from_world: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, fx: _Optional[float] = ..., fy: _Optional[float] = ..., cx: _Optional[float] = ..., cy: _Optional[float] = ..., width: _Optional[int] = ..., height: _Optional[int] = ..., camera_from_world: _Optional[_Iterable[float]] = ...) -> None: ...

class Tensor(_message.Message):
    __slots__ = ("name", "dtype", "shape", "codec", "byte_size", "crc32c", "data", "packed_size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CODEC_FIELD_NUMBER: _ClassVar[int]
    BYTE_SIZE_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    PACKED_SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    codec: Codec
    byte_size: int
    crc32c: int
    data: bytes
    packed_size: int
    def __init__(self, name: _Optional[str] = ..., dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., codec: _Optional[_Union[Codec, str]] = ..., byte_size: _Optional[int] = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ..., packed_size: _Optional[int] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("sample_id", "attempt", "score", "error")
    SAMPLE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    sample_id: str
    attempt: int
    score: Score
    error: _status_pb2.Status
    def __init__(self, sample_id: _Optional[str] = ..., attempt: _Optional[int] = ..., score: _Optional[_Union[Score, _Mapping]] = ..., error: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Score(_message.Message):
    __slots__ = ("value", "components", "scorer_version", "simulator", "scoring_s", "phases_s", "cached", "seed")
    class ComponentsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class PhasesSEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    VALUE_FIELD_NUMBER: _ClassVar[int]
    COMPONENTS_FIELD_NUMBER: _ClassVar[int]
    SCORER_VERSION_FIELD_NUMBER: _ClassVar[int]
    SIMULATOR_FIELD_NUMBER: _ClassVar[int]
    SCORING_S_FIELD_NUMBER: _ClassVar[int]
    PHASES_S_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    value: float
    components: _containers.ScalarMap[str, float]
    scorer_version: str
    simulator: str
    scoring_s: float
    phases_s: _containers.ScalarMap[str, float]
    cached: bool
    seed: int
    def __init__(self, value: _Optional[float] = ..., components: _Optional[_Mapping[str, float]] = ..., scorer_version: _Optional[str] = ..., simulator: _Optional[str] = ..., scoring_s: _Optional[float] = ..., phases_s: _Optional[_Mapping[str, float]] = ..., cached: bool = ..., seed: _Optional[int] = ...) -> None: ...
