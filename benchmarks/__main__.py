"""Time the hot paths beside named peers: `python -m benchmarks --only WORD` (or make bench).

Three tables: comparisons with a peer, rates of what has none, and curves with the exponent of their growth.
All go into one JSON file with the facts of the machine, curves into a picture beside it; two such files are
compared by `python -m benchmarks.compare A B` (or make bench-compare A B), and `python -m benchmarks.page A`
writes them as tables. What they are is told in docs/benchmarks.md.
"""

from __future__ import annotations

import json
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.plots import draw_curves
from benchmarks.registry import (
    Comparison,
    Curve,
    CurveTiming,
    Rate,
    RateTiming,
    Timing,
    Unavailable,
    measure,
    measure_curve,
    measure_rate,
    registered,
)
from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, one_line, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.progress import progress
from phys4d.runtime.run import provenance
from phys4d.runtime.threads import limit_threads

FEW_REPEATS = 3
QUICK_REPEATS, QUICK_SIZES = 2, 3
"""Of rates and curves in a quick run."""
HEADINGS = {
    "results": f"""
ratio: the peer's cost over ours in the same repeat; above 1 we are faster, or smaller

{"what":60s} {"ours":>11s} {"peer":>11s} {"ratio":>8s} {"range":>13s}  peer""",
    "rates": f"""
what is done in a second, by one thread unless the name says otherwise

{"what":60s} {"per second":>12s} {"range":>15s}  of""",
    "curves": f"""
exponent b of cost = a size^b; 1 is linear

{"what":60s} {"sizes":>14s} {"exponent":>9s} {"within":>9s}""",
}


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Compare our code with peers on this machine."""

    only: str = ""
    """Run what has this in its name."""
    repeats: int = 7
    """Interleaved repeats; the median counts. Rates and curves take 3."""
    row_s: float = 8.0
    """Seconds of a row after which it is not repeated again, once it has two repeats."""
    quick: bool = False
    """3 repeats, of rates and curves 2, and the 3 smallest sizes: a look, not a measurement."""
    names: bool = False
    """Print the names and end."""
    json: Path = Path("runs/bench/bench.json")
    """File for the results with the facts of the machine; curves are drawn beside it."""

    def __post_init__(self) -> None:
        if self.repeats < FEW_REPEATS:
            raise ValueError(f"repeats must be at least {FEW_REPEATS} for a median, got {self.repeats}")
        if not self.row_s > 0:
            raise ValueError(f"row_s must be above 0 seconds, got {self.row_s}")


def main() -> int:
    """Command line; 1 if a benchmark failed."""
    config = load(BenchConfig)
    # Libraries read this when they are first imported.
    limit_threads(1)
    tables = registered()
    chosen = [(key, item) for key, items in tables.items() for item in items if config.only in item.name]
    if not chosen:
        known = ", ".join(item.name for items in tables.values() for item in items)
        raise UserError(f"no benchmark matches {config.only!r}; there are: {known}")
    if config.names:
        print("\n".join(item.name for _, item in chosen))
        return 0
    facts = provenance()
    print(
        f"{facts['cpu']}, {facts['num_cpus']} cores, Python {facts['python']}, commit {facts['git_commit']}"
    )
    minutes = len(chosen) * config.row_s / 60
    print(f"{len(chosen)} rows of {config.row_s:g} s or little more each: up to about {minutes:.0f} minutes")
    content: dict[str, Any] = {"machine": facts, "quick": config.quick}
    content |= {key: [] for key in (*tables, "errors")}
    heading = ""
    with progress(total=len(chosen), desc="benchmarks", unit="row") as bar:
        for key, item in chosen:
            if heading != key:
                _say(HEADINGS[heading := key])
            try:
                row = _measured(item, config)
            except Unavailable as reason:
                _say(f"{item.name:60s} not measured: {reason}")
            # Whatever it is, the others are still measured; it is told at the end and in the exit status.
            except Exception as error:
                traceback.print_exc()
                _say(f"{item.name:60s} FAILED: {one_line(error)}")
                content["errors"].append({"name": item.name, "error": one_line(error)})
            else:
                content[key].append(asdict(row))
                _say(_line(row))
            # Written after each row, so that an interrupted run keeps what it has.
            atomic_write_text(config.json, json.dumps(content, indent=2) + "\n")
            bar.update()
    print(f"\nwritten: {config.json}")
    if content["curves"]:
        picture = config.json.with_suffix(".svg")
        atomic_write_text(picture, draw_curves(content["curves"]))
        print(f"drawn: {picture}")
    for failed in content["errors"]:
        print(f"failed: {failed['name']}: {failed['error']}")
    return int(bool(content["errors"]))


def _say(text: str) -> None:
    """Print above the bar."""
    with tqdm.external_write_mode():
        print(text, flush=True)


def _measured(item: Comparison | Rate | Curve, config: BenchConfig) -> Timing | RateTiming | CurveTiming:
    if isinstance(item, Comparison):
        return measure(item, repeats=FEW_REPEATS if config.quick else config.repeats, budget_s=config.row_s)
    repeats, sizes = (QUICK_REPEATS, QUICK_SIZES) if config.quick else (FEW_REPEATS, None)
    if isinstance(item, Rate):
        return measure_rate(item, repeats=repeats, budget_s=config.row_s)
    return measure_curve(item, repeats=repeats, budget_s=config.row_s, num_sizes=sizes)


def _line(row: Timing | RateTiming | CurveTiming) -> str:
    if isinstance(row, Timing):
        span = f"{row.ratio_range[0]:.2f}-{row.ratio_range[1]:.2f}"
        costs = f"{_shown(row.ours, row.unit):>11s} {_shown(row.theirs, row.unit):>11s}"
        return f"{row.name:60s} {costs} {row.ratio:7.2f}x {span:>13s}  {row.peer}"
    if isinstance(row, RateTiming):
        span = f"{row.per_s_range[0]:.3g}-{row.per_s_range[1]:.3g}"
        memory = "" if row.peak_memory_mb is None else f", peak {row.peak_memory_mb:.0f} MB"
        return f"{row.name:60s} {row.per_s:12.3g} {span:>15s}  {row.unit}{memory}"
    (_, ours), *peers = row.exponents.items()
    sizes, bounds = f"{row.sizes[0]}-{row.sizes[-1]}", "-"
    if row.bounds is not None:
        lowest, highest = row.bounds
        bounds = f"{lowest:.1f}-{highest:.1f}" if lowest else f"<= {highest:.1f}"
    others = "".join(f"; {name} {exponent:.2f}" for name, exponent in peers)
    missed = "" if row.within else "  MISSED"
    return f"{f'{row.name}: {row.unit} of {row.x}':60s} {sizes:>14s} {ours:9.2f} {bounds:>9s}{missed}{others}"


def _shown(cost: float, unit: str) -> str:
    return f"{1e3 * cost:.3f} ms" if unit == "s" else f"{cost / 1e6:.1f} MB"


if __name__ == "__main__":
    run_main(lambda: sys.exit(main()))
