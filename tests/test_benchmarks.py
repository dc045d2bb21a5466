"""Benchmarks compare equal work, or refuse to."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import benchmarks.bench_scenes  # noqa: F401  (registers its rates)
from benchmarks.chamfer_gpu import GpuBenchConfig
from benchmarks.registry import RATES, Comparison, Rate, measure, measure_rate
from phys4d.scenes.registry import CATEGORIES


def test_a_slower_peer_shows_as_a_ratio_above_one() -> None:
    """The peer sleeps 10 ms longer than nothing; its ratio is in the thousands."""

    def peer() -> float:
        time.sleep(0.01)
        return 1.0

    timing = measure(Comparison(name="x", peer="sleep", make=lambda: (lambda: 1.0, peer), rtol=0), repeats=3)
    assert timing.ratio > 10 and timing.peer_s >= 0.01 and timing.ratio_range[0] <= timing.ratio


def test_results_that_differ_are_refused() -> None:
    wrong = Comparison(name="sum", peer="math", make=lambda: (lambda: 1.0, lambda: 1.5), rtol=1e-6)
    with pytest.raises(ValueError, match="sum: results differ by up to 0.5 from math"):
        measure(wrong, repeats=3)


def test_a_rate_counts_units_and_not_calls() -> None:
    """A call sleeps 20 ms and does 5 units: 250 a second, or fewer on a busy machine."""
    timing = measure_rate(Rate(name="x", unit="y", make=lambda: (lambda: time.sleep(0.02), 5)), repeats=3)
    assert 25 < timing.per_s <= 250
    assert timing.per_s_range[0] <= timing.per_s <= timing.per_s_range[1]


def test_every_category_is_timed_at_three_sizes_and_in_the_scorer() -> None:
    names = {item.name for item in RATES}
    for category in CATEGORIES:
        assert {f"frames, {category}, {n} x {n}" for n in (64, 128, 512)} | {f"scored, {category}"} <= names
    scored = next(item for item in RATES if item.name == "scored, rigid")
    work, units = scored.make()
    assert units == 1
    truth: Any = work()[1]  # pyright: ignore[reportIndexIssue]
    assert truth.points_m.shape[0] == 9


def test_tuning_a_gpu_on_a_machine_without_one_ends_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chamfer_gpu"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 2
    assert done.stderr == (
        "error: no NVIDIA GPU here; run this on a machine with one (CPU: python -m benchmarks)\n"
    )


@pytest.mark.gpu
def test_tuning_a_gpu_writes_its_name_and_the_fastest_tile(tmp_path: Path) -> None:
    flags = ["--batch", "1", "--frames", "3", "--points", "200", "--repeats", "3", "--out"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chamfer_gpu", *flags, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(next(tmp_path.glob("chamfer-*.json")).read_text())
    assert result["device"] and result["deviation"] < 1e-4
    assert str(result["best_tile"]) in result["tile_ms"]


def test_a_median_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="repeats must be at least 3 for a median, got 2"):
        GpuBenchConfig(repeats=2)
