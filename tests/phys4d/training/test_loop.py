"""The optimisation loop."""

import itertools

import pytest
import torch
from torch import Tensor

from phys4d.runtime.optimiser import OptimiserConfig
from phys4d.training.ema import Ema
from phys4d.training.loop import batches, fit, learning_rate_factor
from phys4d.training.ranks import Ranks


def config(**changes: float) -> OptimiserConfig:
    return OptimiserConfig(**{"num_steps": 200, "batch_size": 8, "learning_rate": 0.05, **changes})  # type: ignore[arg-type]


def test_it_solves_least_squares() -> None:
    torch.manual_seed(0)
    x, truth = torch.randn(64, 3), torch.tensor([1.0, -2.0, 0.5])
    weight = torch.nn.Parameter(torch.zeros(3))
    fit(
        lambda i, _: {"mse": (x[i] @ weight - x[i] @ truth).square().mean()},
        [weight],
        config(),
        num_items=64,
        seed=0,
        desc="test",
    )
    torch.testing.assert_close(weight.detach(), truth, rtol=0.02, atol=0.02)


def test_where_parts_run_in_turn_no_gradient_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU all parts' gradients together would take as much memory as all of a batch's weights."""
    x, found, summed = torch.randn(8, 3, generator=torch.Generator().manual_seed(0)), [], []
    for in_turn in (False, True):
        weight = torch.nn.Parameter(torch.ones(3))

        def loss_parts(i: Tensor, _: torch.Generator, weight: Tensor = weight) -> dict[str, Tensor]:
            summed.append(weight.grad is not None)
            return {"mse": (x[i] @ weight).square().mean()}

        monkeypatch.setattr(Ranks, "shards", in_turn)
        fit(loss_parts, [weight], config(num_steps=2, micro_batches=4), num_items=8, seed=0, desc="test")
        found.append(weight.detach())
    assert torch.equal(*found)
    assert summed == [False] * 8 + [False, True, True, True] * 2


def test_ten_gradients_that_are_not_finite_in_a_row_stop_it() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    with pytest.raises(FloatingPointError, match="not finite ten steps in a row, last at step 9"):
        fit(
            lambda i, _: {"nan": (weight * torch.nan).sum()},
            [weight],
            config(),
            num_items=8,
            seed=0,
            desc="test",
        )
    assert weight.item() == 1.0


def test_one_bad_step_is_skipped_and_leaves_no_trace_in_the_weights() -> None:
    weight = torch.nn.Parameter(torch.ones(1))
    calls = iter(range(100))
    fit(
        lambda i, _: {
            "loss": (weight * (torch.inf if next(calls) == 3 else 1.0)).sum() - weight.sum().detach()
        },
        [weight],
        config(num_steps=5),
        num_items=8,
        seed=0,
        desc="test",
    )
    assert torch.isfinite(weight).all()


def test_every_item_is_seen_once_per_epoch() -> None:
    seen = torch.cat(list(batches(12, 4, 6, seed=3)))
    assert sorted(seen[:12].tolist()) == list(range(12))
    assert sorted(seen[12:].tolist()) == list(range(12))
    assert seen[:12].tolist() != seen[12:].tolist()


def test_too_few_samples_for_a_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="3 samples do not fill a batch of 4"):
        next(batches(3, 4, 1, seed=0))


def test_the_average_warms_up_and_can_be_put_on_and_taken_off() -> None:
    weight = torch.nn.Parameter(torch.zeros(1))
    ema = Ema([weight], 0.99)
    weight.data.fill_(1.0)
    ema.update()  # decay min(.99, 1/10)
    with ema.applied():
        torch.testing.assert_close(weight.data, torch.tensor([0.9]))
    assert weight.item() == 1.0


def test_the_learning_rate_rises_linearly_and_falls_to_zero() -> None:
    factors = [learning_rate_factor(step, 100, 9) for step in range(101)]
    assert factors[4] == 0.5 and factors[9] == 1.0 and factors[100] == 0.0
    assert all(a >= b for a, b in itertools.pairwise(factors[9:]))


def test_a_constant_schedule_warms_up_and_stays() -> None:
    assert [learning_rate_factor(step, 100, 9, "constant") for step in (4, 9, 99)] == [0.5, 1.0, 1.0]
