"""Compute in denoiser calls, by hand."""

import torch

from phys4d.models.lora import add_lora
from phys4d.models.protocol import Conditioning
from phys4d.models.wan import tiny_wan
from policy.compute import equal_candidates, step_cost, training_calls
from policy.config import AlgorithmConfig, RewardConfig, RolloutConfig, TrainConfig


def test_training_spends_sampling_reading_replay_and_the_watched_kl() -> None:
    """3 iterations x 2 prompts x 4 siblings = 24 videos of 8 + 1 calls, 2 steps at 2.5, and 1 reference."""
    rollout = RolloutConfig(num_prompts=2, prompts_per_batch=1, group_size=4, num_steps=8, window_size=2)
    config = TrainConfig(num_iterations=3, rollout=rollout)
    assert training_calls(config, step_cost=2.5) == 24 * (9 + 5 + 1)
    priced = TrainConfig(num_iterations=3, rollout=rollout, algorithm=AlgorithmConfig(kl_weight=0.1))
    assert training_calls(priced, step_cost=2.5) == 24 * (9 + 5 + 2)


def test_training_spends_more_with_more_passes_and_an_old_policy_and_less_without_heads() -> None:
    """Two passes over the same 24 videos; NFT trains 3 levels, each also of the old policy."""
    rollout = RolloutConfig(num_prompts=2, prompts_per_batch=1, group_size=4, num_steps=8, window_size=2)
    twice = TrainConfig(num_iterations=3, rollout=rollout, algorithm=AlgorithmConfig(inner_epochs=2))
    assert training_calls(twice, step_cost=2.5) == 24 * (9 + 2 * (5 + 1))
    nft = AlgorithmConfig(name="diffusion_nft", nft_levels=3)
    old = TrainConfig(num_iterations=3, rollout=rollout, algorithm=nft)
    assert training_calls(old, step_cost=2.5) == 24 * (9 + 3 * 2.5 + 1 + 3)
    decoded = TrainConfig(num_iterations=3, rollout=rollout, reward=RewardConfig(reader="estimator"))
    assert training_calls(decoded, step_cost=2.5) == 24 * (8 + 5 + 1)


def test_equal_compute_is_shared_by_all_videos_that_are_made() -> None:
    """900 calls pay for 10 more candidates of 9 calls for each of 10 videos."""
    assert equal_candidates(900, num_videos=10, calls_per_candidate=9) == 11
    assert equal_candidates(899, num_videos=10, calls_per_candidate=9) == 10
    assert equal_candidates(0, num_videos=10, calls_per_candidate=9) == 1


def test_a_trained_step_costs_about_two_calls() -> None:
    """Forward, and gradients of activations: the frozen weights need none, nor does what precedes LoRA."""
    model = tiny_wan(["a"], width=64, num_layers=2)
    add_lora(model.transformer, "policy", rank=2, targets=model.lora_targets)
    condition = Conditioning(torch.zeros(1, 4, 64), torch.zeros(1, 16, 4, 4))
    assert 1.5 < step_cost(model, torch.zeros(1, 16, 3, 4, 4), condition) < 2.1
