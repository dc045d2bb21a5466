"""Sizing a pool of scorers: the formula, the simulation, and where the costs come from."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from phys4d.runtime.errors import UserError
from phys4d.types import Outcome, Score
from reward_service.capacity import (
    CapacityConfig,
    _growing,
    costs_of_metrics,
    enough_in_simulation,
    run,
    told,
)
from reward_service.capacity_model import (
    Costs,
    Pool,
    Trainer,
    predicted_wait_s,
    replicas_needed,
    simulate,
    wait_share,
)
from reward_service.capacity_page import plot, write_figures
from reward_service.telemetry import ServiceMetrics

EXACT = Costs(score_s=2.0, score_cv=0.0)
TRAINER = Trainer(num_rollouts=12, num_batches=3, sample_s=30.0, update_s=10.0)


@pytest.mark.parametrize(
    ("num_replicas", "wait_s"),
    [
        # Batches of 4 every 10 s, in which one scorer does 5: only the last batch, 4 x 2 s, is waited for.
        (1, 8.0),
        (2, 4.0),
        (4, 2.0),
        # More scorers than rollouts in a batch do not help.
        (100, 2.0),
    ],
)
def test_formula_and_simulation_give_what_one_counts_by_hand(num_replicas: int, wait_s: float) -> None:
    pool = Pool(num_replicas=num_replicas)
    assert predicted_wait_s(EXACT, TRAINER, pool) == pytest.approx(wait_s, abs=1e-4)
    seen = simulate(EXACT, TRAINER, pool, num_iterations=3)
    assert seen.wait_s == pytest.approx(wait_s, abs=1e-9)
    assert seen.wait_share == pytest.approx(wait_s / (40.0 + wait_s), abs=1e-9)


def test_a_backlog_is_waited_for() -> None:
    """12 rollouts of 10 s on one scorer: 2 are done when the last batch is sent, 100 s are left."""
    seen = simulate(replace(EXACT, score_s=10.0), TRAINER, Pool(num_replicas=1), num_iterations=3)
    assert seen.wait_s == pytest.approx(100.0)
    predicted = predicted_wait_s(replace(EXACT, score_s=10.0), TRAINER, Pool(num_replicas=1))
    assert predicted == pytest.approx(100.0, abs=1e-3)


def test_delivery_is_waited_for_too() -> None:
    costs = replace(EXACT, upload_s=0.25, ingress_s=1.0)
    pool = Pool(num_replicas=4, num_ingress_cores=2)
    # The last 4 rollouts take 4 x (0.25 + 1 / 2) s to arrive.
    assert simulate(costs, TRAINER, pool, num_iterations=2).wait_s == pytest.approx(2.0 + 3.0)
    assert predicted_wait_s(costs, TRAINER, pool) == pytest.approx(5.0, abs=1e-4)


def test_trainers_share_the_ingress_and_too_few_of_its_cores_are_refused_with_the_number() -> None:
    """8 trainers send 12 rollouts each in 40 s, at 2 s of a core: 4.8 cores never rest."""
    costs = Costs(score_s=0.01, score_cv=0.0, ingress_s=2.0)
    pool = Pool(num_replicas=100, num_ingress_cores=5)
    waits = [simulate(costs, TRAINER, pool, num_trainers=n, num_iterations=6).wait_s for n in (1, 8)]
    assert waits[0] == pytest.approx(4 * 2.0 / 5 + 0.01) and waits[1] > 2 * waits[0]
    assert predicted_wait_s(costs, TRAINER, pool, 8) > 2 * waits[0]
    few = replace(pool, num_ingress_cores=4)
    with pytest.raises(ValueError, match=r"num_ingress_cores is 4, but .* 4\.8 cores busy.*give 5 or more"):
        replicas_needed(costs, TRAINER, few, 0.5, 8)
    config = CapacityConfig(costs=costs, trainer=TRAINER, num_ingress_cores=1, max_replicas=8)
    assert _growing(replace(config, max_wait_share=0.5), costs)[-1][0] > 4, "cores grow with the trainers"


def test_failing_pods_lose_no_rollout_and_cost_time() -> None:
    pool = Pool(num_replicas=4, replicas_per_pod=2, pod_mtbf_s=30.0, restart_s=20.0)
    seen = simulate(EXACT, TRAINER, pool, num_iterations=40, seed=1)
    assert seen.num_scored == 40 * TRAINER.num_rollouts
    assert seen.num_failures > 10 and seen.num_resent > 5
    calm = simulate(EXACT, TRAINER, replace(pool, pod_mtbf_s=math.inf), num_iterations=40, seed=1)
    assert calm.num_failures == calm.num_resent == 0
    assert seen.wait_s > 1.3 * calm.wait_s


def test_the_formulas_pool_keeps_its_promise_for_one_trainer_and_half_of_it_does_not() -> None:
    costs = Costs(score_s=1.0, score_cv=0.3)
    trainer = Trainer(num_rollouts=256, num_batches=16, sample_s=60.0, update_s=20.0)
    pool = Pool(num_replicas=1, pod_mtbf_s=86400.0)
    needed = replicas_needed(costs, trainer, pool, 0.05)
    shares = [
        simulate(costs, trainer, replace(pool, num_replicas=n), num_iterations=4).wait_share
        for n in (needed, needed // 2)
    ]
    assert shares[0] < 0.06 < shares[1]
    fewer = predicted_wait_s(costs, trainer, replace(pool, num_replicas=needed - 1))
    assert wait_share(fewer, trainer) > 0.05


def test_where_bursts_meet_the_simulation_asks_for_more_than_the_formula() -> None:
    costs = Costs(score_s=4.0, score_cv=0.3)
    trainer = Trainer(num_rollouts=128, num_batches=32, sample_s=60.0, update_s=20.0)
    config = CapacityConfig(costs=costs, trainer=trainer, num_trainers=4, max_wait_share=0.1)
    formula = replicas_needed(costs, trainer, config.pool, 0.1, 4)
    enough = enough_in_simulation(config, costs, formula)
    assert enough > formula
    # Other random numbers tell much the same.
    pool = replace(config.pool, num_replicas=enough)
    assert simulate(costs, trainer, pool, num_trainers=4, num_iterations=20, seed=1).wait_share < 0.15


@pytest.mark.parametrize("value", [math.inf, math.nan, -1.0])
def test_times_without_end_are_refused_before_anything_is_simulated(value: float) -> None:
    for kind, good in ((Costs, EXACT), (Trainer, TRAINER)):
        for name in (field.name for field in fields(kind) if field.type in (float, "float")):
            with pytest.raises(ValueError, match=f"{name}.*finite, got|{name} must be finite"):
                replace(good, **{name: value})


def test_what_no_pool_can_do_is_said_with_what_would_help() -> None:
    with pytest.raises(ValueError, match="send smaller batches"):
        replicas_needed(replace(EXACT, score_s=20.0), TRAINER, Pool(num_replicas=1), 0.05)


def test_costs_are_the_means_of_a_services_metrics(tmp_path: Path) -> None:
    metrics = ServiceMetrics()
    for seconds in (0.2, 0.4):
        metrics.observe_phases({"score": seconds, "decode": seconds / 10})
    metrics.count_outcome("r", Outcome(sample_id="a", result=Score(value=1.0)))
    (tmp_path / "metrics").write_text(metrics.text())
    costs = costs_of_metrics(str(tmp_path / "metrics"), Costs(score_s=99.0, score_cv=0.5))
    assert costs.score_s == pytest.approx(0.3) and costs.ingress_s == pytest.approx(0.03)
    assert costs.score_cv == 0.5
    (tmp_path / "metrics").write_text(ServiceMetrics().text())
    with pytest.raises(UserError, match="no scored rollout"):
        costs_of_metrics(str(tmp_path / "metrics"), costs)
    with pytest.raises(UserError, match="no file 127.0.0.1:9464/metrics .* http://127.0.0.1:9464/metrics$"):
        costs_of_metrics("127.0.0.1:9464/metrics", costs)


def test_the_program_measures_sizes_simulates_and_plots(tmp_path: Path) -> None:
    # Half of the time may be waited, so that it passes on a busy machine too.
    config = CapacityConfig(
        out=tmp_path, measure=3, trainer=TRAINER, num_iterations=3, max_replicas=4, max_wait_share=0.5
    )
    result = run(config)
    assert result["costs"]["score_s"] > 0 and result["num_replicas"] >= 1
    assert result["num_replicas"] >= result["num_replicas_by_formula"]
    assert {row["sweep"] for row in result["pools"]} == {"size", "trainers", "failures"}
    assert "scorer replicas" in told(config, result)
    assert plot(config, result, tmp_path / "capacity.png").stat().st_size > 10_000
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures -->\nold\n<!-- figures -->\nafter\n")
    write_figures(config, result, page)
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "measured here on 3 rollouts of 64 x 64 pixels" in text
    assert f"the program {result['num_replicas']}." in text
