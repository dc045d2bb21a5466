"""Settings of stage 1."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from phys4d.models.load_config import LoadConfig
from phys4d.runtime.optimiser import OptimiserConfig


@dataclass(frozen=True, kw_only=True)
class StageOneConfig:
    """Train depth and motion heads on pseudo-labels, transformer frozen."""

    run: Path = Path("runs/tiny-wan")
    """Run folder: reads `base/model`, writes `estimator/` and `stage1/`."""
    videos: Path = Path("data/rigid-mixed")
    """Dataset whose RGB is pseudo-labelled; its annotations are not looked at."""
    truth: Path = Path("data/rigid")
    """Simulator dataset: its `train` frames teach the depth estimator, its `val` split measures the heads."""
    num_videos: int = 384
    """Videos to pseudo-label."""
    estimator: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(num_steps=200, batch_size=32, learning_rate=1.5e-3)
    )
    """Training of the tiny depth estimator, batch in frames."""
    heads: OptimiserConfig = field(
        default_factory=lambda: OptimiserConfig(num_steps=150, batch_size=16, learning_rate=2e-3)
    )
    head_channels: int = 64
    """Channels of the heads at token resolution."""
    gradient_weight: float = 0.5
    """Weight of the multi-scale depth-gradient loss."""
    motion_weight: float = 1.0
    """Weight of the motion loss, in head units (4 px, 0.1 m)."""
    low_noise_bias: float = 2.0
    """Noise levels are uniform ** this: above 1 favours low noise."""
    model: LoadConfig = field(default_factory=LoadConfig)
    seed: int = 0
    num_threads: int = 2
    """CPU threads of torch."""

    def __post_init__(self) -> None:
        if self.num_videos < self.heads.batch_size:
            raise ValueError(
                f"num_videos must fill a batch of {self.heads.batch_size}, got {self.num_videos}"
            )
        if not self.low_noise_bias > 0:
            raise ValueError(f"low_noise_bias must be positive, got {self.low_noise_bias}")
