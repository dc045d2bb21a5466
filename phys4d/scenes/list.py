"""Print the scene families by category: `python -m phys4d.scenes.list`, with `--json` for programs."""

import json
from dataclasses import dataclass

from phys4d.runtime.config import load
from phys4d.runtime.errors import run_main


@dataclass(frozen=True, kw_only=True)
class ListConfig:
    """How to print."""

    json: bool = False
    """One JSON object: category to list of families."""


def main() -> None:
    """Entry point."""
    config = load(ListConfig)
    from phys4d.scenes.registry import CATEGORIES, families

    if config.json:
        print(json.dumps(families()))
        return
    for name, category in CATEGORIES.items():
        print(f"{name} ({category.engine()})")
        for family, draw in category.families.items():
            held_out = " [held out]" if family in category.held_out else ""
            print(f"  {family:16s} {(draw.__doc__ or '').strip().splitlines()[0]}{held_out}")


if __name__ == "__main__":
    run_main(main)
