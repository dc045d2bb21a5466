"""Advantages of groups, by hand."""

import math

import pytest
import torch

from policy.advantages import compute_advantages, rewards_or_nan

NAN = math.nan


def test_a_group_is_compared_with_its_own_mean_and_unbiased_std() -> None:
    """1, 2, 3, 4: mean 2.5, std sqrt(5/3)."""
    result = compute_advantages(torch.tensor([1.0, 2.0, 3.0, 4.0]), ["a"] * 4)
    std = math.sqrt(5 / 3) + 1e-4
    expected = torch.tensor([-1.5, -0.5, 0.5, 1.5], dtype=torch.float64) / std
    torch.testing.assert_close(result.values, expected, rtol=1e-12, atol=0)
    assert result.trained.all()


def test_groups_need_not_lie_next_to_one_another() -> None:
    interleaved = compute_advantages(torch.tensor([1.0, 10.0, 3.0, 30.0]), ["a", "b", "a", "b"])
    apart = compute_advantages(torch.tensor([1.0, 3.0, 10.0, 30.0]), ["a", "a", "b", "b"])
    assert torch.equal(interleaved.values, apart.values[[0, 2, 1, 3]])


def test_the_order_in_which_rewards_arrive_does_not_matter() -> None:
    rewards = torch.tensor([1.0, 5.0, NAN, 2.0, 7.0, 1.0], dtype=torch.float64)
    groups = [0, 1, 0, 0, 1, 1]
    order = [4, 2, 0, 5, 3, 1]
    result = compute_advantages(rewards, groups)
    permuted = compute_advantages(rewards[order], [groups[i] for i in order])
    torch.testing.assert_close(permuted.values, result.values[order], rtol=1e-12, atol=1e-15)


def test_an_invalid_reward_is_dropped_before_the_mean_and_never_zero() -> None:
    with_failure = compute_advantages(rewards_or_nan([1.0, None, 3.0]), [0, 0, 0])
    without = compute_advantages(rewards_or_nan([1.0, 3.0]), [0, 0])
    assert torch.equal(with_failure.values[[0, 2]], without.values)
    assert with_failure.values[1] == 0
    assert with_failure.trained.tolist() == [True, False, True]
    assert with_failure.num_invalid == 1


def test_groups_that_cannot_be_compared_are_dropped_and_counted() -> None:
    rewards = torch.tensor([1.0, NAN, NAN, NAN, 5.0, 5.0, 1.0, 2.0])
    result = compute_advantages(rewards, ["one", "one", "none", "none", "flat", "flat", "good", "good"])
    assert result.trained.tolist() == [False] * 6 + [True] * 2
    assert result.values[:6].eq(0).all()
    assert (result.num_groups, result.num_small_groups, result.num_flat_groups) == (4, 2, 1)
    assert result.num_dropped_groups == 3
    assert result.num_invalid == 3


def test_a_spread_below_the_noise_of_the_reward_trains_nothing() -> None:
    rewards, groups = torch.tensor([1.0, 1.001, 1.0, 2.0]), [0, 0, 1, 1]
    assert compute_advantages(rewards, groups).trained.all()
    result = compute_advantages(rewards, groups, min_spread=0.01)
    assert result.trained.tolist() == [False, False, True, True]
    assert result.num_flat_groups == 1


def test_the_scale_is_of_the_group_the_batch_or_the_widest_group() -> None:
    """Deviations -1, 1 and -10, 10: group stds sqrt 2 and 10 sqrt 2."""
    rewards, groups = torch.tensor([0.0, 2.0, 0.0, 20.0], dtype=torch.float64), [0, 0, 1, 1]
    deviations = torch.tensor([-1.0, 1.0, -10.0, 10.0], dtype=torch.float64)
    narrow, wide, batch = math.sqrt(2), 10 * math.sqrt(2), rewards.std().item()
    for scale, stds in (
        ("group", [narrow, narrow, wide, wide]),
        ("max_group", [wide] * 4),
        ("batch", [batch] * 4),
    ):
        result = compute_advantages(rewards, groups, scale=scale)  # pyright: ignore[reportArgumentType]
        expected = deviations / (torch.tensor(stds, dtype=torch.float64) + 1e-4)
        torch.testing.assert_close(result.values, expected, rtol=1e-12, atol=0)


def test_the_scale_of_the_batch_ignores_invalid_rewards() -> None:
    rewards, groups = torch.tensor([0.0, 2.0, NAN, 0.0, 20.0]), [0, 0, 0, 1, 1]
    with_failure = compute_advantages(rewards, groups, scale="batch")
    without = compute_advantages(rewards[[0, 1, 3, 4]], [0, 0, 1, 1], scale="batch")
    assert torch.equal(with_failure.values[[0, 1, 3, 4]], without.values)


def test_advantages_are_clipped_and_counted() -> None:
    """One winner among 100: A is near 9.9 before the clip."""
    rewards = torch.zeros(100)
    rewards[7] = 1.0
    result = compute_advantages(rewards, [0] * 100)
    assert result.values[7] == 5.0
    assert result.num_clipped == 1


def test_summed_rewards_are_weighted_and_then_normalised() -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.0, 4.0], [1.0, 4.0]])
    result = compute_advantages(rewards, [0, 0, 0], weights=[2.0, 0.5])
    assert torch.equal(result.values, compute_advantages(torch.tensor([2.0, 2.0, 4.0]), [0] * 3).values)


def test_rewards_normalised_before_the_sum_have_one_say_each_whatever_their_unit() -> None:
    rewards = torch.tensor([[1.0, 4.0], [2.0, 3.0], [3.0, 1.0], [4.0, 2.0]], dtype=torch.float64)
    in_other_unit = rewards * torch.tensor([1.0, 1e6])
    arguments = {"group_ids": [0, 0, 1, 1], "aggregation": "normalize_then_sum"}
    torch.testing.assert_close(
        compute_advantages(in_other_unit, **arguments).values,  # pyright: ignore[reportArgumentType]
        compute_advantages(rewards, **arguments).values,  # pyright: ignore[reportArgumentType]
        # Up to the 1e-4 added to every std.
        rtol=0,
        atol=1e-3,
    )
    summed_first = compute_advantages(in_other_unit, [0, 0, 1, 1])
    assert summed_first.values.sign().tolist() == [1, -1, -1, 1]


def test_normalised_sums_are_normalised_again_over_the_batch() -> None:
    """Groups of two give +-1/sqrt 2 per reward; the sums are +-sqrt 2, 0, 0 and have std 2/sqrt 3."""
    rewards = torch.tensor([[1.0, 1.0], [2.0, 2.0], [1.0, 2.0], [2.0, 1.0]], dtype=torch.float64)
    result = compute_advantages(rewards, [0, 0, 1, 1], aggregation="normalize_then_sum")
    expected = torch.tensor([-math.sqrt(1.5), math.sqrt(1.5), 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(result.values, expected, rtol=0, atol=5e-4)


def test_a_flat_reward_beside_a_spread_one_adds_nothing() -> None:
    rewards = torch.tensor([[1.0, 7.0], [2.0, 7.0], [5.0, 7.0]])
    one, two = (
        compute_advantages(columns, [0] * 3, aggregation="normalize_then_sum").values
        for columns in (rewards[:, 0], rewards)
    )
    assert torch.equal(one, two)


def test_a_missing_reward_invalidates_its_sample_unless_its_weight_is_zero() -> None:
    rewards = torch.tensor([[1.0, NAN], [2.0, 1.0], [4.0, 1.0]])
    assert compute_advantages(rewards, [0] * 3).trained.tolist() == [False, True, True]
    assert compute_advantages(rewards, [0] * 3, weights=[1.0, 0.0]).trained.all()


def test_one_group_for_the_batch_is_the_batch_advantage_of_ddpo() -> None:
    rewards = torch.randn(16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = compute_advantages(rewards, [0] * 16)
    expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    torch.testing.assert_close(result.values, expected, rtol=1e-12, atol=1e-14)


def test_bad_input_is_refused_by_name() -> None:
    rewards = torch.tensor([1.0, 2.0])
    for message, arguments in (
        ("group_ids must name a group for each of 2", {"group_ids": [0]}),
        ("weights must be 1 finite", {"weights": [1.0, 1.0]}),
        ("not all 0", {"weights": [0.0]}),
        ("scale must be one of", {"scale": "global"}),
        ("aggregation must be one of", {"aggregation": "sum"}),
        ("min_spread and clip must be positive", {"clip": 0.0}),
        ("finite, or NaN", {"rewards": torch.tensor([1.0, math.inf])}),
        (r"rewards must be \(samples,\)", {"rewards": torch.zeros(2, 1, 1)}),
    ):
        with pytest.raises(ValueError, match=message):
            compute_advantages(**({"rewards": rewards, "group_ids": [0, 0]} | arguments))
