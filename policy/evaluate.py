"""Measure every stage of a run on held-out scenes: `python -m policy.evaluate --preset tiny-wan`.

Three readings of each generated video, so that none has to be believed alone:

* rgb: the objects' colours are followed in the decoded video and compared with the simulator's video;
* heads: depth and motion from the stage's own heads go to the reward service;
* estimator: depth and flow from estimators on decoded RGB go to the reward service.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phys4d.runtime import config as configs
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.seeding import derive_seed
from phys4d.runtime.threads import limit_threads
from policy.config import EvaluateConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from phys4d.data import Sample
    from phys4d.models.protocol import Conditioning, VideoModel
    from phys4d.reward.client import RewardClient
    from phys4d.types import Rollout
    from policy.prompts import Prompt
    from policy.rollout import SamplingRule

TRACK, FINAL = "trajectory error", "final trajectory error"
SERVICE_METRICS = {
    "reward": ("value", "", True),
    "4D Chamfer": ("cd_frame_m", "m", False),
    "centroid error": ("centroid_l2_m", "m", False),
}
"""Metric name: component of the score, unit, whether higher is better."""


@dataclass
class Table:
    """Per-scene values of every stage, reader and metric, one list of scenes per seed."""

    values: dict[tuple[str, str, str], list[np.ndarray]] = field(default_factory=dict)

    def add(self, stage: str, reader: str, metric: str, per_scene: Sequence[float] | np.ndarray) -> None:
        """Append one seed's values; NaN where a scene could not be measured."""
        self.values.setdefault((stage, reader, metric), []).append(np.asarray(per_scene, np.float64))

    def rows(self) -> list[dict[str, Any]]:
        """Means over scenes, one per seed, and their mean."""
        rows = []
        for (stage, reader, metric), seeds in self.values.items():
            means = [float(np.nanmean(values)) for values in seeds]
            unit, higher = ("px", False) if metric in (TRACK, FINAL) else SERVICE_METRICS[metric][1:]
            measured = int(min(np.isfinite(values).sum() for values in seeds))
            rows.append(
                {
                    "stage": stage,
                    "reader": reader,
                    "metric": metric,
                    "unit": unit,
                    "mean": float(np.mean(means)),
                    "seeds": means,
                    "higher_is_better": higher,
                    "num_scenes": measured,
                }
            )
        return rows

    def comparison(self, before: str, after: str, reader: str, metric: str) -> dict[str, Any] | None:
        """Paired difference `after - before` over scenes (means over seeds), 95 % bootstrap interval."""
        pair = [self.values.get((stage, reader, metric)) for stage in (before, after)]
        if pair[0] is None or pair[1] is None:
            return None
        difference = np.mean(pair[1], axis=0) - np.mean(pair[0], axis=0)
        difference = difference[np.isfinite(difference)]
        rng = np.random.default_rng(0)
        resampled = rng.choice(difference, (2000, len(difference))).mean(axis=1)
        low, high = np.percentile(resampled, [2.5, 97.5])
        return {
            "before": before,
            "after": after,
            "reader": reader,
            "metric": metric,
            "mean_difference": float(difference.mean()),
            "ci95": [float(low), float(high)],
            "num_scenes": len(difference),
        }


def track_metrics(
    videos: Sequence[np.ndarray], samples: Sequence[Sample], true_tracks: Sequence[np.ndarray]
) -> tuple[list[float], list[float]]:
    """Mean error over frames after the first, and error in the last frame, in pixels per scene."""
    from phys4d.metrics.tracking import track_colours, trajectory_errors

    means, finals = [], []
    for video, sample, truth in zip(videos, samples, true_tracks, strict=True):
        errors = trajectory_errors(
            track_colours(video, sample.object_ids[0]), truth, lost_px=video.shape[2] / 2
        )
        means.append(_mean(errors[1:]))
        finals.append(_mean(errors[-1]))
    return means, finals


def _mean(values: np.ndarray) -> float:
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if len(seen) else float("nan")


def score_rollouts(
    client: RewardClient, table: Table, stage: str, reader: str, rollouts: Sequence[Rollout]
) -> None:
    """Score one seed's rollouts and record the metrics; a rollout without a score is NaN and counted."""
    outcomes = client.score(rollouts)
    failed = [o for o in outcomes if o.score is None]
    if len(failed) == len(outcomes):
        raise UserError(f"no rollout of {stage} ({reader}) was scored; first reason: {failed[0].result}")
    if failed:
        print(
            f"{stage} ({reader}): {len(failed)} of {len(outcomes)} rollouts have no score: {failed[0].result}"
        )
    for metric, (component, _, _) in SERVICE_METRICS.items():
        values = []
        for outcome in outcomes:
            parts = (
                {} if outcome.score is None else {"value": outcome.score.value, **outcome.score.components}
            )
            values.append(parts.get(component, float("nan")))
        table.add(stage, reader, metric, values)


def evaluate(config: EvaluateConfig) -> Path:
    """Measure what stages there are; returns the results file."""

    from phys4d.data import open_dataset
    from phys4d.metrics.tracking import constant_velocity, track_colours
    from phys4d.models.estimators import load_depth_estimator
    from phys4d.models.reading import read_with_estimators, to_numpy
    from phys4d.runtime.files import atomic_directory, atomic_write_text
    from phys4d.runtime.progress import progress
    from policy.prompts import encode_prompts, load_prompts
    from policy.reading import Reader
    from policy.rollout import sampling_rule
    from policy.service import reward_client
    from policy.stages import finished_stages, load_stage

    limit_threads(config.num_threads)
    dataset = open_dataset(config.data, config.split)
    if len(dataset) < config.num_scenes:
        raise ValueError(
            f"num_scenes is {config.num_scenes}, but {config.data} {config.split} has "
            f"{len(dataset)}; render more"
        )
    samples = [dataset[i] for i in range(config.num_scenes)]
    prompts = load_prompts(dataset, range(config.num_scenes))
    true_tracks = [track_colours(s.rgb, s.object_ids[0]) for s in samples]
    estimator = load_depth_estimator(config.run / "estimator")
    present = finished_stages(config.run)
    table = Table()
    shown: dict[str, list[dict[str, np.ndarray]]] = {}

    def record_tracks(stage: str, videos: Sequence[np.ndarray]) -> None:
        means, finals = track_metrics(videos, samples, true_tracks)
        table.add(stage, "rgb", TRACK, means)
        table.add(stage, "rgb", FINAL, finals)

    record_tracks("simulator", [s.rgb for s in samples])
    record_tracks("frozen", [s.rgb[:1].repeat(len(s.rgb), 0) for s in samples])
    _record_constant_velocity(table, [constant_velocity(t) for t in true_tracks], true_tracks, samples)

    with reward_client(config.reward) as client:
        truth = [
            p.rollout(f"simulator/{p.key}", s.depth, s.motion) for p, s in zip(prompts, samples, strict=True)
        ]
        score_rollouts(client, table, "simulator", "heads", truth)
        generated: dict[int, tuple[torch.Tensor, torch.Tensor, tuple[np.ndarray, ...]]] = {}
        bar = progress(total=len(present) * config.num_seeds, desc="evaluate", unit="pass")
        for stage in present:
            model, heads = load_stage(config.run, stage)
            conditioning = encode_prompts(model, prompts)
            rule = sampling_rule(model, config.num_steps, shift=config.shift)
            reader = Reader(model, heads, estimator)
            for seed in range(config.num_seeds):
                # Stage 1 leaves the denoiser as it is: its videos are the base's.
                if stage != "stage1" or seed not in generated:
                    latents = _sample_all(config, seed, model, conditioning, prompts, rule)
                    rgb = reader.decode(latents)
                    generated[seed] = latents, rgb, to_numpy(read_with_estimators(estimator, rgb)[0])
                latents, rgb, estimated = generated[seed]
                record_tracks(stage, list(rgb.numpy()))
                score_rollouts(
                    client,
                    table,
                    stage,
                    "estimator",
                    [
                        p.rollout(f"{stage}/{seed}/estimator/{p.key}", d, m)
                        for p, d, m in zip(prompts, *estimated, strict=True)
                    ],
                )
                depth, motion = estimated
                if heads is not None:
                    depth, motion = to_numpy(reader.geometry(latents, conditioning))
                    score_rollouts(
                        client,
                        table,
                        stage,
                        "heads",
                        [
                            p.rollout(f"{stage}/{seed}/heads/{p.key}", d, m)
                            for p, d, m in zip(prompts, depth, motion, strict=True)
                        ],
                    )
                if seed == 0:
                    shown[stage] = [
                        {"rgb": v, "depth": d, "motion": m}
                        for v, d, m in zip(rgb.numpy(), depth, motion, strict=True)
                    ]
                bar.update(1)
        bar.close()

    shown["truth"] = [{"rgb": s.rgb, "depth": s.depth, "motion": s.motion} for s in samples]
    chosen = _spread_over_families([s.spec.family for s in samples], config.num_report_scenes)
    comparisons = [
        table.comparison(a, b, reader, metric)
        for a, b in (("base", "stage2"), ("stage2", "stage3"))
        for reader, metric in (
            ("rgb", TRACK),
            ("rgb", FINAL),
            ("heads", "4D Chamfer"),
            ("estimator", "4D Chamfer"),
        )
    ]
    with atomic_directory(config.run / "evaluation", replace=True) as folder:
        scenes = []
        for i in chosen:
            files = {}
            (folder / "scenes" / samples[i].key).mkdir(parents=True)
            for name, videos in shown.items():
                files[name] = f"scenes/{samples[i].key}/{name}.npz"
                np.savez_compressed(folder / files[name], allow_pickle=False, **videos[i])
            scenes.append(
                {
                    "id": samples[i].key,
                    "family": samples[i].spec.family,
                    "caption": samples[i].caption,
                    "files": files,
                }
            )
        results = {"rows": table.rows(), "comparisons": [c for c in comparisons if c], "scenes": scenes}
        atomic_write_text(folder / "results.json", json.dumps(results, indent=1))
    _print(table)
    return config.run / "evaluation" / "results.json"


def _sample_all(
    config: EvaluateConfig,
    seed: int,
    model: VideoModel,
    conditioning: Conditioning,
    prompts: Sequence[Prompt],
    rule: SamplingRule,
) -> Tensor:
    """Latents of one video per prompt; the noise depends on the seed and the prompt, not on the stage."""
    import torch

    from policy.prompts import num_latent_frames
    from policy.rollout import sample

    seeds = [derive_seed(config.seed, seed, prompt.key) for prompt in prompts]
    parts = [
        sample(
            model,
            conditioning.select(slice(i, i + 32)),
            rule,
            num_frames=num_latent_frames(model, prompts),
            seeds=seeds[i : i + 32],
        ).latents_BCThw
        for i in range(0, len(prompts), 32)
    ]
    return torch.cat(parts)


def _record_constant_velocity(
    table: Table, tracks: Sequence[np.ndarray], truth: Sequence[np.ndarray], samples: Sequence[Sample]
) -> None:
    from phys4d.metrics.tracking import trajectory_errors

    errors = [
        trajectory_errors(np.where(np.isfinite(a), a, np.inf), b, lost_px=s.rgb.shape[2] / 2)
        for a, b, s in zip(tracks, truth, samples, strict=True)
    ]
    table.add("constant_velocity", "rgb", TRACK, [_mean(e[1:]) for e in errors])
    table.add("constant_velocity", "rgb", FINAL, [_mean(e[-1]) for e in errors])


def _spread_over_families(families: Sequence[str], number: int) -> list[int]:
    """Indices that take each family in turn."""
    queues = {family: [i for i, f in enumerate(families) if f == family] for family in sorted(set(families))}
    chosen: list[int] = []
    while len(chosen) < min(number, len(families)):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return chosen[:number]


def _print(table: Table) -> None:
    print(f"{'stage':18s} {'reader':10s} {'metric':24s} {'mean':>9s} {'sd over seeds':>14s}")
    for row in table.rows():
        spread = f"{np.std(row['seeds'], ddof=1):.4f}" if len(row["seeds"]) > 1 else "-"
        name = f"{row['stage']:18s} {row['reader']:10s} {row['metric']:24s}"
        print(f"{name} {row['mean']:9.4f} {spread:>14s} {row['unit']}")


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        EvaluateConfig, Path(__file__).parent / "presets" / "evaluate", default="tiny-wan"
    )
    evaluate(config)


if __name__ == "__main__":
    run_main(main)
