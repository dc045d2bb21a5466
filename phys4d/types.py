"""Values that the trainer and the reward service share.

Frames and units, here and everywhere else:

* world: metres, z up, right-handed. Camera: OpenCV, x right, y down, z forward, metres.
* pixel (row i, column j) has its centre at (u, v) = (j + 0.5, i + 0.5); the principal point of a
  centred camera is (width / 2, height / 2).
* depth is z-depth (distance along the optical axis, not ray length) in metres; NaN is no surface.
* motion at frame t is what carries a point seen at t to frame t + 1: (du px, dv px, dz m).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, UInt8

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


def _canonical(value: Any, where: str) -> Any:
    """Make numbers floats and tuples lists, so that JSON and proto round trips compare equal."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | float | np.integer | np.floating):
        number = float(value)
        if not math.isfinite(number):
            raise ValueError(f"{where} must be finite, got {number}")
        return number
    if isinstance(value, list | tuple | np.ndarray):
        return [_canonical(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, Mapping):
        return {str(k): _canonical(v, f"{where}.{k}") for k, v in sorted(value.items())}
    raise ValueError(f"{where} must be a JSON value, got {type(value).__name__}")


@dataclass(frozen=True, kw_only=True)
class SceneSpec:
    """All that is needed to rebuild a simulated scene bit for bit in one engine version."""

    category: str
    """One of the nine physical categories, e.g. `rigid`."""
    family: str
    """Scene family within the category, e.g. `drop`."""
    seed: int
    """The seed the parameters were drawn with; provenance only, the scene depends on `parameters`."""
    parameters: dict[str, Any]
    """Every drawn value, JSON only. Numbers are float64."""
    num_frames: int
    """Frames of the video, the first at time 0."""
    fps: float
    """Frames per second."""
    timestep_s: float = 0.002
    """Integrator step in seconds."""
    engine: str = ""
    """Engine and version that made the sample, e.g. `mujoco 4.0.1`; empty is whatever is installed."""

    def __post_init__(self) -> None:
        if not self.category or not self.family:
            raise ValueError(f"a scene needs a category and a family, got {self.category!r}, {self.family!r}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must be in [0, 2^63), got {self.seed}")
        if self.num_frames < 2:
            raise ValueError(f"num_frames must be at least 2, got {self.num_frames}")
        for name in ("fps", "timestep_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, got {value}")
            object.__setattr__(self, name, float(value))
        object.__setattr__(self, "parameters", _canonical(self.parameters, "parameters"))

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, no spaces, floats in shortest exact form."""
        return json.dumps(self.__dict__, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> SceneSpec:
        """Inverse of `to_json`."""
        values = json.loads(text)
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(
                f"unknown scene spec fields {unknown}; known: {sorted(cls.__dataclass_fields__)}"
            )
        return cls(**values)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, hexadecimal."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class Camera:
    """A static pinhole camera without distortion."""

    fx: float
    """Focal length in pixels, horizontal."""
    fy: float
    """Focal length in pixels, vertical."""
    cx: float
    """Principal point in pixels."""
    cy: float
    width: int
    """Image size in pixels."""
    height: int
    camera_from_world: Float64[np.ndarray, "4 4"]
    """Rigid transform, metres: x_camera = camera_from_world @ x_world (homogeneous)."""

    def __post_init__(self) -> None:
        if not (self.fx > 0 and self.fy > 0 and math.isfinite(self.fx) and math.isfinite(self.fy)):
            raise ValueError(f"focal lengths must be positive pixels, got fx={self.fx}, fy={self.fy}")
        if self.width < 1 or self.height < 1:
            raise ValueError(f"image size must be positive, got {self.width}x{self.height}")
        pose = np.asarray(self.camera_from_world, np.float64)
        if pose.shape != (4, 4) or not np.isfinite(pose).all():
            raise ValueError(f"camera_from_world must be a finite 4x4 matrix, got shape {pose.shape}")
        if not np.allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-5):
            raise ValueError("camera_from_world must be rigid: its 3x3 part is not a rotation")
        object.__setattr__(self, "camera_from_world", pose)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**self.__dict__, "camera_from_world": self.camera_from_world.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Camera:
        """Inverse of `to_dict`."""
        return cls(**{**values, "camera_from_world": np.asarray(values["camera_from_world"], np.float64)})


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollout:
    """One generated video's geometry and motion, as sent to a reward."""

    sample_id: str
    """Unique within a run, e.g. `step-12/prompt-3/sibling-5`."""
    scene: SceneSpec
    camera: Camera
    depth: Float[np.ndarray, "frames height width"]
    """Generated z-depth in metres."""
    motion: Float[np.ndarray, "frames-1 height width 3"]
    """Generated motion (du px, dv px, dz m) from frame t to t + 1."""
    object_ids: UInt8[np.ndarray, "height width"]
    """Instance of each pixel in frame 0: 0 is background, o is the scene's o-th object."""
    rgb: UInt8[np.ndarray, "frames height width 3"] | None = None
    """Decoded video, for rewards that look at pixels."""
    text: str = ""
    """The prompt."""
    seed: int = 0
    """Seed of random choices of the reward; the score is a function of it."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """What a rollout earned."""

    value: float
    """The reward; higher is better."""
    components: Mapping[str, float] = field(default_factory=dict)
    """Named parts; units in the scorer's documentation."""
    scorer_version: str = ""
    """Scores are comparable only within one version."""
    simulator: str = ""
    """Engine and version, e.g. `mujoco 4.0.1`."""
    scoring_s: float = 0.0
    """Seconds the scorer took."""
    phases_s: Mapping[str, float] = field(default_factory=dict)
    """Seconds of named phases of scoring."""
    cached: bool = False
    """Whether the service answered from memory."""
    seed: int = 0
    """The rollout's seed."""

    def __post_init__(self) -> None:
        for name in ("value", "scoring_s"):
            object.__setattr__(self, name, _finite(getattr(self, name), name))
        for name in ("components", "phases_s"):
            parts = {_text(k, f"a name in {name}"): _finite(v, k) for k, v in getattr(self, name).items()}
            object.__setattr__(self, name, parts)
        for name in ("scorer_version", "simulator"):
            _text(getattr(self, name), name)


def _finite(value: Any, name: str) -> float:
    """A number of whatever library as a float."""
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} of a score must be a number, got {type(value).__name__}: {error}"
        ) from error
    if not math.isfinite(number):
        raise ValueError(f"a score must be finite, got {name} = {value!r}; raise an error instead of scoring")
    return number


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} of a score must be text, got {value!r}")
    return value


ErrorClass = Literal["INFRA", "DATA"]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a rollout has no score."""

    error_class: ErrorClass
    """INFRA may pass on a retry; DATA will not."""
    reason: str
    """Stable upper-case word, e.g. `NON_FINITE_DEPTH`."""
    message: str
    """For people: what, which value, which rule."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A score, or the reason there is none. Never a silent zero."""

    sample_id: str
    result: Score | Failure

    @property
    def score(self) -> Score | None:
        """The score, or None where scoring failed."""
        return self.result if isinstance(self.result, Score) else None
