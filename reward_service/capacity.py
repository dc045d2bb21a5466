"""How many scorers a trainer needs: `python -m reward_service.capacity --metrics http://127.0.0.1:9464/metrics`.

Takes the costs of a rollout from the metrics of a running service, or from scoring some here (`--measure`),
or as given (`--costs.score-s`). A formula names the replicas; a discrete-event simulation with failing pods
checks it, from 1 to 10,000 replicas. Writes capacity.json and capacity.png. docs/scaling.md explains both
and holds an example, which `--page` writes.
"""

import json
import math
import re
import urllib.request
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.progress import progress
from reward_service.capacity_model import (
    Costs,
    Pool,
    Trainer,
    predicted_wait_s,
    replicas_needed,
    simulate,
    wait_share,
)

SWEEP = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
"""Pool sizes that are simulated, as multiples of the named one."""
FAILURE_SWEEP_H = (0.25, 1.0, 4.0, 24.0, 168.0)


@dataclass(frozen=True, kw_only=True)
class CapacityConfig:
    """A trainer, a service, and what is asked of it."""

    metrics: str = ""
    """URL or file of the metrics of a running service, whose mean costs are taken."""
    measure: int = 0
    """Rollouts to score here and now with `scene_chamfer` for the costs; 0 measures none. A trainer that asks
    for further rewards has each rollout scored by them too: take the costs from `metrics` then."""
    width: int = 64
    """Pixels of a rollout that is measured."""
    height: int = 64
    num_frames: int = 9
    costs: Costs = field(default_factory=lambda: Costs(score_s=1.0))
    """What is not measured; `score_s` counts only without --metrics and --measure."""
    trainer: Trainer = field(
        default_factory=lambda: Trainer(num_rollouts=64, num_batches=4, sample_s=60.0, update_s=20.0)
    )
    num_trainers: int = 1
    """Runs like this one on the same service."""
    max_wait_share: float = 0.05
    """Share of its time that a trainer may wait for rewards."""
    replicas_per_pod: int = 4
    pod_mtbf_h: float = 24.0
    """Mean hours between failures of one pod."""
    restart_s: float = 60.0
    """Seconds until a failed pod scores again."""
    num_ingress_cores: int = 4
    """Cores of all ingress pods together."""
    num_iterations: int = 20
    """Iterations that are simulated; the first is left out."""
    max_replicas: int = 10_000
    """Largest pool of the scaling curve, in which the trainers grow with the replicas, and with them the
    ingress cores."""
    plot: Literal["yes", "no"] = "yes"
    out: Path = Path("runs/capacity")
    page: Path | None = None
    """Page that holds the line `<!-- figures -->` twice: the figures go between, the plot beside the page."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.max_wait_share < 1:
            raise ValueError(f"max_wait_share must be in (0, 1), got {self.max_wait_share}")
        if self.metrics and self.measure:
            raise ValueError("costs come from --metrics or from --measure, not from both")
        for name in ("num_trainers", "max_replicas"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.pod_mtbf_h > 0:
            raise ValueError(f"pod_mtbf_h must be above 0 hours, got {self.pod_mtbf_h}")
        if self.measure < 0:
            raise ValueError(f"measure must not be negative, got {self.measure}")
        for name, least in (("width", 16), ("height", 16), ("num_frames", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    @property
    def pool(self) -> Pool:
        """A pool of one replica, to be sized."""
        return Pool(
            num_replicas=1,
            replicas_per_pod=self.replicas_per_pod,
            pod_mtbf_s=3600.0 * self.pod_mtbf_h,
            restart_s=self.restart_s,
            num_ingress_cores=self.num_ingress_cores,
        )


def read_phases(text: str) -> dict[str, tuple[float, float]]:
    """Mean seconds and number of observations of each phase, from a service's metrics.

    Raises:
        UserError: no rollout was scored.
    """
    found: dict[str, dict[str, float]] = {}
    pattern = r'^phys4d_phase_seconds_(sum|count)\{phase="([a-z_]+)"\} (\S+)$'
    for what, phase, number in re.findall(pattern, text, re.MULTILINE):
        found.setdefault(phase, {})[what] = float(number)
    means = {p: (v["sum"] / v["count"], v["count"]) for p, v in found.items() if v.get("count")}
    if "score" not in means:
        raise UserError("the metrics tell of no scored rollout; send some to the service first")
    return means


def costs_of_metrics(where: str, base: Costs) -> Costs:
    """Mean costs of a running service: `score` and `decode`.

    Raises:
        UserError: nothing answers there, no such file, or no rollout was scored.
    """
    if where.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(where, timeout=10) as answer:
                text = answer.read().decode()
        except OSError as error:
            raise UserError(
                f"no metrics at {where}: {error}; start the service with --metrics-port"
            ) from None
    elif not Path(where).is_file():
        raise UserError(
            f"no file {where} of metrics; a running service's are at a URL such as http://{where}"
        )
    else:
        text = Path(where).read_text(encoding="utf-8")
    means = read_phases(text)
    return replace(base, score_s=means["score"][0], ingress_s=means.get("decode", (base.ingress_s, 0))[0])


def measure_costs(config: CapacityConfig) -> Costs:
    """Score rollouts of different scenes here; the first of each family compiles and is left out."""
    import numpy as np

    from phys4d import scenes
    from phys4d.types import Rollout
    from reward_service.config import ChamferSettings
    from reward_service.scoring import score

    num_rollouts = config.measure
    families = sorted(scenes.registry.families()["rigid"])[:num_rollouts]
    seconds = []
    for number in progress(range(-len(families), num_rollouts), desc="scoring", unit="rollout"):
        family = families[number % len(families)]
        spec = scenes.sample_spec("rigid", family, number % 2**31, num_frames=config.num_frames)
        scene = scenes.build(spec)
        camera = scene.camera(config.width, config.height)
        depth_m, object_ids = scenes.raycast(scene, scenes.simulate(scene), 0, camera)[:2]
        if not (object_ids > 0).sum() >= 12:
            continue
        rollout = Rollout(
            sample_id=str(number),
            scene=spec,
            camera=camera,
            depth=np.repeat(depth_m[None], spec.num_frames, 0).astype(np.float16),
            motion=np.zeros((spec.num_frames - 1, config.height, config.width, 3), np.float16),
            object_ids=object_ids,
        )
        scored = score(rollout, ChamferSettings())
        if number >= 0:
            seconds.append(scored.scoring_s)
    if len(seconds) < 2:
        raise UserError(f"--measure {num_rollouts} scored {len(seconds)} rollouts; at least 2 are needed")
    mean_s = float(np.mean(seconds))
    costs = replace(config.costs, score_s=mean_s, score_cv=float(np.std(seconds)) / mean_s)
    # Told at once: no pool may be enough, and the minutes spent would be lost.
    print(f"measured: --costs.score-s {costs.score_s:.4g} --costs.score-cv {costs.score_cv:.3g}", flush=True)
    return costs


def run(config: CapacityConfig) -> dict[str, Any]:
    """Name the replicas, check them by simulation, and write both down."""
    costs = config.costs
    if config.metrics:
        costs = costs_of_metrics(config.metrics, costs)
    elif config.measure:
        costs = measure_costs(config)
    trainer, pool = config.trainer, config.pool
    by_formula = replicas_needed(costs, trainer, pool, config.max_wait_share, config.num_trainers)
    named = enough_in_simulation(config, costs, by_formula)
    cases = _cases(config, costs, named)
    rows = []
    for case in progress(cases, desc="simulating", unit="pool"):
        sized = replace(
            pool,
            num_replicas=case["num_replicas"],
            pod_mtbf_s=3600.0 * case["pod_mtbf_h"],
            num_ingress_cores=_ingress_cores(config, case["num_trainers"]),
        )
        predicted_s = predicted_wait_s(costs, trainer, sized, case["num_trainers"])
        seen = simulate(
            costs,
            trainer,
            sized,
            num_trainers=case["num_trainers"],
            num_iterations=case["num_iterations"],
            seed=config.seed,
        )
        rows.append({**case, "predicted_wait_share": wait_share(predicted_s, trainer), **asdict(seen)})
    result = {"costs": asdict(costs), "trainer": asdict(trainer), "num_replicas": named}
    result |= {"num_replicas_by_formula": by_formula, "pools": rows}
    atomic_write_text(config.out / "capacity.json", json.dumps(result, indent=1) + "\n")
    return result


def enough_in_simulation(config: CapacityConfig, costs: Costs, by_formula: int) -> int:
    """The formula's pool, made larger by a tenth at a time until the simulation waits no longer than asked.

    Bursts of trainers that share a pool meet by chance, which the formula does not know.

    Raises:
        UserError: four times the formula's pool is not enough.
    """
    num_replicas, wait_share = by_formula, 1.0
    while num_replicas <= 4 * by_formula + 4:
        seen = simulate(
            costs,
            config.trainer,
            replace(config.pool, num_replicas=num_replicas),
            num_trainers=config.num_trainers,
            num_iterations=config.num_iterations,
            seed=config.seed,
        )
        wait_share = seen.wait_share
        if wait_share <= config.max_wait_share:
            return num_replicas
        num_replicas = max(num_replicas + 1, round(1.1 * num_replicas))
    raise UserError(
        f"trainers wait {wait_share:.1%} of the simulated time even with {num_replicas} replicas, "
        f"more than max_wait_share {config.max_wait_share:.1%}: pods fail too often, "
        "scoring times differ too much, or num_ingress_cores are few; raise it or them"
    )


def _cases(config: CapacityConfig, costs: Costs, named: int) -> list[dict[str, Any]]:
    """Pools to simulate: around the named one; with ever more trainers; with pods that fail more often."""
    base = {"num_trainers": config.num_trainers, "pod_mtbf_h": config.pod_mtbf_h}
    sizes = sorted({1} | {max(1, round(named * factor)) for factor in SWEEP})
    cases = [
        {"sweep": "size", "num_replicas": n, "num_iterations": config.num_iterations, **base} for n in sizes
    ]
    for num_trainers, needed in _growing(config, costs):
        # About the same number of rollouts in each, and at least two iterations.
        iterations = max(2, min(config.num_iterations, 1 + 8 * config.num_iterations // num_trainers))
        cases.append(
            {
                "sweep": "trainers",
                "num_replicas": needed,
                "num_trainers": num_trainers,
                "num_iterations": iterations,
                "pod_mtbf_h": config.pod_mtbf_h,
            }
        )
    for hours in FAILURE_SWEEP_H:
        cases.append(
            {
                "sweep": "failures",
                "num_replicas": named,
                "num_trainers": config.num_trainers,
                "num_iterations": 4 * config.num_iterations,
                "pod_mtbf_h": hours,
            }
        )
    return cases


def _ingress_cores(config: CapacityConfig, num_trainers: int) -> int:
    """Of a service for that many trainers."""
    return math.ceil(config.num_ingress_cores * max(1.0, num_trainers / config.num_trainers))


def _growing(config: CapacityConfig, costs: Costs) -> list[tuple[int, int]]:
    """(trainers, replicas they need): 1, 4, 16, ... trainers, then as many as `max_replicas` serve."""

    def needed(num_trainers: int) -> int:
        pool = replace(config.pool, num_ingress_cores=_ingress_cores(config, num_trainers))
        return replicas_needed(costs, config.trainer, pool, config.max_wait_share, num_trainers)

    found, most = [], 1
    while needed(most) <= config.max_replicas:
        found.append((most, needed(most)))
        most *= 4
    low, high = most // 4, most
    while high - low > 1 and low > 0:
        middle = (low + high) // 2
        low, high = (middle, high) if needed(middle) <= config.max_replicas else (low, middle)
    if low > 0 and low != found[-1][0]:
        found.append((low, needed(low)))
    return found


def told(config: CapacityConfig, result: dict[str, Any]) -> str:
    """The answer in a few lines."""
    (named,) = [
        r for r in result["pools"] if r["sweep"] == "size" and r["num_replicas"] == result["num_replicas"]
    ]
    pods = math.ceil(result["num_replicas"] / config.replicas_per_pod)
    return (
        f"{result['num_replicas']} scorer replicas ({pods} pods of {config.replicas_per_pod}) for "
        f"{config.num_trainers} trainer{'s' if config.num_trainers > 1 else ''}: waiting "
        f"{named['wait_share']:.1%} simulated, {named['predicted_wait_share']:.1%} by the formula, at most "
        f"{config.max_wait_share:.1%} asked; "
        f"the formula alone names {result['num_replicas_by_formula']}; "
        f"scorers busy {named['utilisation']:.0%}"
    )


def main() -> None:
    """Size the pool."""
    from reward_service.capacity_page import plot, write_figures

    config = load(CapacityConfig)
    result = run(config)
    print(told(config, result))
    print(f"wrote {config.out / 'capacity.json'}")
    if config.plot == "yes":
        print(f"wrote {plot(config, result, config.out / 'capacity.png')}")
    if config.page is not None:
        write_figures(config, result, config.page)
        print(f"wrote {config.page} and {plot(config, result, config.page.with_suffix('.png'))}")


if __name__ == "__main__":
    run_main(main)
