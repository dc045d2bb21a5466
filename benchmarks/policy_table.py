"""Stage 2, stage 2 with best-of-N and stage 3 over seeds: `python -m benchmarks.policy_table`.

Of each preset and seed: stage 3 is trained from one stage 2, best-of-N picks at its compute, and all are
evaluated on the same scenes with that seed's noise, so that differences are paired. What is finished is kept:
an interrupted table goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.kept import is_begun, run
from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.run import provenance

METRICS = {
    ("heads", "4D Chamfer"): "4D Chamfer m",
    ("estimator", "4D Chamfer"): "same, estimator",
    ("rgb", "trajectory error"): "trajectory px",
    ("rgb", "share of physical variance"): "Physics-IQ style %",
}
"""Reader and metric: title of its column."""
STAGES = {"stage2": "stage 2", "best_of_n": "stage 2, best of N", "stage3": "stage 3"}
PARTS = ("base", "estimator", "stage1", "stage2")
PROGRAMS = ("policy.train", "policy.best_of_n", "policy.evaluate")
"""Of a seed, in order."""

WITHOUT = ", without best of N"

Values = dict[tuple[str, str, str], float]
"""Mean over scenes by stage, reader and metric."""


@dataclass(frozen=True, kw_only=True)
class TableConfig:
    """Train stage 3 over seeds and print it beside stage 2 and best-of-N."""

    runs: Path = Path("runs")
    """Folder of the runs, one of each preset's name, whose stages up to 2 are taken."""
    out: Path = Path("runs/policy-table")
    """Folder of the runs that are made and of `results.json`."""
    presets: tuple[str, ...] = ("tiny-wan", "tiny-cogvideox", "tiny-open-sora")
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    held_out: Path = Path("data/rigid/test")
    """DIR/SPLIT of the scenes that are measured."""
    best_of_n: bool = True
    """Off leaves best-of-N out, which is half of the work; a table made later with it evaluates again."""
    train_flags: str = ""
    """More flags of `policy.train`, after an equals sign: --train-flags="--num-iterations 50"."""
    evaluate_flags: str = ""
    """More flags of `policy.best_of_n` and `policy.evaluate`: --evaluate-flags="--num-scenes 16"."""

    def __post_init__(self) -> None:
        for name in ("presets", "seeds"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name} must differ and be at least one, got {values}")


def written(config: TableConfig, program: str) -> Path:
    """The file that a program writes last, in the folder of its run."""
    from policy.stages import results_name

    return {
        "policy.train": Path("stage3/lora/pytorch_lora_weights.safetensors"),
        "policy.best_of_n": Path("best_of_n/latents.safetensors"),
        "policy.evaluate": Path(results_name("evaluation", config.held_out.name), "results.json"),
    }[program]


@dataclass
class Clock:
    """How long programs took here, and so what is left."""

    left: list[str]
    taken: dict[str, list[float]] = field(default_factory=dict)

    def left_s(self) -> float:
        """Seconds that the programs left take if they take as long as their like."""
        known = [s for times in self.taken.values() for s in times]
        if not known:
            return math.nan
        return sum(statistics.mean(self.taken.get(program, known)) for program in self.left)


def run_program(config: TableConfig, preset: str, seed: int, program: str, clock: Clock) -> None:
    """One program of one seed, unless it has finished.

    Raises:
        UserError: it ended with an error, or has been run with other flags or another stage 2.
    """
    folder = seed_folder(config, preset, seed)
    clock.left.remove(program)
    flags = f"--preset {preset} --run {folder}"
    if program == "policy.train":
        flags += f" --seed {seed} {config.train_flags}"
    else:
        data, split = config.held_out.parent, config.held_out.name
        flags += f" --data {data} --split {split} --seed {1000 + seed} {config.evaluate_flags}"
    flags = " ".join(flags.split())
    adapter = folder / "stage2" / "lora" / "pytorch_lora_weights.safetensors"
    asked = f"{flags} of stage 2 {hashlib.sha256(adapter.read_bytes()).hexdigest()[:16]}"
    made, noted = folder / written(config, program), folder / f"{program}-flags.txt"
    if program == "policy.evaluate":
        if not config.best_of_n:
            # One that was made with best-of-N holds all that is asked.
            with_it = noted.is_file() and noted.read_text().strip() == asked
            asked += "" if with_it else WITHOUT
        elif made.exists() and noted.is_file() and noted.read_text().strip() == asked + WITHOUT:
            made.unlink()
    if is_begun(made, noted, asked):
        return
    left = clock.left_s()
    after = "" if math.isnan(left) else f", then about {left / 60:.0f} min"
    print(f"[{len(clock.left)} programs after this{after}] python -m {program} {flags}", flush=True)
    start = time.monotonic()
    run(program, flags)
    clock.taken.setdefault(program, []).append(time.monotonic() - start)


def seed_folder(config: TableConfig, preset: str, seed: int) -> Path:
    """The run of one seed, with the stages before the third of the preset's own run."""
    folder = config.out / f"{preset}-seed-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        if not (folder / part).exists():
            (folder / part).symlink_to((config.runs / preset / part).resolve())
    return folder


def read_values(path: Path) -> Values:
    """What an evaluation measured."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(row["stage"], row["reader"], row["metric"]): row["mean"] for row in rows}


def summary(seeds: list[Values]) -> list[dict[str, object]]:
    """Mean and standard deviation over seeds of each stage and metric, and how far stage 3 is ahead.

    `ahead` is the mean of the paired differences to stage 3, positive where stage 3 is better, and
    `standard_errors` that over its standard error; None where a single seed gives none.
    """
    lines: list[dict[str, object]] = []
    for (reader, metric), title in METRICS.items():
        for stage, name in STAGES.items():
            if not all((s, reader, metric) in values for values in seeds for s in (stage, "stage3")):
                continue
            mine = [values[stage, reader, metric] for values in seeds]
            better = 1 if metric == "share of physical variance" else -1
            ahead = [better * (v["stage3", reader, metric] - v[stage, reader, metric]) for v in seeds]
            spread = statistics.stdev(ahead) if len(seeds) > 1 else 0.0
            error = spread / math.sqrt(len(seeds))
            lines.append(
                {
                    "metric": title,
                    "stage": name,
                    "mean": statistics.mean(mine),
                    "std": statistics.stdev(mine) if len(seeds) > 1 else None,
                    "ahead": statistics.mean(ahead),
                    "standard_errors": statistics.mean(ahead) / error if error else None,
                }
            )
    return lines


def text(preset: str, lines: list[dict[str, object]], num_seeds: int) -> str:
    """A table for people."""

    def cell(value: object, form: str) -> str:
        return format("-" if value is None else format(value, form), ">12s")

    shown = [
        f"\n{preset}, {num_seeds} seeds",
        f"{'metric':20s}{'':20s}{'mean':>12s}{'std':>12s}{'3 ahead by':>12s}{'in s.e.':>12s}",
    ]
    for line in lines:
        compared = line["stage"] != STAGES["stage3"]
        shown.append(
            f"{line['metric']:20s}{line['stage']:20s}{cell(line['mean'], '.4f')}{cell(line['std'], '.4f')}"
            + (cell(line["ahead"], "+.4f") + cell(line["standard_errors"], "+.1f") if compared else "")
        )
    return "\n".join(shown)


def main() -> None:
    """Command line."""
    config = load(TableConfig)
    for preset in config.presets:
        for part in PARTS:
            if not (config.runs / preset / part).is_dir():
                raise UserError(
                    f"no {part} in {config.runs / preset}; train it with `make sft PRESET={preset}`"
                )
    programs = [program for program in PROGRAMS if config.best_of_n or program != "policy.best_of_n"]
    work = [
        (preset, seed, program) for preset in config.presets for seed in config.seeds for program in programs
    ]
    clock = Clock([program for _, _, program in work])
    for preset, seed, program in work:
        run_program(config, preset, seed, program, clock)
    results = {}
    for preset in config.presets:
        results_of = written(config, "policy.evaluate")
        seeds = [read_values(seed_folder(config, preset, seed) / results_of) for seed in config.seeds]
        results[preset] = summary(seeds)
        print(text(preset, results[preset], len(seeds)))
    found = {
        "machine": provenance(),
        "seeds": list(config.seeds),
        "held_out": str(config.held_out),
        **results,
    }
    atomic_write_text(config.out / "results.json", json.dumps(found, indent=1) + "\n")
    print(f"\nwrote {config.out / 'results.json'}")


if __name__ == "__main__":
    run_main(main)
