"""Time the hot paths beside named peers: `python -m benchmarks --only WORD` (or make bench).

Three tables: comparisons with a peer, rates of what has none, and curves with the exponent of their growth.
All go into one JSON file with the facts of the machine, curves into a picture beside it; two such files are
compared by `python -m benchmarks.compare A B` (or make bench-compare A B).
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.plots import draw_curves
from benchmarks.registry import (
    COMPARISONS,
    CURVES,
    RATES,
    CurveTiming,
    RateTiming,
    Timing,
    measure,
    measure_curve,
    measure_rate,
)
from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.run import provenance

FEW_REPEATS = 3
QUICK_SIZES = 4


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Compare our code with peers on this machine."""

    only: str = ""
    """Run what has this in its name."""
    repeats: int = 7
    """Interleaved repeats; the median counts. Rates and curves take 3."""
    quick: bool = False
    """3 repeats of all, and the 4 smallest sizes of curves: a look, not a measurement."""
    names: bool = False
    """Print the names and end."""
    json: Path = Path("runs/bench/bench.json")
    """File for the results with the facts of the machine; curves are drawn beside it."""

    def __post_init__(self) -> None:
        if self.repeats < FEW_REPEATS:
            raise ValueError(f"repeats must be at least {FEW_REPEATS} for a median, got {self.repeats}")


def register_all() -> None:
    """Import every `bench_*.py`, which registers what it measures."""
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        importlib.import_module(f"benchmarks.{path.stem}")


def main() -> None:
    """Command line."""
    config = load(BenchConfig)
    register_all()
    everything = [*COMPARISONS, *RATES, *CURVES]
    names = [item.name for item in everything if config.only in item.name]
    if not names:
        known = ", ".join(item.name for item in everything)
        raise UserError(f"no benchmark matches {config.only!r}; there are: {known}")
    if config.names:
        print("\n".join(names))
        return
    facts = provenance()
    print(
        f"{facts['cpu']}, {facts['num_cpus']} cores, Python {facts['python']}, commit {facts['git_commit']}"
    )
    content: dict[str, Any] = {"machine": facts, "quick": config.quick}
    # Written after each row, so that an interrupted run keeps what it has.
    for key, table in (("results", comparisons), ("rates", rates), ("curves", curves)):
        content[key] = rows = []
        for row in table(config):
            rows.append(asdict(row))
            atomic_write_text(config.json, json.dumps(content, indent=2) + "\n")
    print(f"\nwritten: {config.json}")
    if content["curves"]:
        picture = config.json.with_suffix(".svg")
        atomic_write_text(picture, draw_curves(content["curves"]))
        print(f"drawn: {picture}")


def comparisons(config: BenchConfig) -> Iterator[Timing]:
    """Measure and print what has a peer."""
    chosen = [item for item in COMPARISONS if config.only in item.name]
    repeats = FEW_REPEATS if config.quick else config.repeats
    if chosen:
        print(f"\nmedian of {repeats} interleaved repeats")
        print("ratio: the peer's cost over ours in the same repeat; above 1 we are faster, or smaller\n")
        print(f"{'what':60s} {'ours':>11s} {'peer':>11s} {'ratio':>8s} {'range':>13s}  peer")
    for item in chosen:
        t = measure(item, repeats=repeats)
        span = f"{t.ratio_range[0]:.2f}-{t.ratio_range[1]:.2f}"
        costs = f"{_shown(t.ours, t.unit):>11s} {_shown(t.theirs, t.unit):>11s}"
        print(f"{t.name:60s} {costs} {t.ratio:7.2f}x {span:>13s}  {t.peer}", flush=True)
        if t.steps_per_s is not None:
            print(f"{'':60s} {t.steps_per_s:.2f} steps/s, peak memory {t.peak_memory_mb:.0f} MB", flush=True)
        yield t


def _shown(cost: float, unit: str) -> str:
    return f"{1e3 * cost:.3f} ms" if unit == "s" else f"{cost / 1e6:.1f} MB"


def rates(config: BenchConfig) -> Iterator[RateTiming]:
    """Measure and print what has no peer."""
    chosen = [item for item in RATES if config.only in item.name]
    if chosen:
        print(f"\none thread, median of {FEW_REPEATS} repeats\n")
        print(f"{'what':60s} {'per second':>12s} {'range':>15s}  of")
    for item in chosen:
        r = measure_rate(item, repeats=FEW_REPEATS)
        span = f"{r.per_s_range[0]:.3g}-{r.per_s_range[1]:.3g}"
        print(f"{r.name:60s} {r.per_s:12.3g} {span:>15s}  {r.unit}", flush=True)
        yield r


def curves(config: BenchConfig) -> Iterator[CurveTiming]:
    """Measure and print how costs grow."""
    chosen = [item for item in CURVES if config.only in item.name]
    if chosen:
        print("\nexponent b of cost = a size^b; 1 is linear\n")
        print(f"{'what':60s} {'sizes':>14s} {'exponent':>9s} {'at most':>8s}")
    for item in chosen:
        c = measure_curve(item, repeats=FEW_REPEATS, num_sizes=QUICK_SIZES if config.quick else None)
        (_, ours), *peers = c.exponents.items()
        sizes = f"{c.sizes[0]}-{c.sizes[-1]}"
        bound = "-" if c.expected is None else f"{c.expected:.1f}"
        others = "".join(f"; {name} {exponent:.2f}" for name, exponent in peers)
        missed = "" if c.within else "  MISSED"
        print(
            f"{f'{c.name}: {c.unit} of {c.x}':60s} {sizes:>14s} {ours:9.2f} {bound:>8s}{missed}{others}",
            flush=True,
        )
        yield c


if __name__ == "__main__":
    run_main(main)
