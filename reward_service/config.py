"""Configuration of the reward service."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ChamferSettings:
    """The rewards `scene_chamfer` and `rollout_chamfer`, and how all built-in ones align depth."""

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
    fit_frames: int = 3
    """Frames after frame 0 from which `rollout_chamfer` estimates the initial velocities."""

    def __post_init__(self) -> None:
        _check_positive(self, "tau_m", "sigma_m", "max_points", "fit_frames")
        _check_floor(self.floor_m, self.tau_m)
        if not 0 < self.min_iou <= 1:
            raise ValueError(f"min_iou must be in (0, 1], got {self.min_iou}")


@dataclass(frozen=True, kw_only=True)
class SurfaceSettings:
    """The reward `surface_chamfer`."""

    margin_m: float = 0.3
    """A pixel shows an object where its depth is that much nearer than what is behind all objects there."""
    tau_m: float = 0.5
    """Distances count up to this, and a frame in which the simulator or the video alone shows objects counts
    as this far off."""
    sigma_m: float = 0.3
    """The reward of a frame is 1 / (1 + e / sigma_m): at an error of sigma_m it is one half. 0.2 m is the
    median error of the tiny stage 2."""
    floor_m: float = 0.0006
    """Error of a perfect rollout, subtracted from every frame's: the simulator's own depth in float16 has
    .0003 to .0006 m (drop, collision and tower, 64 x 48 to 128 x 96, 9 and 49 frames)."""
    max_rays: int = 4096
    """Pixels of a frame that are compared at most, on a lattice."""

    def __post_init__(self) -> None:
        _check_positive(self, "margin_m", "tau_m", "sigma_m", "max_rays")
        _check_floor(self.floor_m, self.tau_m)


def _check_positive(settings: ChamferSettings | SurfaceSettings, *names: str) -> None:
    for name in names:
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be above 0 and finite, got {value}")


def _check_floor(floor_m: float, tau_m: float) -> None:
    if not 0 <= floor_m < tau_m:
        raise ValueError(
            f"floor_m must be at least 0 and below tau_m, {tau_m}, got {floor_m}; at tau_m and above a "
            "missing object earns as much as a perfect one"
        )


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """How much one call may carry."""

    max_request_bytes: int = 64 << 20
    """Largest request in bytes, its rollouts unpacked."""
    max_rollouts: int = 256
    """Most rollouts in a request or a stream."""
    max_tensor_bytes: int = 128 << 20
    """Largest single tensor in bytes, unpacked."""
    max_chunk_bytes: int = 2 << 20
    """Largest chunk of a stream in bytes."""
    max_stream_bytes: int = 256 << 20
    """Bytes of rollouts one stream may have under way; it is read on when some are scored."""
    max_buffered_bytes: int = 1 << 30
    """Bytes of rollouts all calls together may have under way: streams wait, other calls are refused."""
    max_calls: int = 64
    """Score calls at the same time; more get RESOURCE_EXHAUSTED."""
    max_scoring_s: float = 120.0
    """Seconds a reward may spend on one rollout. Then its process is ended and replaced, and the rollout
    fails as DATA, reason SCORING_TOO_LONG."""
    stream_idle_s: float = 60.0
    """A stream from which nothing comes for so long ends."""

    def __post_init__(self) -> None:
        for name, value in self.__dict__.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    @property
    def max_ongoing(self) -> int:
        """Calls that a server takes in, to score them, to refuse them, or to tell its health."""
        return 2 * self.max_calls + 16


@dataclass(frozen=True, kw_only=True)
class TlsSettings:
    """Encryption of the plain server. The one on Ray has none: put a gateway in front of it."""

    cert_file: Path | None = None
    """PEM file of the server's certificate chain; none serves without TLS."""
    key_file: Path | None = None
    """PEM file of its private key."""
    client_ca_file: Path | None = None
    """PEM file of the authority whose certificates callers must show (mTLS); none asks for none."""

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("tls.cert_file and tls.key_file belong together; one of them is missing")
        if self.client_ca_file is not None and self.cert_file is None:
            raise ValueError("tls.client_ca_file needs tls.cert_file and tls.key_file")


@dataclass(frozen=True, kw_only=True)
class ServiceConfig:
    """A reward service."""

    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 is every interface, to be guarded with a token."""
    port: int = 9000
    """Port of gRPC; 0 takes a free one."""
    exit_with_stdin: bool = False
    """Ray Serve: end when standard input ends, as a child must whose parent is killed."""
    num_replicas: int = 2
    """Scorer processes that work at the same time; rewards with packages of their own have as many again."""
    max_replicas: int | None = None
    """Scorers that Ray may go up to while rollouts wait, and down from when they do not; none keeps
    `num_replicas`."""
    num_gpus: float = 0.0
    """Share of a GPU that Ray sets aside for each scorer, e.g. 0.25."""
    max_queued: int = 1024
    """Rollouts waiting for a scorer at most; more are refused with INFRA, reason OVERLOADED."""
    num_threads: int = 1
    """Threads of numerical libraries in each scorer."""
    object_store_mb: int = 256
    """Shared memory in which Ray hands rollouts to scorers."""
    scene_chamfer: bool = True
    """Offer the built-in rewards, `scene_chamfer`, `rollout_chamfer` and `surface_chamfer`: re-simulation and
    4D Chamfer."""
    rewards: tuple[str, ...] = ()
    """Further rewards, each `package.module:Class` or `package.module:Class(option=literal)`; after it
    ` @ requirements.txt` for packages that only this reward's processes get."""
    token_file: Path | None = None
    """File with the bearer token that callers must show; none lets everybody in."""
    ready_file: Path | None = None
    """File to write `host:port` to once the service answers."""
    cache_size: int = 4096
    """Outcomes remembered, so that a rollout sent again is not scored again; 0 remembers none."""
    drain_s: float = 10.0
    """Seconds that calls under way get to end when the service is asked to stop."""
    metrics_port: int | None = None
    """Port of Prometheus metrics over HTTP, on `host`; 0 takes a free one, none serves none."""
    log_format: Literal["json", "text"] = "json"
    """How log lines look."""
    log_level: Literal["DEBUG", "INFO", "WARNING"] = "INFO"
    """What is logged; INFO is a line for each call."""
    reflection: bool = False
    """Let callers list the methods. It needs no token."""
    chamfer: ChamferSettings = field(default_factory=ChamferSettings)
    surface: SurfaceSettings = field(default_factory=SurfaceSettings)
    limits: LimitSettings = field(default_factory=LimitSettings)
    tls: TlsSettings = field(default_factory=TlsSettings)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ValueError(f"port must be in [0, 65535], got {self.port}")
        for name in ("num_replicas", "max_queued", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_replicas is not None and self.max_replicas < self.num_replicas:
            raise ValueError(
                f"max_replicas must be at least num_replicas, {self.num_replicas}, got {self.max_replicas}"
            )
        if self.num_gpus < 0:
            raise ValueError(f"num_gpus must not be negative, got {self.num_gpus}")
        if self.metrics_port is not None and not 0 <= self.metrics_port < 65536:
            raise ValueError(f"metrics_port must be in [0, 65535], got {self.metrics_port}")
        for name in ("cache_size", "drain_s"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
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
