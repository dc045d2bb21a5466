"""Settings of stage 3 and of evaluation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from phys4d.models.load_config import LoadConfig


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
    window: Literal["random", "fixed", "sliding"] = "random"
    """Where the window starts: drawn for each batch of groups, at `window_start`, or moving on from there."""
    window_start: int = 0
    """Where a fixed window starts and a sliding one begins."""
    window_interval: int = 5
    """Iterations after which a sliding window moves on by one position, until it reaches `window_end`."""
    shared_prefix: bool = False
    """Fast mode: siblings start from one noise, so that their steps before the window are taken once."""
    storage: Literal["float32", "bfloat16"] = "float32"
    """What the latents of the window are kept in; they are rounded before log-probabilities are taken."""
    prompt_order: Literal["random", "epochs"] = "random"
    """Prompts drawn anew in each iteration, or every prompt once an epoch with TRL's RepeatSampler."""

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
        if not 0 <= self.window_start <= self.window_end - self.window_size:
            raise ValueError(
                "window_start must be in [0, window_end - window_size], here at most "
                f"{self.window_end - self.window_size}, got {self.window_start}"
            )
        if self.window_interval < 1:
            raise ValueError(f"window_interval must be at least 1 iteration, got {self.window_interval}")


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """How scored rollouts change the policy; the reference is the policy with its adapter off."""

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
    min_reward_spread: float = 1e-6
    """Groups whose rewards have a smaller standard deviation train nothing. About 3 times the noise of the
    reward (its spread over what should score alike) keeps noise from being blown up to advantages of 1."""
    std_scope: Literal["group", "batch", "max_group"] = "group"
    """What the advantage's standard deviation is taken over."""
    ema_decay: float = 0.9
    """Averaging of the adapter that is evaluated and saved, per optimiser step."""
    name: Literal["grpo", "ddpo", "grpo_guard", "diffusion_nft"] = "grpo"
    """`grpo` compares siblings, `ddpo` the whole batch; `grpo_guard` regulates the ratio of each step;
    `diffusion_nft` needs no recorded steps, only finished videos."""
    inner_epochs: int = 1
    """Passes over the rollouts of an iteration; only the first update of the first is on-policy."""
    step_weight: Literal["none", "longcat"] = "none"
    """`longcat` weighs steps by sqrt(s / (1 - s)) / sqrt|dt|, so that each moves the velocity alike."""
    nft_strength: float = 1.0
    """DiffusionNFT's beta: how far its positive and negative policies lie from the old one."""
    nft_levels: int = 2
    """Noise levels at which DiffusionNFT trains each video."""
    nft_old_rate: float = 0.001
    """DiffusionNFT's sampling policy keeps min(rate x iteration, `nft_old_limit`) of itself each time."""
    nft_old_limit: float = 0.5

    def __post_init__(self) -> None:
        for name in ("lora_rank", "updates_per_iteration", "inner_epochs", "nft_levels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.min_reward_spread > 0:
            raise ValueError(f"min_reward_spread must be above 0, got {self.min_reward_spread}")
        if not 0 < self.nft_strength <= 1:
            raise ValueError(f"nft_strength must be in (0, 1], got {self.nft_strength}")
        if not (self.nft_old_rate >= 0 and 0 <= self.nft_old_limit < 1):
            raise ValueError(
                "nft_old_rate must not be negative and nft_old_limit in [0, 1), got "
                f"{self.nft_old_rate}, {self.nft_old_limit}"
            )


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
    """Errors of class INFRA that a rollout may have; a service that is busy or away is waited for instead."""
    max_failed_fraction: float = 0.5
    """An iteration in which more rollouts than this have no score stops the run with the reasons."""
    reader: Literal["heads", "estimator"] = "heads"
    """What reads depth and motion: the heads on the reference's features, or estimators on decoded RGB."""
    sources: dict[str, float] = field(default_factory=dict)
    """Rewards and their weights, if it is not one of one service: `NAME` on `endpoint`, `NAME@HOST:PORT` on
    another service, or `package.module:function`, a reward function as TRL takes them, on decoded videos."""
    aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Several rewards: advantages of their weighted sum, or the sum of their advantages."""
    send_rgb: bool = False
    """Decode videos and send them along, for rewards that look at pixels."""
    outage_s: float = 300.0
    """How long a service that has gone away may take to come back; what was under way is sent again."""

    def __post_init__(self) -> None:
        if not 0 <= self.max_failed_fraction < 1:
            raise ValueError(f"max_failed_fraction must be in [0, 1), got {self.max_failed_fraction}")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("reward.cert_file and reward.key_file belong together; one of them is missing")
        if self.cert_file is not None and self.ca_file is None:
            raise ValueError("reward.cert_file is shown over TLS only; name reward.ca_file too")
        if not self.endpoint and (self.token_file or self.ca_file):
            raise ValueError("reward.token_file and reward.ca_file belong to reward.endpoint, which is empty")
        if self.sources and self.name:
            raise ValueError(f"give either name or sources, got {self.name!r} and {self.sources}")
        if self.outage_s < 0:
            raise ValueError(f"outage_s must not be negative, got {self.outage_s}")


@dataclass(frozen=True, kw_only=True)
class MonitorConfig:
    """Thresholds on what the trained reward does not see, against iteration 0, at every evaluation."""

    enabled: bool = True
    num_videos: int = 8
    """Held-out videos that are decoded and looked at."""
    max_ratio: float = 3.0
    """Motion energy, edges and flicker of the pixels stay within this factor, up and down."""
    max_luminance_change: float = 0.15
    """Change of the mean grey value, which is in [0, 1]."""
    min_share: float = 0.5
    """Shares of unique and of visible carried points stay above this part of their first values."""
    max_held_out_drop: float = 0.1
    """The reward that is never trained on falls by less than this while the trained one rises."""
    max_kl_joint_nats: float = 100.0
    """KL to the reference of all trained steps of a video together."""

    def __post_init__(self) -> None:
        if self.num_videos < 1:
            raise ValueError(f"num_videos must be at least 1, got {self.num_videos}")
        if not self.max_ratio > 1:
            raise ValueError(f"max_ratio must be above 1, got {self.max_ratio}")
        if not 0 <= self.min_share <= 1:
            raise ValueError(f"min_share must be in [0, 1], got {self.min_share}")
        for name in ("max_luminance_change", "max_held_out_drop", "max_kl_joint_nats"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig(LoadConfig):
    """How the base model is held, for models that fill a GPU too; the adapter is float32."""

    offload: bool = False
    """Keep text encoder and autoencoder in the host's memory while they are not used."""


@dataclass(frozen=True, kw_only=True)
class HardwareConfig:
    """What a dry run assumes."""

    gpu_gib: float = 80.0
    """Memory of one GPU."""
    num_gpus: int = 8
    tflops: float = 400.0
    """TFLOP/s that one GPU reaches in practice; half of an H100's peak in bfloat16."""
    scoring_s: float = 1.0
    """Seconds that one scorer takes for one rollout."""
    num_scorers: int = 16

    def __post_init__(self) -> None:
        for name in ("gpu_gib", "num_gpus", "tflops", "scoring_s", "num_scorers"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Stage 3: post-train the policy on the reward service."""

    run: Path = Path("runs/tiny-wan")
    """Run folder: reads `base/` and `stage2/`, writes `stage3/`."""
    data: Path = Path("data/rigid")
    """Dataset of prompts: first frames, texts, scenes. `train` is sampled from, `val` measures."""
    num_iterations: int = 25
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
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    skip_preflight: bool = False
    """Train without looking first whether ratio, replay, gradients, rewards and memory are right."""
    dry_run: bool = False
    """Print memory, FLOPs, payload and reward time of an iteration and whether it fits, and stop."""
    model: str = "tiny-wan"
    """Model of a dry run, a preset of `phys4d.models.registry`; a run has its own in `base/`."""
    hardware: HardwareConfig = field(default_factory=HardwareConfig)

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
    """Split that is measured. Settings are chosen on `val`, which stages 1 to 3 look at while they train.
    Results of `test` go to `evaluation/` of the run, those of another split to `evaluation-<split>/`."""
    num_scenes: int = 48
    num_seeds: int = 3
    """Videos per scene and stage; the spread over seeds is reported."""
    num_steps: int = 8
    """Steps of the deterministic sampler."""
    shift: float = 3.0
    """As in the rollouts of stage 3."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    memory: LoadConfig = field(default_factory=LoadConfig)
    num_report_scenes: int = 10
    """Scenes whose videos go into the report."""
    num_failures: int = 4
    """Scenes that the last stage gets most wrong, which go into the report too."""
    videos: Path | None = None
    """Measure the videos of this folder, one `<key>.mp4` per scene, instead of the run's stages."""
    partial: bool = False
    """With `videos`: leave out what is missing or refused, and say so in the results."""
    seed: int = 1000
    num_threads: int = 2

    def __post_init__(self) -> None:
        for name in ("num_scenes", "num_seeds", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class BestOfNConfig:
    """Pick the best of N videos of stage 2 for each held-out prompt, by the reward of stage 3."""

    run: Path = Path("runs/tiny-wan")
    """Run folder: reads `base/`, `stage2/` and `stage3/config.toml`, writes `best_of_n/`."""
    data: Path = Path("data/rigid")
    split: str = "test"
    num_candidates: int = 0
    """N; 0 spends on the evaluated videos what stage 3 spent on its training."""
    num_scenes: int = EvaluateConfig.num_scenes
    """This and the next four are those of the evaluation, which measures the picked videos."""
    num_seeds: int = EvaluateConfig.num_seeds
    num_steps: int = EvaluateConfig.num_steps
    shift: float = EvaluateConfig.shift
    seed: int = EvaluateConfig.seed
    reward: RewardConfig = field(default_factory=RewardConfig)
    num_threads: int = 2

    def __post_init__(self) -> None:
        for name in ("num_scenes", "num_seeds", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.num_candidates < 0:
            raise ValueError(f"num_candidates must not be negative, got {self.num_candidates}")


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
    guidance_scale: float = 1.0
    """Scale of classifier-free guidance, which doubles the work; 1 is none. Published models are shown with 5
    to 7; stages 2 and 3 train and sample without."""
    memory: LoadConfig = field(default_factory=LoadConfig)
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


@dataclass(frozen=True, kw_only=True)
class PhysicsIqConfig:
    """Generate the videos that Physics-IQ scores: one for each text and first frame of the benchmark."""

    run: Path = Path("runs/tiny-wan")
    """Run folder whose stage generates."""
    stage: Literal["last", "base", "stage1", "stage2", "stage3"] = "last"
    """Which stage generates; `last` is the last that is finished."""
    model: str = ""
    """Generate with this model instead: a folder in diffusers' layout, or a hub id."""
    descriptions: Path = Path()
    """CSV file of texts, descriptions/*.csv of the benchmark's code."""
    switch_frames: Path = Path()
    """Folder of first frames, switch-frames of the benchmark's data."""
    fps: int = 8
    """Frames per second that the model makes; the score is of this rate."""
    width: int = 64
    """Pixels of the videos; first frames are stretched to this size."""
    height: int = 48
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    num_frames: int = 0
    """Frames that the model makes, of which 5 s are kept; 0 is one more than those."""
    num_runs: int = 1
    """Runs with other noise, one folder each; a claim needs 4."""
    num_steps: int = 8
    """Steps of the deterministic sampler."""
    shift: float = 3.0
    """Shift of a flow's noise levels towards 1; 1 for models with v-prediction."""
    guidance_scale: float = 1.0
    """Scale of classifier-free guidance, which doubles the work; 1 is none, as in stages 2 and 3."""
    out: Path | None = None
    """Folder of the run folders; none is `physics_iq/<stage>` of the run."""
    partial: bool = False
    """Accept descriptions of fewer than the benchmark's 198 videos."""
    seed: int = 0
    num_threads: int = 2

    def __post_init__(self) -> None:
        for name in ("num_runs", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 <= self.fps <= 60:
            raise ValueError(f"fps must be in 1 to 60, got {self.fps}")
        if self.num_frames and self.num_frames < 5 * self.fps:
            raise ValueError(
                f"num_frames must be at least {5 * self.fps}, 5 s at {self.fps} fps, got {self.num_frames}"
            )
        for name in ("width", "height"):
            size = getattr(self, name)
            if size < 16 or size % 2:
                raise ValueError(f"{name} must be even and at least 16 pixels, got {size}")
