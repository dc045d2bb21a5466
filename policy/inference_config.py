"""Settings of what is done with trained stages: evaluation, best-of-N, samples, videos for Physics-IQ."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from phys4d.runtime.limits import above_0, at_least_1, not_negative
from policy.config import MemoryConfig, RewardConfig


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure every stage of a run on held-out scenes."""

    run: Path = Path("runs/tiny-wan")
    data: Path = Path("data/rigid")
    split: str = "test"
    """Split that is measured. Settings are chosen on `val`, which stages 1 to 3 look at while they train.
    Results of `test` go to `evaluation/` of the run, those of another split to `evaluation-<split>/`; of
    `videos` to `external/` and `external-<split>/`."""
    num_scenes: int = 48
    num_seeds: int = 3
    """Videos per scene and stage; the spread over seeds is reported."""
    num_steps: int = 8
    """Steps of the deterministic sampler."""
    shift: float = 3.0
    """As in the rollouts of stage 3."""
    reward: RewardConfig = field(default_factory=RewardConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    batch_size: int = 32
    """Videos that are sampled, read and decoded together."""
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
        at_least_1(self, "num_scenes", "num_seeds", "num_steps", "batch_size", "num_threads")
        above_0(self, "shift")


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
    """The service; what is rewarded and how depth and motion are read is as in stage 3, if it is there."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    batch_size: int = 32
    """Videos that are sampled and read together."""
    num_threads: int = 2

    def __post_init__(self) -> None:
        at_least_1(self, "num_scenes", "num_seeds", "num_steps", "batch_size", "num_threads")
        above_0(self, "shift")
        not_negative(self, "num_candidates")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Which stage of a run generates videos, and how."""

    run: Path = Path("runs/tiny-wan")
    """Run folder whose stage generates."""
    stage: Literal["last", "base", "stage1", "stage2", "stage3"] = "last"
    """Which stage generates; `last` is the last that is finished."""
    num_steps: int = 8
    """Steps of the deterministic sampler."""
    shift: float = 3.0
    """Shift of a flow's noise levels towards 1; 1 for models with v-prediction."""
    guidance_scale: float = 1.0
    """Scale of classifier-free guidance, which doubles the work; 1 is none. Published models are shown with 5
    to 7; stages 2 and 3 train and sample without."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    seed: int = 0
    num_threads: int = 2

    def __post_init__(self) -> None:
        at_least_1(self, "num_steps", "num_threads")
        above_0(self, "shift")


@dataclass(frozen=True, kw_only=True)
class SampleConfig(SamplingConfig):
    """Generate videos with depth and motion from a stage of a run."""

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
    out: Path | None = None
    """Folder of the files; none is `samples/` of the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_1(self, "num_videos", "num_frames", "fps")
        if bool(self.text) != (self.first_frame is not None):
            raise ValueError(
                f"text and first_frame belong together, got {self.text!r} and {self.first_frame}; give both, "
                "or neither to take prompts from a dataset"
            )


@dataclass(frozen=True, kw_only=True)
class PhysicsIqConfig(SamplingConfig):
    """Generate the videos that Physics-IQ scores: one for each text and first frame of the benchmark."""

    model: str = ""
    """Generate with this model instead: a folder in diffusers' layout, or a hub id."""
    descriptions: Path = Path()
    """CSV file of texts of the benchmark's code: descriptions/descriptions_original.csv for Original,
    descriptions/best_practice/descriptions_base.csv or its like for this model for Verified."""
    switch_frames: Path = Path()
    """Folder of first frames, switch-frames of the data set of the same score."""
    fps: int = 8
    """Frames per second that the model makes; the score is of this rate."""
    width: int = 64
    """Pixels of the videos; first frames are stretched to this size."""
    height: int = 48
    num_frames: int = 0
    """Frames that the model makes, of which 5 s are kept; 0 is one more than those."""
    num_runs: int = 1
    """Runs with other noise, one folder each; a claim needs 4."""
    out: Path | None = None
    """Folder of the run folders; none is `physics_iq/<stage>` of the run."""
    partial: bool = False
    """Accept descriptions of fewer than the benchmark's 198 videos."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_1(self, "num_runs")
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
