"""Configuration of the reward service."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ChamferSettings:
    """The reward `scene_chamfer`."""

    tau_m: float = 1.0
    """Distances count up to this; a missing point counts as this far away."""
    sigma_m: float = 0.1
    """The reward of an object is 1 / (1 + e / sigma_m): at an error of sigma_m it is one half."""
    floor_m: float = 0.005
    """Error of a perfect rollout, subtracted from every frame's. The simulator's own depth and motion, at
    64 x 64 and in float16, have a median error of 0.007 m over 40 rigid scenes."""
    depth_source: Literal["lifted", "carried"] = "lifted"
    """Depth of a carried point: the generated depth where the point is, or its first depth plus the dz."""
    fit_shift: bool = True
    """Fit a shift next to the scale when generated depth is aligned on frame 0."""
    min_iou: float = 0.8
    """Object masks must overlap the simulator's by at least this."""
    max_points: int = 192
    """Points per object at most; the same pixels for every rollout of a scene and mask."""

    def __post_init__(self) -> None:
        for name in ("tau_m", "sigma_m", "max_points"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.floor_m < 0:
            raise ValueError(f"floor_m must not be negative, got {self.floor_m}")
        if not 0 < self.min_iou <= 1:
            raise ValueError(f"min_iou must be in (0, 1], got {self.min_iou}")


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """How much one call may carry."""

    max_request_bytes: int = 64 << 20
    """Largest request in bytes."""
    max_rollouts: int = 256
    """Most rollouts in a request."""
    max_tensor_bytes: int = 32 << 20
    """Largest single tensor in bytes."""

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """A reward service."""

    host: str = "127.0.0.1"
    """Address of the plain server. Ray Serve always listens on every interface; guard it with a token."""
    port: int = 9000
    """Port of gRPC; 0 takes a free one."""
    num_replicas: int = 2
    """Scorers that work at the same time."""
    max_queued: int = 1024
    """Rollouts waiting for a scorer at most; more are refused with INFRA, reason OVERLOADED."""
    num_threads: int = 1
    """Threads of numerical libraries in each scorer."""
    object_store_mb: int = 256
    """Shared memory in which Ray hands rollouts to scorers."""
    scene_chamfer: bool = True
    """Offer the built-in reward `scene_chamfer`: re-simulation and 4D Chamfer distance."""
    rewards: tuple[str, ...] = ()
    """Further rewards, each `package.module:Class` or `package.module:Class(option=literal)`."""
    token_file: Path | None = None
    """File with the bearer token that callers must show; none lets everybody in."""
    ready_file: Path | None = None
    """File to write `host:port` to once the service answers."""
    chamfer: ChamferSettings = field(default_factory=ChamferSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must be in [0, 65535], got {self.port}")
        for name in ("num_replicas", "max_queued", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.object_store_mb < 80:
            raise ValueError(
                f"object_store_mb must be at least 80, Ray's minimum, got {self.object_store_mb}"
            )
        if not self.scene_chamfer and not self.rewards:
            raise ValueError("no reward to offer: set scene_chamfer = true or name one in rewards")


def read_token(path: Path | None) -> str | None:
    """The token in a file, without white space around it."""
    if path is None:
        return None
    token = path.read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"token file {path} is empty")
    return token
