"""Settings of stage 3 and of evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """How videos are sampled for training."""

    num_prompts: int = 8
    """Prompts per iteration."""
    group_size: int = 8
    """Videos per prompt; advantages compare siblings, so at least 2."""
    prompts_per_batch: int = 2
    """Prompts sampled, and later replayed, together; divides `num_prompts`."""
    num_steps: int = 8
    """Denoising steps."""
    shift: float = 3.0
    """Shift of a flow's noise levels towards 1; 1 for models with v-prediction."""
    sampler: Literal["flow_sde", "dance_sde", "cps", "ddim_v"] = "flow_sde"
    """`ddim_v` for models with v-prediction, the others for flows."""
    noise_level: float = 0.7
    """Strength of the sampler's noise; eta of `ddim_v`."""
    window_size: int = 2
    """Consecutive stochastic, trained steps per prompt batch."""
    window_end: int = 4
    """The window lies within positions [0, window_end): the noisy part, which decides the motion."""

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(
                f"a group needs 2 siblings to compare, got {self.group_size}; raise rollout.group_size"
            )
        if self.num_prompts < 1 or self.num_prompts % self.prompts_per_batch:
            raise ValueError(
                f"prompts_per_batch must divide num_prompts {self.num_prompts}, got {self.prompts_per_batch}"
            )
        if not 1 <= self.window_size <= self.window_end < self.num_steps:
            raise ValueError(
                "a window needs 1 <= window_size <= window_end < num_steps (the last step is the ODE), got "
                f"{self.window_size}, {self.window_end}, {self.num_steps}"
            )


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """GRPO: group advantages, clipped importance ratio, KL to the adapter-disabled reference."""

    learning_rate: float = 1e-3
    lora_rank: int = 16
    """Rank and alpha of the policy's adapter."""
    clip_range: float = 1e-3
    """PPO clip on the ratio of mean log-probabilities."""
    kl_weight: float = 0.0
    """beta, on the exact KL in nats per dim."""
    updates_per_iteration: int = 2
    """Optimiser steps per iteration, each on its share of the prompt batches; the first is on-policy."""
    max_grad_norm: float = 1.0
    advantage_clip: float = 5.0
    std_scope: Literal["group", "batch", "max_group"] = "group"
    """What the advantage's standard deviation is taken over."""
    ema_decay: float = 0.9
    """Averaging of the adapter that is evaluated and saved, per optimiser step."""


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Where rollouts are scored."""

    endpoint: str = ""
    """host:port of a running reward service; empty starts one on this machine for the run."""
    token_file: Path | None = None
    """File with the bearer token that the service at `endpoint` asks for."""
    ca_file: Path | None = None
    """PEM file of the authority that signed the service's certificate; none does not encrypt."""
    cert_file: Path | None = None
    """PEM file of a certificate to show (mTLS), with its private key in `key_file`."""
    key_file: Path | None = None
    name: str = ""
    """Which of the service's rewards to train on; empty is its first."""
    preset: str = "tiny"
    """Preset of the service started here."""
    num_replicas: int = 2
    """Scorer replicas of the service started here."""
    timeout_s: float = 60.0
    """Deadline of one batch of rollouts, retries included."""
    max_attempts: int = 3
    """Tries per rollout for INFRA errors."""
    max_failed_fraction: float = 0.5
    """An iteration in which more rollouts than this have no score stops the run with the reasons."""
    reader: Literal["heads", "estimator"] = "heads"
    """What reads depth and motion: the heads on the reference's features, or estimators on decoded RGB."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed_fraction < 1:
            raise ValueError(f"max_failed_fraction must be in [0, 1), got {self.max_failed_fraction}")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("reward.cert_file and reward.key_file belong together; one of them is missing")
        if self.cert_file is not None and self.ca_file is None:
            raise ValueError("reward.cert_file is shown over TLS only; name reward.ca_file too")
        if not self.endpoint and (self.token_file or self.ca_file):
            raise ValueError("reward.token_file and reward.ca_file belong to reward.endpoint, which is empty")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Stage 3: post-train the policy on the reward service."""

    run: Path = Path("runs/tiny-wan")
    """Run folder: reads `base/` and `stage2/`, writes `stage3/`."""
    data: Path = Path("data/rigid")
    """Dataset of prompts: first frames, texts, scenes. `train` is sampled from, `val` measures."""
    num_iterations: int = 30
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    eval_every: int = 5
    """Iterations between measurements on held-out prompts."""
    num_eval_prompts: int = 32
    checkpoint_every: int = 5
    keep_checkpoints: int = 2
    seed: int = 0
    num_threads: int = 2
    """CPU threads of torch."""

    def __post_init__(self) -> None:
        for name in (
            "num_iterations",
            "eval_every",
            "num_eval_prompts",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure every stage of a run on held-out scenes."""

    run: Path = Path("runs/tiny-wan")
    data: Path = Path("data/rigid")
    split: str = "test"
    """Split that is measured. Settings are chosen on `val`, which stages 1 to 3 look at while they train."""
    num_scenes: int = 48
    num_seeds: int = 3
    """Videos per scene and stage; the spread over seeds is reported."""
    num_steps: int = 8
    """Steps of the deterministic sampler."""
    shift: float = 3.0
    """As in the rollouts of stage 3."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    num_report_scenes: int = 10
    """Scenes whose videos go into the report."""
    seed: int = 1000
    num_threads: int = 2

    def __post_init__(self) -> None:
        for name in ("num_scenes", "num_seeds", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Generate videos with depth and motion from a stage of a run."""

    run: Path = Path("runs/tiny-wan")
    stage: Literal["last", "base", "stage1", "stage2", "stage3"] = "last"
    """Which stage generates; `last` is the last that is finished."""
    data: Path = Path("data/rigid")
    """Dataset of prompts, if no text is given; its videos are shown beside."""
    split: str = "test"
    num_videos: int = 4
    """From a dataset its first ones; from a text as many as this, with different noise."""
    text: str = ""
    """A prompt of your own, together with `first_frame`."""
    first_frame: Path | None = None
    """Picture of the size that is generated, for `text`."""
    num_frames: int = 9
    """Video frames, for `text`; a dataset has its own."""
    fps: float = 12.0
    """Frames per second of the mp4, for `text`."""
    num_steps: int = 8
    """Steps of the deterministic sampler."""
    shift: float = 3.0
    """Shift of a flow's noise levels towards 1; 1 for models with v-prediction."""
    out: Path | None = None
    """Folder of the files; none is `samples/` of the run."""
    seed: int = 0
    num_threads: int = 2

    def __post_init__(self) -> None:
        for name in ("num_videos", "num_frames", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.fps >= 1:
            raise ValueError(f"fps must be at least 1, got {self.fps}")
        if bool(self.text) != (self.first_frame is not None):
            raise ValueError(
                f"text and first_frame belong together, got {self.text!r} and {self.first_frame}; give both, "
                "or neither to take prompts from a dataset"
            )
