"""Write the report of a run: `python -m phys4d.report --run runs/tiny-wan`."""

from dataclasses import dataclass
from pathlib import Path

from phys4d.report.page import write_report
from phys4d.runtime.config import load
from phys4d.runtime.errors import run_main


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write one self-contained HTML page about a run."""

    run: Path = Path("runs/tiny-wan")
    """Run folder."""
    out: Path | None = None
    """HTML file; by default report/index.html in the run folder."""


def main() -> None:
    """Command line."""
    config = load(ReportConfig)
    print(write_report(config.run, config.out).resolve())


if __name__ == "__main__":
    run_main(main)
