"""What was found about a pool, as a picture and in words; `reward_service.capacity --page` asks for it."""

import textwrap
from pathlib import Path
from typing import Any

from phys4d.runtime.errors import UserError
from phys4d.runtime.files import atomic_write_text
from reward_service.capacity import CapacityConfig

MARK = "<!-- figures -->"


def plot(config: CapacityConfig, result: dict[str, Any], path: Path) -> Path:
    """Three panels: pool size, number of trainers, failures."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    panels = (
        ("size", "num_replicas", "Scorer replicas", "Pool size"),
        (
            "trainers",
            "num_replicas",
            "Scorer replicas, as many as the formula names",
            "More trainers (numbers), larger pools",
        ),
        ("failures", "pod_mtbf_h", "Mean hours between failures of one pod", "Failing pods"),
    )
    for axis, (sweep, key, label, title) in zip(axes, panels, strict=True):
        rows = [row for row in result["pools"] if row["sweep"] == sweep]
        x = [row[key] for row in rows]
        axis.plot(x, [100 * r["predicted_wait_share"] for r in rows], color="0.45", label="formula")
        axis.plot(x, [100 * r["wait_share"] for r in rows], "o", color="C0", label="simulation")
        axis.axhline(100 * config.max_wait_share, color="C3", linestyle="--", linewidth=1, label="asked")
        shares = [
            config.max_wait_share,
            *(r[k] for r in rows for k in ("wait_share", "predicted_wait_share")),
        ]
        axis.set(xscale="log", xlabel=label, ylabel="Trainer waits, % of its time", title=title)
        axis.set_ylim(0, 130 * max(shares))
        if sweep == "trainers":
            for index, row in enumerate(rows):
                share = 100 * row["wait_share"]
                axis.annotate(
                    f"{row['num_trainers']}",
                    (row[key], share),
                    textcoords="offset points",
                    xytext=(0, -15 if index % 2 else 7),
                    ha="center",
                )
        axis.grid(alpha=0.25)
        axis.legend(loc="upper right")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def write_figures(config: CapacityConfig, result: dict[str, Any], page: Path) -> None:
    """Put the figures into a page, in place of those that it holds.

    Raises:
        UserError: the page does not hold the marks once before and once after them.
    """
    parts = page.read_text(encoding="utf-8").split(f"{MARK}\n")
    if len(parts) != 3:
        raise UserError(f"{page} must hold the line {MARK} twice, before and after the figures")
    atomic_write_text(page, f"{MARK}\n".join([parts[0], figures(config, result), parts[2]]))


def figures(config: CapacityConfig, result: dict[str, Any]) -> str:
    """What the simulations saw, as Markdown."""
    costs, trainer, asked = result["costs"], config.trainer, config.max_wait_share
    if config.measure:
        size = f"{config.width} x {config.height} pixels and {config.num_frames} frames"
        source = f"measured here on {config.measure} rollouts of {size}"
    else:
        source = f"from {config.metrics}" if config.metrics else "assumed, not measured"
    rows = {
        sweep: [row for row in result["pools"] if row["sweep"] == sweep]
        for sweep in ("size", "trainers", "failures")
    }
    sizes = sorted(rows["size"], key=lambda row: row["num_replicas"])
    grown, (rare, often) = rows["trainers"], _ends(rows["failures"], "pod_mtbf_h")
    lost = often["num_iterations"] * often["num_trainers"] * trainer.num_rollouts - often["num_scored"]
    paragraphs = [
        f"Scoring a rollout takes {costs['score_s']:.2g} s with a deviation of {costs['score_cv']:.0%} "
        f"({source}). Assumed are {trainer.num_rollouts} rollouts in {trainer.num_batches} batches, "
        f"{trainer.sample_s:g} s of sampling, {trainer.update_s:g} s of update, and at most {asked:.0%} of "
        "waiting. Shares of the time that trainers wait:",
        f"- **Left**, {_trainers(config.num_trainers)}, by number of scorers: "
        + ", ".join(f"{row['num_replicas']}: {row['wait_share']:.1%}" for row in sizes)
        + f". The formula names {result['num_replicas_by_formula']}, the program {result['num_replicas']}.",
        "- **Middle**, pools as large as the formula names: "
        + ", ".join(
            f"{_trainers(row['num_trainers'])} on {row['num_replicas']:,} scorers: {row['wait_share']:.1%}"
            for row in grown
        )
        + f". The largest simulation scored {max(row['num_scored'] for row in grown):,} rollouts.",
        f"- **Right**, {result['num_replicas']} scorers whose pods fail every {often['pod_mtbf_h']:g} h and "
        f"are away for {config.restart_s:g} s: {often['wait_share']:.1%}, and {rare['wait_share']:.1%} if "
        f"they fail every {rare['pod_mtbf_h']:g} h. Of {often['num_scored']:,} rollouts "
        f"{often['num_resent']:,} were sent again and {lost:,} lost.",
    ]
    first, *points = [textwrap.fill(text, 120) for text in paragraphs]
    return "\n".join([first, "", *(point.replace("\n", "\n  ") for point in points)]) + "\n"


def _ends(rows: list[dict[str, Any]], key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The rows with the greatest and the least value."""
    ordered = sorted(rows, key=lambda row: row[key])
    return ordered[-1], ordered[0]


def _trainers(count: int) -> str:
    return f"{count:,} trainer{'s' if count > 1 else ''}"
