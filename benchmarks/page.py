"""Write the figures of a run into the documentation: `python -m benchmarks.page runs/bench/bench.json`.

Replaces all that follows the heading "Figures" of docs/benchmarks.md, and the curves beside it: by a run of
everything, unless told to with `--force`.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.children import ROOT
from benchmarks.compare import read
from benchmarks.registry import registered
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text

HEADING = "\n## Figures\n"


def tables(content: dict[str, Any], picture: str | None) -> str:
    """The run as Markdown."""
    machine = content["machine"]
    commit = str(machine["git_commit"])[:7]
    lines = [f"{machine['cpu']}, {machine['num_cpus']} cores, Python {machine['python']}, commit {commit}."]
    if content.get("quick"):
        lines[0] += " A quick run: a look, not a measurement."
    for part in (_comparisons(content), _rates(content), _curves(content)):
        if rows := list(part):
            lines += ["", *rows]
    if picture is not None and content.get("curves"):
        lines += ["", f"![cost over size, with fitted exponents]({picture})"]
    for row in content.get("errors", []):
        lines += ["", f"Failed: {row['name']}: {row['error']}"]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    if rows:
        for cells in (head, ["---"] + ["---:"] * (len(head) - 2) + ["---"], *rows):
            yield f"| {' | '.join(cells)} |"


def _comparisons(content: dict[str, Any]) -> Iterator[str]:
    rows = []
    for row in content["results"]:
        factor, unit = (1e3, "ms") if row["unit"] == "s" else (1e-6, "MB")
        costs = [f"{factor * row[side]:.3g} {unit}" for side in ("ours", "theirs")]
        low, high = row["ratio_range"]
        rows.append([row["name"], *costs, f"{row['ratio']:.2f}", f"{low:.2f}-{high:.2f}", row["peer"]])
    return _table(("what", "ours", "peer", "peer / ours", "range", "peer's name"), rows)


def _rates(content: dict[str, Any]) -> Iterator[str]:
    rows = []
    for row in content.get("rates", []):
        low, high = row["per_s_range"]
        memory = row["peak_memory_mb"]
        peak = "" if memory is None else f"{memory:.0f} MB"
        rows.append([row["name"], f"{row['per_s']:.3g}", f"{low:.3g}-{high:.3g}", peak, row["unit"]])
    return _table(("what", "per second", "range", "peak memory", "of"), rows)


def _curves(content: dict[str, Any]) -> Iterator[str]:
    rows = []
    for row in content.get("curves", []):
        (_, ours), *peers = row["exponents"].items()
        bounds = "" if row["bounds"] is None else "{:.1f}-{:.1f}".format(*row["bounds"])
        if not row["within"]:
            bounds += " missed"
        others = "; ".join(f"{name} {exponent:.2f}" for name, exponent in peers)
        sizes = f"{row['sizes'][0]}-{row['sizes'][-1]} {row['x']}"
        rows.append([f"{row['name']} ({row['unit']})", sizes, f"{ours:.2f}", bounds, others])
    return _table(("cost", "sizes", "exponent", "bounds", "peers' exponents"), rows)


def _check_whole(content: dict[str, Any], path: Path) -> None:
    """Refuse a run that measured less than there is."""
    if content.get("quick"):
        raise UserError(
            f"{path} is of a quick run, no measurement; run make bench without --quick, or --force"
        )
    names = [(key, item.name) for key, items in registered().items() for item in items]
    lacking = [name for key, name in names if name not in {row["name"] for row in content.get(key, [])}]
    if lacking:
        raise UserError(
            f"{path} lacks {len(lacking)} of {len(names)} rows, among them {lacking[0]!r}, and all "
            "figures of the page would be replaced; run make bench without --only, or --force"
        )


def main(args: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description="write figures as tables")
    parser.add_argument("json", type=Path, help="file of make bench")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="page to write to")
    parser.add_argument("--force", action="store_true", help="write a quick run or a part of one, too")
    options = parser.parse_args(args)
    content = read(options.json)
    if not options.force:
        _check_whole(content, options.json)
    before, heading, _ = options.page.read_text(encoding="utf-8").partition(HEADING)
    if not heading:
        raise UserError(f"{options.page} has no heading {HEADING.strip()!r}; name a page that has")
    drawn, picture = options.json.with_suffix(".svg"), options.page.with_suffix(".svg")
    if drawn.exists():
        shutil.copyfile(drawn, picture)
    figures = tables(content, picture.name if drawn.exists() else None)
    atomic_write_text(options.page, f"{before}{HEADING}\n{figures}")
    print(f"written: {options.page}")


if __name__ == "__main__":
    run_main(main)
