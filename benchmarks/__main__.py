"""Time the hot paths beside named peers: `python -m benchmarks --only WORD --json FILE` (or make bench)."""

from __future__ import annotations

import importlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.registry import COMPARISONS, RATES, measure, measure_rate
from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.run import provenance

RATE_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Compare our code with peers on this machine."""

    only: str = ""
    """Run comparisons whose name contains this."""
    repeats: int = 7
    """Interleaved repeats; the median counts. Rates take 3."""
    json: Path | None = None
    """File for the results with the facts of the machine."""

    def __post_init__(self) -> None:
        if self.repeats < 3:
            raise ValueError(f"repeats must be at least 3 for a median, got {self.repeats}")


def main() -> None:
    """Command line."""
    config = load(BenchConfig)
    for path in sorted(Path(__file__).parent.glob("bench_*.py")):
        importlib.import_module(f"benchmarks.{path.stem}")
    chosen = [c for c in COMPARISONS if config.only in c.name]
    rates = [r for r in RATES if config.only in r.name]
    if not chosen and not rates:
        names = ", ".join(each.name for each in (*COMPARISONS, *RATES))
        raise UserError(f"no benchmark matches {config.only!r}; there are: {names}")
    facts = provenance()
    print(
        f"{facts['cpu']}, {facts['num_cpus']} cores, Python {facts['python']}, commit {facts['git_commit']}"
    )
    timings, done = [], []
    if chosen:
        print(f"median of {config.repeats} interleaved repeats\n")
        print(f"{'what':44s} {'ours':>10s} {'peer':>10s} {'ratio':>7s} {'range':>13s}  peer")
    for comparison in chosen:
        t = measure(comparison, repeats=config.repeats)
        timings.append(t)
        times = f"{1e3 * t.ours_s:7.3f} ms {1e3 * t.peer_s:7.3f} ms {t.ratio:6.2f}x"
        span = f"{t.ratio_range[0]:.2f}-{t.ratio_range[1]:.2f}"
        print(f"{t.name:44s} {times} {span:>13s}  {t.peer}", flush=True)
        if t.steps_per_s is not None:
            print(f"{'':44s} {t.steps_per_s:.2f} steps/s, peak memory {t.peak_memory_mb:.0f} MB", flush=True)
    if chosen:
        print("\nratio: the peer's time over ours; above 1 we are faster")
    if rates:
        print(f"\none thread, median of {RATE_REPEATS} repeats\n")
        print(f"{'what':44s} {'per second':>12s} {'range':>15s}  of")
    for item in rates:
        r = measure_rate(item, repeats=RATE_REPEATS)
        done.append(r)
        span = f"{r.per_s_range[0]:.3g}-{r.per_s_range[1]:.3g}"
        print(f"{r.name:44s} {r.per_s:12.3g} {span:>15s}  {r.unit}", flush=True)
    if config.json is not None:
        atomic_write_text(
            config.json,
            json.dumps(
                {
                    "machine": facts,
                    "results": [asdict(t) for t in timings],
                    "rates": [asdict(r) for r in done],
                },
                indent=2,
            )
            + "\n",
        )


if __name__ == "__main__":
    run_main(main)
