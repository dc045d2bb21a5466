"""What a benchmark is, and how it is timed.

A file `benchmarks/bench_<topic>.py` registers comparisons:

    @compare("chamfer, 2 x 4096 points", peer="scipy.spatial.cKDTree 1.17")
    def chamfer() -> tuple[Work, Work]:
        ...
        return ours, theirs

Both functions do the same work on the same input; what they return is checked to agree before timing.

What has no peer registers a rate:

    @rate("granular, 64 x 64", unit="annotated frames")
    def granular() -> tuple[Work, int]:
        ...
        return work, number_of_frames
"""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Work = Callable[[], object]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Our code beside a named peer."""

    name: str
    peer: str
    make: Callable[[], tuple[Work, Work]]
    rtol: float
    num_steps: int = 0
    """Training steps of one call, to tell steps per second and memory; 0 where it is no training."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a comparison took."""

    name: str
    peer: str
    ours_s: float
    """Median seconds of one call."""
    peer_s: float
    ratio: float
    """Median of the peer's time over ours in the same repeat; above 1 we are faster."""
    ratio_range: tuple[float, float]
    repeats: int
    steps_per_s: float | None = None
    peak_memory_mb: float | None = None
    """Highest resident memory of the process, or of the GPU where torch works there."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How much one process gets done with one thread."""

    name: str
    unit: str
    make: Callable[[], tuple[Work, int]]


@dataclass(frozen=True, kw_only=True)
class RateTiming:
    """What was done in a second."""

    name: str
    unit: str
    per_s: float
    """Units per second of one core; the median of the repeats."""
    per_s_range: tuple[float, float]
    repeats: int


COMPARISONS: list[Comparison] = []
RATES: list[Rate] = []


def compare(
    name: str, *, peer: str, rtol: float = 1e-5, num_steps: int = 0
) -> Callable[[Callable[[], tuple[Work, Work]]], Callable[[], tuple[Work, Work]]]:
    """Register a function that prepares the input and returns (ours, theirs).

    Args:
        name: the work and its size.
        peer: whose code the other one is, with version.
        rtol: relative difference up to which the two results count as equal.
        num_steps: training steps of one call.
    """

    def register(make: Callable[[], tuple[Work, Work]]) -> Callable[[], tuple[Work, Work]]:
        COMPARISONS.append(Comparison(name=name, peer=peer, make=make, rtol=rtol, num_steps=num_steps))
        return make

    return register


def rate(
    name: str, *, unit: str
) -> Callable[[Callable[[], tuple[Work, int]]], Callable[[], tuple[Work, int]]]:
    """Register a function that prepares the input and returns (work, how many units a call of it does)."""

    def register(make: Callable[[], tuple[Work, int]]) -> Callable[[], tuple[Work, int]]:
        RATES.append(Rate(name=name, unit=unit, make=make))
        return make

    return register


def measure_rate(item: Rate, *, repeats: int) -> RateTiming:
    """Units per second, after one run that loads, compiles and fills caches."""
    work, units = item.make()
    _seconds(work, 1)
    per_s = [units / _seconds(work, 1) for _ in range(repeats)]
    return RateTiming(
        name=item.name,
        unit=item.unit,
        per_s=statistics.median(per_s),
        per_s_range=(min(per_s), max(per_s)),
        repeats=repeats,
    )


def measure(comparison: Comparison, *, repeats: int, min_s: float = 0.02) -> Timing:
    """Median seconds of both, their repeats interleaved so that a busy machine slows both alike.

    Each is run once untimed, and as often in a repeat as fills `min_s` seconds.

    Raises:
        ValueError: the two results differ.
    """
    works = comparison.make()
    results = [np.asarray(work(), np.float64) for work in works]
    if not np.allclose(results[0], results[1], rtol=comparison.rtol):
        worst = float(np.max(np.abs(results[0] - results[1])))
        raise ValueError(f"{comparison.name}: results differ by up to {worst:g} from {comparison.peer}")
    num_calls = [max(1, round(min_s / max(_seconds(work, 1), 1e-7))) for work in works]
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, count, kept in zip(works, num_calls, times, strict=True):
            kept.append(_seconds(work, count))
    ours_s, peer_s = (statistics.median(kept) for kept in times)
    ratios = [theirs / ours for ours, theirs in zip(*times, strict=True)]
    return Timing(
        name=comparison.name,
        peer=comparison.peer,
        ours_s=ours_s,
        peer_s=peer_s,
        ratio=statistics.median(ratios),
        ratio_range=(min(ratios), max(ratios)),
        repeats=repeats,
        steps_per_s=comparison.num_steps / ours_s if comparison.num_steps else None,
        peak_memory_mb=_peak_memory_mb() if comparison.num_steps else None,
    )


def _peak_memory_mb() -> float:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _seconds(work: Work, count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - start) / count
