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

How a cost grows with a size is a curve, of ours first and of peers:

    @curve("score", x="frames", sizes=(8, 16, 32), bounds=(0.9, 1.1))
    def score(size: int) -> dict[str, Work]:
        ...
        return {"ours": ours, "scipy.spatial.cKDTree 1.17": theirs}
"""

from __future__ import annotations

import importlib
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from phys4d.runtime.threads import limit_threads

Work = Callable[[], object]
Bounds = tuple[float, float]
LINEAR: Bounds = (0.9, 1.1)
MIN_REPEATS = 2
"""Of what takes longer than its time: a range needs two."""


class Measured(NamedTuple):
    """What a work returns that knows its own cost: seconds that count, or bytes."""

    cost: float
    result: object
    peak_bytes: float | None = None
    """Highest resident memory of the process that did it."""


class Unavailable(Exception):
    """What a `make` raises whose peer cannot be had here; says what is lacking."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Our code beside a named peer."""

    name: str
    peer: str
    make: Callable[[], tuple[Work, Work]]
    rtol: float
    unit: Literal["s", "bytes"] = "s"


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a comparison took."""

    name: str
    peer: str
    unit: str
    ours: float
    """Median cost of one call."""
    theirs: float
    ratio: float
    """Median of the peer's cost over ours in the same repeat; above 1 we are cheaper."""
    ratio_range: tuple[float, float]
    repeats: int


@dataclass(frozen=True, kw_only=True)
class Rate:
    """How much gets done in a second; by one thread, unless the name says otherwise."""

    name: str
    unit: str
    make: Callable[[], tuple[Work, int]]


@dataclass(frozen=True, kw_only=True)
class RateTiming:
    """What was done in a second."""

    name: str
    unit: str
    per_s: float
    """The median of the repeats."""
    per_s_range: tuple[float, float]
    repeats: int
    peak_memory_mb: float | None
    """Highest resident memory, where the work has a process of its own and tells."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """How a cost grows with a size."""

    name: str
    x: str
    """What the size counts."""
    sizes: tuple[int, ...]
    unit: Literal["cpu s", "s", "bytes"]
    """Seconds of this process's CPU, which a busy machine does not change much; seconds of the clock; or
    bytes, which the works then return as `Measured`."""
    bounds: Bounds | None
    """Where the exponent of ours should lie; None expects nothing."""
    make: Callable[[int], dict[str, Work]]


@dataclass(frozen=True, kw_only=True)
class CurveTiming:
    """What a curve's works took, and the power law fitted to it."""

    name: str
    x: str
    unit: str
    sizes: tuple[int, ...]
    values: dict[str, list[float]]
    """Medians of ours, which comes first, and of the peers, at each size."""
    exponents: dict[str, float]
    """Slopes of log value over log size, by least squares."""
    bounds: Bounds | None
    within: bool
    """The exponent of ours lies within the bounds."""
    repeats: int


COMPARISONS: list[Comparison] = []
RATES: list[Rate] = []
CURVES: list[Curve] = []


def registered() -> dict[str, Sequence[Comparison | Rate | Curve]]:
    """Everything that the files `bench_*.py` measure, by table of the results."""
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        importlib.import_module(f"benchmarks.{path.stem}")
    return {"results": COMPARISONS, "rates": RATES, "curves": CURVES}


def _refuse_twins(name: str) -> None:
    if any(item.name == name for item in (*COMPARISONS, *RATES, *CURVES)):
        raise ValueError(f"two benchmarks are called {name!r}; `benchmarks.compare` needs to tell them apart")


def compare(
    name: str,
    *,
    peer: str,
    rtol: float = 1e-5,
    unit: Literal["s", "bytes"] = "s",
) -> Callable[[Callable[[], tuple[Work, Work]]], Callable[[], tuple[Work, Work]]]:
    """Register a function that prepares the input and returns (ours, theirs).

    Args:
        name: the work and its size.
        peer: whose code the other one is, with version.
        rtol: relative difference up to which the two results count as equal.
        unit: seconds of the clock; or bytes, which the works then return as `Measured`.
    """

    def register(make: Callable[[], tuple[Work, Work]]) -> Callable[[], tuple[Work, Work]]:
        _refuse_twins(name)
        COMPARISONS.append(Comparison(name=name, peer=peer, make=make, rtol=rtol, unit=unit))
        return make

    return register


def rate(
    name: str, *, unit: str
) -> Callable[[Callable[[], tuple[Work, int]]], Callable[[], tuple[Work, int]]]:
    """Register a function that prepares the input and returns (work, how many units a call of it does)."""

    def register(make: Callable[[], tuple[Work, int]]) -> Callable[[], tuple[Work, int]]:
        _refuse_twins(name)
        RATES.append(Rate(name=name, unit=unit, make=make))
        return make

    return register


def curve(
    name: str,
    *,
    x: str,
    sizes: tuple[int, ...],
    unit: Literal["cpu s", "s", "bytes"] = "cpu s",
    bounds: Bounds | None = LINEAR,
) -> Callable[[Callable[[int], dict[str, Work]]], Callable[[int], dict[str, Work]]]:
    """Register a function that prepares the input of a size and returns works by name, ours first.

    Args:
        name: the work.
        x: what the size counts.
        sizes: rising; large enough that what does not grow is no part worth speaking of.
        unit: see `Curve`.
        bounds: see `Curve`; a lower one of 0 where less growth would be no fault.
    """
    if len(sizes) < 3 or sorted(set(sizes)) != list(sizes):
        raise ValueError(f"{name}: sizes must rise and be at least 3, got {sizes}")

    def register(make: Callable[[int], dict[str, Work]]) -> Callable[[int], dict[str, Work]]:
        _refuse_twins(name)
        CURVES.append(Curve(name=name, x=x, sizes=sizes, unit=unit, bounds=bounds, make=make))
        return make

    return register


def measure_curve(
    item: Curve, *, repeats: int, budget_s: float = math.inf, num_sizes: int | None = None
) -> CurveTiming:
    """Median cost at each size, all sizes interleaved, after one run of each that does not count.

    Args:
        item: the curve.
        repeats: of each size; bytes are counted once.
        budget_s: seconds after which no repeat begins, once there are `MIN_REPEATS`.
        num_sizes: leave out the largest sizes, for a quick look.
    """
    _one_thread()
    sizes = item.sizes[:num_sizes]
    works = [item.make(size) for size in sizes]
    taken: dict[str, list[list[float]]] = {name: [[] for _ in sizes] for name in works[0]}
    clock = time.process_time if item.unit == "cpu s" else time.perf_counter
    rounds = iter([0]) if item.unit == "bytes" else _rounds(repeats + 1, budget_s, at_least=MIN_REPEATS + 1)
    for number in rounds:
        for index, at_size in enumerate(works):
            for name, work in at_size.items():
                value = _cost(work, 1, clock)
                if number or item.unit == "bytes":
                    taken[name][index].append(value)
    values = {name: [statistics.median(kept) for kept in at_sizes] for name, at_sizes in taken.items()}
    exponents = {name: fitted_exponent(sizes, medians) for name, medians in values.items()}
    lowest, highest = item.bounds or (-math.inf, math.inf)
    return CurveTiming(
        name=item.name,
        x=item.x,
        unit=item.unit,
        sizes=sizes,
        values=values,
        exponents=exponents,
        bounds=item.bounds,
        within=lowest <= next(iter(exponents.values())) <= highest,
        repeats=len(next(iter(taken.values()))[0]),
    )


def fitted_exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """b of value = a size^b, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-12)), 1)[0])


def measure_rate(item: Rate, *, repeats: int, budget_s: float = math.inf) -> RateTiming:
    """Units per second, after one run that loads, compiles and fills caches.

    A work that returns `Measured` begins with that itself, and is not run before. `budget_s`: see `measure`.
    """
    _one_thread()
    work, units = item.make()
    first, peak_bytes, per_s = work(), None, []
    if isinstance(first, Measured):
        peak_bytes, per_s = first.peak_bytes, [units / first.cost]
    for _ in _rounds(repeats - len(per_s), budget_s, at_least=MIN_REPEATS - len(per_s)):
        per_s.append(units / _cost(work, 1))
    return RateTiming(
        name=item.name,
        unit=item.unit,
        per_s=statistics.median(per_s),
        per_s_range=(min(per_s), max(per_s)),
        repeats=len(per_s),
        peak_memory_mb=None if peak_bytes is None else peak_bytes / 1e6,
    )


def measure(
    comparison: Comparison, *, repeats: int, budget_s: float = math.inf, min_s: float = 0.02
) -> Timing:
    """Median cost of both; their repeats alternate, and so does who begins: a busy machine slows both alike.

    Each is run once before, and as often in a repeat as fills `min_s` seconds. A work that returns `Measured`
    is run once in a repeat and says itself what it took. No repeat begins `budget_s` seconds after the first,
    once there are `MIN_REPEATS`.

    Raises:
        ValueError: the two results differ.
    """
    _one_thread()
    works = comparison.make()
    first: list[object] = []
    first_s = [_cost(lambda work=work: first.append(work()), 1) for work in works]
    results = [np.asarray(r.result if isinstance(r, Measured) else r, np.float64) for r in first]
    if not np.allclose(results[0], results[1], rtol=comparison.rtol):
        worst = float(np.max(np.abs(results[0] - results[1])))
        raise ValueError(f"{comparison.name}: results differ by up to {worst:g} from {comparison.peer}")
    num_calls = [
        1
        if isinstance(result, Measured) or seconds > 50 * min_s
        else max(1, round(min_s / max(_cost(work, 1), 1e-7)))
        for work, result, seconds in zip(works, first, first_s, strict=True)
    ]
    costs: tuple[list[float], list[float]] = ([], [])
    for number in _rounds(repeats, budget_s, at_least=MIN_REPEATS):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            costs[side].append(_cost(works[side], num_calls[side]))
    ours, theirs = (statistics.median(kept) for kept in costs)
    ratios = [b / a for a, b in zip(*costs, strict=True)]
    return Timing(
        name=comparison.name,
        peer=comparison.peer,
        unit=comparison.unit,
        ours=ours,
        theirs=theirs,
        ratio=statistics.median(ratios),
        ratio_range=(min(ratios), max(ratios)),
        repeats=len(ratios),
    )


def _one_thread() -> None:
    """What the benchmark before has set is forgotten; a benchmark of more threads says so in its `make`."""
    import cv2

    limit_threads(1)
    cv2.setNumThreads(1)


def _rounds(wanted: int, budget_s: float, *, at_least: int) -> Iterator[int]:
    end = time.monotonic() + budget_s
    for number in range(wanted):
        if number >= at_least and time.monotonic() > end:
            return
        yield number


def _cost(work: Work, count: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, or what it says itself."""
    result = None
    start = clock()
    for _ in range(count):
        result = work()
    seconds = (clock() - start) / count
    return result.cost if isinstance(result, Measured) else seconds
