"""The clipped policy-gradient loss: where its gradient is that of REINFORCE, and where it is nothing."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from policy.advantages import compute_advantages
from policy.losses import clipped_policy_loss


def draw(seed: int, num_terms: int = 8) -> Tensor:
    return torch.randn(num_terms, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(log_prob: Tensor, *arguments: Any, **settings: Any) -> Tensor:
    """d loss / d log_prob."""
    leaf = log_prob.detach().clone().requires_grad_()
    clipped_policy_loss(leaf, *arguments, **settings).loss.backward()
    assert leaf.grad is not None
    return leaf.grad


def test_at_ratio_one_the_gradient_is_that_of_reinforce() -> None:
    """d/dlogp of -mean(A logp) is -A / n."""
    log_prob, advantages = draw(1), draw(2)
    torch.testing.assert_close(
        gradient(log_prob, log_prob, advantages, clip_range=1e-4), -advantages / 8, rtol=1e-12, atol=0
    )


@pytest.mark.parametrize(
    ("advantage", "log_ratio", "flows"),
    [
        (+1.0, +0.01, False),  # already more likely than the trust region allows
        (-1.0, -0.01, False),  # already less likely
        (+1.0, -0.01, True),  # moved the wrong way: may come back
        (-1.0, +0.01, True),
        (+1.0, +5e-5, True),  # within the trust region
        (-1.0, -5e-5, True),
    ],
)
def test_the_clip_kills_the_gradient_only_where_the_update_has_gone_too_far(
    advantage: float, log_ratio: float, flows: bool
) -> None:
    old = torch.tensor([0.3], dtype=torch.float64)
    advantages = torch.tensor([advantage], dtype=torch.float64)
    result = gradient(old + log_ratio, old, advantages, clip_range=1e-4)
    expected = -advantage * math.exp(log_ratio) if flows else 0.0
    assert result.item() == pytest.approx(expected, rel=1e-9)


def test_the_loss_is_the_pessimistic_one() -> None:
    """rho = 2, eps = .1: A = 1 is worth 1.1 and A = -1 costs 2, on average -(1.1 - 2) / 2."""
    log_prob = torch.full((2,), math.log(2.0), dtype=torch.float64)
    result = clipped_policy_loss(
        log_prob, torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, -1.0]), clip_range=0.1
    )
    assert result.loss.item() == pytest.approx(0.45)
    assert result.stats.ratio_max == pytest.approx(2.0)
    assert result.stats.clip_fraction == 1.0


def test_terms_without_a_reward_have_no_gradient_and_no_place_in_the_denominator() -> None:
    log_prob, old, advantages = draw(1), draw(1) + 1e-5, draw(2)
    trained = torch.tensor([True, False, True, True, False, False, True, True])
    padded = gradient(log_prob, old, advantages, clip_range=1e-4, trained=trained)
    alone = gradient(log_prob[trained], old[trained], advantages[trained], clip_range=1e-4)
    assert torch.equal(padded[trained], alone)
    assert padded[~trained].eq(0).all()


def test_what_is_not_trained_may_be_nan() -> None:
    log_prob, advantages, kl = draw(1), draw(2), draw(3).abs()
    trained = torch.ones(8, dtype=torch.bool)
    trained[3] = False
    for tensor in (log_prob, advantages, kl):
        tensor[3] = math.nan
    result = clipped_policy_loss(
        log_prob, log_prob, advantages, clip_range=1e-4, trained=trained, kl=kl, beta=0.1, weights=kl
    )
    assert result.loss.isfinite()
    assert math.isfinite(result.stats.kl)
    assert result.stats.num_terms == 7


def test_a_batch_without_any_valid_group_gives_zero_gradient() -> None:
    advantages = compute_advantages(torch.tensor([1.0, math.nan, 2.0, 2.0]), [0, 0, 1, 1])
    assert not advantages.trained.any()
    log_prob = draw(1, 4).requires_grad_()
    result = clipped_policy_loss(
        log_prob, log_prob.detach() + 0.1, advantages.values, clip_range=1e-4, trained=advantages.trained
    )
    result.loss.backward()
    assert result.loss.item() == 0
    assert log_prob.grad is not None and log_prob.grad.eq(0).all()
    assert result.stats.num_terms == 0


def test_accumulating_term_by_term_is_one_batch() -> None:
    log_prob, old, advantages, kl = draw(1), draw(1) + 1e-5, draw(2), draw(3).abs()
    trained = torch.tensor([True, True, False, True, True, True, False, True])
    whole = gradient(log_prob, old, advantages, clip_range=1e-4, trained=trained, kl=kl, beta=0.1)
    parts = [
        gradient(
            log_prob[k : k + 1],
            old[k : k + 1],
            advantages[k : k + 1],
            clip_range=1e-4,
            trained=trained[k : k + 1],
            kl=kl[k : k + 1],
            beta=0.1,
            num_terms=int(trained.sum()),
        )
        for k in range(8)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=0)


def test_the_kl_is_added_with_its_weight_and_its_gradient() -> None:
    log_prob = draw(1)
    kl = draw(3).abs().requires_grad_()
    result = clipped_policy_loss(
        log_prob, log_prob, torch.zeros(8, dtype=torch.float64), clip_range=1e-4, kl=kl, beta=0.25
    )
    result.loss.backward()
    assert result.loss.item() == pytest.approx(0.25 * kl.mean().item())
    assert kl.grad is not None
    torch.testing.assert_close(kl.grad, torch.full_like(kl, 0.25 / 8))
    assert result.stats.kl == pytest.approx(kl.mean().item())


def test_weights_scale_each_term() -> None:
    log_prob, advantages, weights = draw(1), draw(2), draw(3).abs()
    weighted = gradient(log_prob, log_prob, advantages, clip_range=1e-4, weights=weights)
    torch.testing.assert_close(weighted, -advantages * weights / 8, rtol=1e-12, atol=0)


def test_statistics_are_of_trained_terms_only() -> None:
    ratios = torch.tensor([0.5, 1.0, 1.00005, 3.0], dtype=torch.float64)
    stats = clipped_policy_loss(
        ratios.log(),
        torch.zeros(4, dtype=torch.float64),
        torch.ones(4, dtype=torch.float64),
        clip_range=1e-4,
        trained=torch.tensor([True, True, True, False]),
    ).stats
    assert (stats.ratio_min, stats.ratio_max) == pytest.approx((0.5, 1.00005))
    assert stats.ratio_mean == pytest.approx((0.5 + 1.0 + 1.00005) / 3)
    assert stats.clip_fraction == pytest.approx(1 / 3)


def test_bad_input_is_refused_by_name() -> None:
    terms = draw(1)
    good: dict[str, Any] = {
        "log_prob": terms,
        "log_prob_old": terms,
        "advantages": terms,
        "clip_range": 1e-4,
    }
    for message, changes in (
        (r"advantages must be one per term, \(8,\)", {"advantages": terms[:4]}),
        ("clip_range must be in", {"clip_range": 0.0}),
        ("needs a kl", {"beta": 0.1}),
        ("beta must not be negative", {"beta": -0.1, "kl": terms}),
        ("num_terms counts the whole update", {"num_terms": 7}),
    ):
        with pytest.raises(ValueError, match=message):
            clipped_policy_loss(**(good | changes))
