"""Settings that cannot work are refused where they are given, by name, value and rule."""

import math
from typing import Any

import pytest

from policy.config import (
    AlgorithmConfig,
    HardwareConfig,
    MonitorConfig,
    RewardConfig,
    RolloutConfig,
    TrainConfig,
)
from policy.inference_config import BestOfNConfig, EvaluateConfig, PhysicsIqConfig, SampleConfig

REFUSED: list[tuple[type, dict[str, Any], str]] = [
    (AlgorithmConfig, {"max_grad_norm": -1}, "max_grad_norm must be above 0, got -1"),
    (AlgorithmConfig, {"max_grad_norm": 0}, "max_grad_norm must be above 0, got 0"),
    (AlgorithmConfig, {"learning_rate": math.nan}, "learning_rate must be above 0, got nan"),
    (AlgorithmConfig, {"learning_rate": -1.0}, "learning_rate must be above 0"),
    (AlgorithmConfig, {"advantage_clip": 0.0}, "advantage_clip must be above 0"),
    (AlgorithmConfig, {"clip_range": 5.0}, r"clip_range must be in \(0, 1\), got 5"),
    (AlgorithmConfig, {"kl_weight": -1.0}, "kl_weight must be 0 or above, got -1"),
    (AlgorithmConfig, {"ema_decay": 1.0}, r"ema_decay must be in \[0, 1\)"),
    (AlgorithmConfig, {"nft_strength": 0.0}, r"nft_strength must be in \(0, 1\]"),
    (AlgorithmConfig, {"inner_epochs": 0}, "inner_epochs must be at least 1"),
    (AlgorithmConfig, {"name": "grpo_guard", "step_weight": "longcat"}, "longcat is for grpo and ddpo"),
    (RolloutConfig, {"prompts_per_batch": 0}, "prompts_per_batch must be at least 1, got 0"),
    (RolloutConfig, {"prompts_per_batch": -2}, "prompts_per_batch must be at least 1, got -2"),
    (RolloutConfig, {"prompts_per_batch": 3}, "prompts_per_batch must divide num_prompts 8, got 3"),
    (RolloutConfig, {"noise_level": 0.0}, "noise_level must be above 0, got 0"),
    (RolloutConfig, {"sampler": "cps", "noise_level": 1.1}, "noise_level must be at most 1 with cps"),
    (RolloutConfig, {"shift": 0.0}, "shift must be above 0"),
    (RewardConfig, {"timeout_s": -1.0}, "timeout_s must be above 0, got -1"),
    (RewardConfig, {"max_attempts": 0}, "max_attempts must be at least 1, got 0"),
    (RewardConfig, {"num_replicas": 0}, "num_replicas must be at least 1, got 0"),
    (RewardConfig, {"outage_s": -1.0}, "outage_s must be 0 or above"),
    (MonitorConfig, {"max_ratio": 1.0}, "max_ratio must be above 1"),
    (HardwareConfig, {"num_gpus": 0}, "num_gpus must be at least 1"),
    (TrainConfig, {"num_threads": 0}, "num_threads must be at least 1, got 0"),
    (EvaluateConfig, {"num_seeds": 0}, "num_seeds must be at least 1"),
    (BestOfNConfig, {"num_candidates": -1}, "num_candidates must be 0 or above, got -1"),
    (SampleConfig, {"fps": 0.5}, "fps must be at least 1, got 0.5"),
    (PhysicsIqConfig, {"num_runs": 0}, "num_runs must be at least 1"),
]


@pytest.mark.parametrize(("kind", "settings", "message"), REFUSED)
def test_a_value_out_of_range_is_refused_by_name(kind: type, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**settings)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ValueError, match="updates_per_iteration must be at most 4, .* got 5; lower it"):
        TrainConfig(algorithm=AlgorithmConfig(updates_per_iteration=5))
    with pytest.raises(ValueError, match="nft_levels must be at most num_steps - 1 = 7, got 8; lower it"):
        TrainConfig(algorithm=AlgorithmConfig(name="diffusion_nft", nft_levels=8))
