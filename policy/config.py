"""Settings of stage 3."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from phys4d.models.load_config import LoadConfig
from phys4d.runtime.limits import above_0, at_least_1, must, not_negative


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
    """Consecutive stochastic, trained steps of each video."""
    window_end: int = 4
    """The window lies within positions [0, window_end): the noisy part, which decides the motion."""
    window: Literal["random", "fixed", "sliding"] = "random"
    """Where the window starts: drawn for each group, at `window_start`, or moving on from there."""
    window_start: int = 0
    """Where a fixed window starts and a sliding one begins."""
    window_interval: int = 5
    """Iterations after which a sliding window moves on by one position, until it reaches `window_end`."""
    shared_prefix: bool = False
    """Fast mode: siblings start from one noise, so that their steps before the window are taken once."""
    storage: Literal["float32", "bfloat16"] = "float32"
    """What the latents of the window are kept in; they are rounded before log-probabilities are taken."""
    prompt_order: Literal["random", "epochs"] = "random"
    """Prompts drawn anew in each iteration, or every prompt once an epoch with TRL's RepeatSampler; an epoch
    ends where fewer than `num_prompts` are left."""
    one_step_off_policy: bool = False
    """Sample each iteration before the update of the one before it, so that its rewards are computed during
    that update and the next sampling. Videos are then one iteration older than the weights they train."""

    def __post_init__(self) -> None:
        if self.group_size < 2:
            raise ValueError(
                f"a group needs 2 siblings to compare, got {self.group_size}; raise rollout.group_size"
            )
        at_least_1(self, "num_prompts", "prompts_per_batch", "window_interval")
        above_0(self, "shift", "noise_level")
        if self.sampler in ("cps", "ddim_v"):
            must(self, f"at most 1 with {self.sampler}", lambda value: value <= 1, "noise_level")
        if self.num_prompts % self.prompts_per_batch:
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

    @property
    def num_batches(self) -> int:
        """Prompt batches of an iteration."""
        return self.num_prompts // self.prompts_per_batch


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig:
    """How scored rollouts change the policy; the reference is the policy with its adapter off."""

    learning_rate: float = 1e-3
    lora_rank: int = 16
    """Rank and alpha of the policy's adapter."""
    lora_levels: Literal["all", "window"] = "all"
    """Noise levels at which the adapter works: all, or those down to the last step that windows reach. Later
    steps are not trained; an adapter that works there too changes how things look, unrewarded. One that does
    not says so in `scope.json` beside its weights, which stock pipelines of diffusers do not read."""
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
    """`longcat` weighs steps so that each moves the prediction alike; of `grpo` and `ddpo` only."""
    nft_strength: float = 1.0
    """DiffusionNFT's beta: how far its positive and negative policies lie from the old one."""
    nft_levels: int = 2
    """Noise levels at which DiffusionNFT trains each video."""
    nft_old_rate: float = 0.001
    """DiffusionNFT's sampling policy keeps min(rate x iteration, `nft_old_limit`) of itself each time."""
    nft_old_limit: float = 0.5

    def __post_init__(self) -> None:
        at_least_1(self, "lora_rank", "updates_per_iteration", "inner_epochs", "nft_levels")
        above_0(self, "learning_rate", "max_grad_norm", "advantage_clip", "min_reward_spread")
        not_negative(self, "kl_weight", "nft_old_rate")
        must(self, "in (0, 1)", lambda value: 0 < value < 1, "clip_range")
        must(self, "in (0, 1]", lambda value: 0 < value <= 1, "nft_strength")
        must(self, "in [0, 1)", lambda value: 0 <= value < 1, "ema_decay", "nft_old_limit")
        if self.step_weight != "none" and self.name not in ("grpo", "ddpo"):
            raise ValueError(
                f"step_weight {self.step_weight} is for grpo and ddpo, {self.name} has weights of its own; "
                "set it to none"
            )
        if self.lora_levels == "window" and self.name == "diffusion_nft":
            raise ValueError("diffusion_nft has no windows and trains at all levels; set lora_levels to all")


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
    token_files: dict[str, Path] = field(default_factory=dict)
    """Of other services among `sources`, by HOST:PORT: the file with that service's bearer token."""
    ca_files: dict[str, Path] = field(default_factory=dict)
    """Of other services among `sources`, by HOST:PORT: as `ca_file`."""
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
    another service, or `package.module:function`, a reward function as TRL takes them, on decoded videos. An
    empty NAME stands for `name`."""
    aggregation: Literal["sum_then_normalize", "normalize_then_sum"] = "sum_then_normalize"
    """Several rewards: advantages of their weighted sum, or the sum of their advantages."""
    send_rgb: bool = False
    """Decode videos and send them along, for rewards that look at pixels."""
    outage_s: float = 300.0
    """How long a service that has gone away may take to come back; what was under way is sent again."""

    def through(self, service: RewardConfig) -> RewardConfig:
        """The same rewards, read alike, from another service."""
        rewards = ("name", "reader", "sources", "aggregation", "send_rgb", "preset")
        return replace(service, **{name: getattr(self, name) for name in rewards})

    def __post_init__(self) -> None:
        above_0(self, "timeout_s")
        at_least_1(self, "max_attempts", "num_replicas")
        not_negative(self, "outage_s")
        must(self, "in [0, 1)", lambda value: 0 <= value < 1, "max_failed_fraction")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("reward.cert_file and reward.key_file belong together; one of them is missing")
        if self.cert_file is not None and self.ca_file is None:
            raise ValueError("reward.cert_file is shown over TLS only; name reward.ca_file too")
        if not self.endpoint and (self.token_file or self.ca_file):
            raise ValueError("reward.token_file and reward.ca_file belong to reward.endpoint, which is empty")
        for name in ("token_files", "ca_files"):
            for endpoint in getattr(self, name):
                if not any(source.endswith(f"@{endpoint}") for source in self.sources):
                    raise ValueError(
                        f"{name} names {endpoint}, which no source is on; name NAME@{endpoint} in "
                        "reward.sources or remove it"
                    )
        if self.sources and self.name and ("" not in self.sources or self.name in self.sources):
            raise ValueError(
                f"give either name or sources, got {self.name!r} and {self.sources}; the name stands where "
                "sources have an empty one"
            )


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
    max_failed_fraction: float = 0.5
    """Held-out videos without a score, of the trained reward and of the one that is never trained on. What
    cannot be scored cannot be watched."""
    max_kl_joint_nats: float = 100.0
    """KL to the reference of all trained steps of a video together."""

    def __post_init__(self) -> None:
        at_least_1(self, "num_videos")
        must(self, "above 1", lambda value: value > 1, "max_ratio")
        must(self, "in [0, 1]", lambda value: 0 <= value <= 1, "min_share")
        must(self, "in [0, 1)", lambda value: 0 <= value < 1, "max_failed_fraction")
        above_0(self, "max_luminance_change", "max_held_out_drop", "max_kl_joint_nats")


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
    video: tuple[int, ...] = ()
    """Frames, height and width of the videos; none are those that the model was published with."""
    scoring_s: float = 1.0
    """Seconds that one scorer takes for one rollout."""
    num_scorers: int = 16

    def __post_init__(self) -> None:
        above_0(self, "gpu_gib", "tflops", "scoring_s")
        at_least_1(self, "num_gpus", "num_scorers")
        if self.video and not (len(self.video) == 3 and min(self.video) > 0):
            raise ValueError(
                f"hardware.video must be frames, height and width, e.g. 49 480 832, got {self.video}"
            )


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
    eval_batch_size: int = 32
    """Held-out videos that are sampled, read and decoded together."""
    checkpoint_every: int = 1
    """Iterations between checkpoints. A kill loses what came after the last one: with 1 the iteration under
    way, with N up to N - 1 scored iterations more. A resumed run samples those again, to the same bits, and
    sends them again under the same ids: results do not depend on N, but that work is paid for twice."""
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
        at_least_1(self, "num_iterations", "eval_every", "num_eval_prompts", "eval_batch_size", "num_threads")
        at_least_1(self, "checkpoint_every", "keep_checkpoints")
        updates, num_batches = self.algorithm.updates_per_iteration, self.rollout.num_batches
        if updates > num_batches:
            raise ValueError(
                f"updates_per_iteration must be at most {num_batches}, the prompt batches of an iteration, "
                f"got {updates}; lower it or rollout.prompts_per_batch"
            )
        if self.rollout.one_step_off_policy and self.algorithm.name == "diffusion_nft":
            raise ValueError(
                "diffusion_nft has no ratio that makes up for older videos; set "
                "--rollout.no-one-step-off-policy or another algorithm.name"
            )
        levels, most = self.algorithm.nft_levels, self.rollout.num_steps - 1
        if self.algorithm.name == "diffusion_nft" and levels > most:
            raise ValueError(
                f"nft_levels must be at most num_steps - 1 = {most}, got {levels}; lower it or raise "
                "rollout.num_steps"
            )
