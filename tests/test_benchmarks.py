"""Benchmarks compare equal work, or refuse to."""

import time

import pytest

from benchmarks.registry import Comparison, measure


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
