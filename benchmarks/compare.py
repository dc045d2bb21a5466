"""Compare two files of `make bench`: `python -m benchmarks.compare OLD NEW` (or make bench-compare OLD NEW).

Ratios to a peer are compared, not times, so the two runs may come from machines of different speed; another
peer, or another version of it, is another figure. A figure has changed where the ranges of both runs do not
touch and have three repeats each; rates have no peer and are compared as they are. What only one run has is
listed. Ends with status 1 if anything became slower.
"""

from __future__ import annotations

import argparse
import json
import reprlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.registry import CurveTiming, RateTiming, Timing
from phys4d.runtime.config import from_mapping
from phys4d.runtime.errors import UserError, run_main


@dataclass(frozen=True)
class Failed:
    """A row that could not be measured."""

    name: str
    error: str


TABLES = {"results": Timing, "rates": RateTiming, "curves": CurveTiming}
ROWS = {**TABLES, "errors": Failed}
ENOUGH_REPEATS = 3
"""Two do not tell what a figure differs by on its own."""
FACTS = ("cpu", "num_cpus", "python", "git_commit")


@dataclass(frozen=True)
class Change:
    """A figure in both runs."""

    name: str
    old: float
    new: float
    verdict: Literal["faster", "slower", ""]
    """Empty where it lies within what the repeats of one run differ by."""


def read(path: Path) -> dict[str, Any]:
    """A file that `python -m benchmarks` wrote.

    Raises:
        UserError: it is none; names the file, and the row and the value that are not as they should be.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"no file {path}; write it with: make bench FLAGS='--json {path}'") from None
    except ValueError as error:
        raise UserError(f"{path} is no JSON ({error}); write it anew with make bench") from None
    if not isinstance(content, dict) or "machine" not in content or "results" not in content:
        raise UserError(f"{path} lacks machine and results: it is no file of make bench")
    machine = content["machine"]
    if not isinstance(machine, dict) or not machine.keys() >= set(FACTS):
        raise UserError(f"machine in {path} must hold {', '.join(FACTS)}, got {machine!r}")
    for key, row_class in ROWS.items():
        rows = content.get(key, [])
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise UserError(f"{key} in {path} must be a list of rows, got {reprlib.repr(rows)}")
        for number, row in enumerate(rows):
            from_mapping(row_class, row, f"row {number} of {key} in {path}")
    return content


def _rows(content: dict[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """Rows of a table by what is compared: a work, and with whose."""
    rows = content.get(key, [])
    return {row["name"] + (f", against {row['peer']}" if "peer" in row else ""): row for row in rows}


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[Change]:
    """Figures that both have, with what became of them."""
    found = []
    for key, value, span in (("results", "ratio", "ratio_range"), ("rates", "per_s", "per_s_range")):
        before = _rows(old, key)
        for name, row in _rows(new, key).items():
            if name not in before:
                continue
            earlier = before[name]
            verdict = ""
            if min(row["repeats"], earlier["repeats"]) >= ENOUGH_REPEATS:
                if row[span][0] > earlier[span][1]:
                    verdict = "faster"
                elif row[span][1] < earlier[span][0]:
                    verdict = "slower"
            found.append(Change(row["name"], earlier[value], row[value], verdict))
    before = _rows(old, "curves")
    for name, row in _rows(new, "curves").items():
        if name in before:
            was, now = (next(iter(r["exponents"].values())) for r in (before[name], row))
            missed = before[name]["within"] and not row["within"]
            found.append(Change(f"exponent of {name}", was, now, "slower" if missed else ""))
    return found


def only_in(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Figures that the other run lacks."""
    return [name for key in TABLES for name in _rows(one, key) if name not in _rows(other, key)]


def main(args: Sequence[str] | None = None) -> int:
    """Print what changed; 1 if something became slower."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description="compare two runs")
    parser.add_argument("old", type=Path, help="earlier file of make bench")
    parser.add_argument("new", type=Path, help="later file of make bench")
    options = parser.parse_args(args)
    old, new = read(options.old), read(options.new)
    for fact in FACTS:
        before, now = old["machine"].get(fact), new["machine"].get(fact)
        print(f"{fact:12s} {before}" + ("" if before == now else f" -> {now}"))
    if any(content.get("quick") for content in (old, new)):
        print("a run was --quick: a look, not a measurement")
    rows = changes(old, new)
    if not rows:
        raise UserError(f"{options.old} and {options.new} have no figure in common")
    print(f"\n{'what':60s} {'old':>9s} {'new':>9s} {'new/old':>8s}")
    for row in rows:
        share = row.new / row.old if row.old else float("nan")
        print(f"{row.name:60s} {row.old:9.3g} {row.new:9.3g} {share:8.2f}  {row.verdict}")
    for path, one, other in ((options.old, old, new), (options.new, new, old)):
        for name in only_in(one, other):
            print(f"only in {path}: {name}")
        for row in one.get("errors", []):
            print(f"failed in {path}: {row['name']}: {row['error']}")
    return int(any(row.verdict == "slower" for row in rows))


if __name__ == "__main__":
    run_main(lambda: sys.exit(main()))
