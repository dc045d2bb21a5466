"""Measure every stage of a run on held-out scenes: `python -m policy.evaluate --preset tiny-wan`.

Three readings of each generated video, so that none has to be believed alone:

* rgb: the objects' colours are followed in the decoded video and compared with the simulator's video;
* heads: depth and motion from the stage's own heads go to the reward service;
* estimator: depth and flow from estimators on decoded RGB go to the reward service.

`--videos DIR` measures the videos of that folder instead, whoever made them; see `policy.external`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phys4d.metrics.physics_iq.published import PUBLISHED
from phys4d.report.event_file import write_event_file
from phys4d.runtime import config as configs
from phys4d.runtime.errors import run_main
from phys4d.runtime.seeding import derive_seed
from phys4d.runtime.threads import limit_threads
from policy.inference_config import EvaluateConfig
from policy.measurements import (
    FINAL,
    TRACK,
    Table,
    mean_seen,
    print_published,
    print_table,
    record_geometry,
    record_rgb,
    record_scores,
    true_tracks,
    with_holm,
)
from policy.world_metrics import scene_clouds

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from phys4d.data import Sample
    from phys4d.models.flow_estimators import CheckedFlow
    from phys4d.models.protocol import Conditioning, VideoModel
    from policy.prompts import Prompt
    from policy.rollout import SamplingRule


def evaluate(config: EvaluateConfig) -> Path:
    """Measure what stages there are; returns the results file."""
    import torch

    from phys4d.models.cache import EncodingCache
    from phys4d.models.estimators import load_depth_estimator
    from phys4d.models.reading import read_with_flow, to_numpy
    from phys4d.runtime.files import atomic_directory, atomic_write_text
    from phys4d.runtime.progress import progress
    from policy.best_of_n import chosen_latents, picked_split
    from policy.placement import place
    from policy.prompts import encode_prompts, load_prompts, open_scenes
    from policy.reading import Reader
    from policy.rollout import sampling_rule
    from policy.service import reward_client
    from policy.stages import finished_stages, load_stage, measured_stages, results_name, tell_unfinished

    limit_threads(config.num_threads)
    dataset = open_scenes(config.data, config.split, config.num_scenes)
    samples = [dataset[i] for i in range(config.num_scenes)]
    prompts = load_prompts(dataset, range(config.num_scenes))
    tracks = true_tracks(samples)
    estimator = load_depth_estimator(config.run / "estimator")
    tell_unfinished(config.run)
    present = measured_stages(config.run)
    if "best_of_n" in present and picked_split(config.run) != config.split:
        present.remove("best_of_n")
        print(f"best of N was picked for the split {picked_split(config.run)}, so it is left out")
    table = Table()
    shown: dict[str, list[dict[str, np.ndarray]]] = {}
    readers: dict[str, str] = {}

    # What the estimators themselves are off by.
    read, flows = read_with_flow(estimator, torch.from_numpy(np.stack([s.rgb for s in samples])))
    record_geometry(table, "simulator", "estimator", samples, *to_numpy(read))
    _record_references(table, samples, tracks, flows)

    with reward_client(config.reward) as client:

        def submit(name: str, depths: Iterable[np.ndarray], motions: Iterable[np.ndarray]) -> Future:
            """Rollouts on their way to the service, which scores them while we measure on."""
            videos = zip(prompts, depths, motions, strict=True)
            return client.submit([p.rollout(f"{name}/{p.key}", depth, motion) for p, depth, motion in videos])

        truth = submit("simulator", [s.depth for s in samples], [s.motion for s in samples])
        record_scores(table, "simulator", "heads", truth.result())
        generated: dict[int, tuple[torch.Tensor, torch.Tensor, tuple[np.ndarray, np.ndarray]]] = {}
        bar = progress(total=len(present) * config.num_seeds, desc="evaluate", unit="pass")
        for stage in present:
            # Stage 1 leaves the denoiser as it is: its videos are the base's.
            same_videos = stage == "stage1" and "base" in present
            if same_videos:
                table.copy("base", "stage1", ("rgb", "estimator"))
            model, heads = load_stage(config.run, stage, config.memory)
            device = place(model, heads, config.memory)
            conditioning = encode_prompts(EncodingCache(model, config.memory.cache), prompts)
            rule = sampling_rule(model, config.num_steps, shift=config.shift)
            reader = Reader(model, heads, estimator, config.batch_size)
            for seed in range(config.num_seeds):
                scores: dict[str, Future] = {}
                if not same_videos:
                    if stage == "best_of_n":
                        latents = chosen_latents(config, seed, prompts).to(device)
                    else:
                        latents = _sample_all(config, seed, model, conditioning, prompts, rule)
                    rgb = reader.decode(latents)
                    read, flows = read_with_flow(estimator, rgb)
                    generated[seed] = latents, rgb, to_numpy(read)
                    scores["estimator"] = submit(f"{stage}/{seed}/estimator", *generated[seed][2])
                latents, rgb, (depth, motion) = generated[seed]
                if not same_videos:
                    record_rgb(table, stage, samples, list(rgb.numpy()), tracks, flows)
                    record_geometry(table, stage, "estimator", samples, depth, motion)
                if heads is not None:
                    depth, motion = to_numpy(reader.geometry(latents, conditioning))
                    scores["heads"] = submit(f"{stage}/{seed}/heads", depth, motion)
                    record_geometry(table, stage, "heads", samples, depth, motion)
                for name, outcomes in scores.items():
                    record_scores(table, stage, name, outcomes.result())
                if seed == 0:
                    readers[stage] = "estimator" if heads is None else "heads"
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
        for a, b in (("base", "stage2"), ("stage2", "stage3"), ("base", "stage3"), ("best_of_n", "stage3"))
        for reader, metric in (
            ("rgb", TRACK),
            ("rgb", FINAL),
            ("heads", "track error"),
            ("heads", "4D Chamfer"),
            ("estimator", "4D Chamfer"),
        )
    ]
    trained = finished_stages(config.run)
    last = trained[-1] if trained else None
    worst = _worst(table, last, config.num_failures) if last else []
    out = config.run / results_name("evaluation", config.split)
    with atomic_directory(out, replace=True) as folder:
        entries = {}
        for i in dict.fromkeys([*chosen, *(i for i, _ in worst)]):
            videos = {name: videos[i] for name, videos in shown.items()}
            entries[i] = _write_scene(folder, samples[i], videos) | {"readers": readers}
        results = {
            "rows": table.rows(),
            "comparisons": with_holm([c for c in comparisons if c]),
            "config": configs.to_toml(config),
            "scenes": [entries[i] for i in chosen],
            "failures": [entries[i] | {"stage": last, "error_m": error} for i, error in worst],
            "published": list(PUBLISHED),
        }
        atomic_write_text(folder / "results.json", json.dumps(results, indent=1))
        videos = {
            f"{entries[i]['id']} {entries[i]['family']}": {name: v[i] for name, v in shown.items()}
            for i in chosen
        }
        write_event_file(
            folder / "tb",
            results["rows"],
            videos,
            samples[0].spec.fps,
            comparisons=results["comparisons"],
        )
    print_table(table)
    print_published(config.run)
    return out / "results.json"


def _write_scene(folder: Path, sample: Sample, videos: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Keep a scene's videos and clouds; returns its entry in the results."""
    place = Path("scenes") / sample.key
    (folder / place).mkdir(parents=True)
    files = {name: str(place / f"{name}.npz") for name in videos}
    for name, arrays in videos.items():
        np.savez_compressed(folder / files[name], allow_pickle=False, **arrays)
    read = {name: (v["depth"], v["motion"]) for name, v in videos.items() if name != "truth"}
    clouds = {}
    if (sample.object_ids[0] > 0).any():
        clouds = {"clouds": str(place / "clouds.npz")}
        np.savez_compressed(folder / clouds["clouds"], allow_pickle=False, **scene_clouds(sample, read))
    return clouds | {
        "id": sample.key,
        "family": sample.spec.family,
        "caption": sample.caption,
        "fps": sample.spec.fps,
        "files": files,
        "objects": [str(item["name"]) for item in sample.objects],
    }


def _worst(table: Table, stage: str, number: int) -> list[tuple[int, float]]:
    """Scenes with the largest track error, by the stage's heads if it has any, and that error in metres."""
    seeds = table.values.get((stage, "heads", "track error"))
    errors = np.mean(seeds or table.values[stage, "estimator", "track error"], axis=0)
    order = [int(i) for i in np.argsort(-np.nan_to_num(errors, nan=-1.0)) if np.isfinite(errors[i])]
    return [(i, float(errors[i])) for i in order[:number]]


def _record_references(
    table: Table, samples: Sequence[Sample], tracks: Sequence[np.ndarray], flows: Sequence[CheckedFlow]
) -> None:
    """What needs no model: the simulator's video, its first frame frozen, constant velocity, a second take.

    The second take is the scene again with physics changed by about 1 %: what no model need be better than.

    Args:
        flows: of the simulator's videos.
    """
    from phys4d.metrics.tracking import constant_velocity

    record_rgb(table, "simulator", samples, [s.rgb for s in samples], tracks, flows)
    still = [s.rgb[:1].repeat(len(s.rgb), 0) for s in samples]
    record_rgb(table, "frozen", samples, still, tracks)
    taken = [i for i, s in enumerate(samples) if "rgb_take2" in s.more]
    if len(taken) == len(samples):
        record_rgb(table, "second_take", samples, [s.more["rgb_take2"] for s in samples], tracks)
    elif taken:
        print(f"second take: only {len(taken)} of {len(samples)} scenes have one, so it is left out")
    record_geometry(
        table, "simulator", "heads", samples, [s.depth for s in samples], [s.motion for s in samples]
    )
    still = [s.depth[:1].repeat(len(s.depth), 0) for s in samples]
    record_geometry(table, "frozen", "heads", samples, still, [np.zeros_like(s.motion) for s in samples])
    _record_constant_velocity(table, [constant_velocity(t) for t in tracks], tracks, samples)


def _sample_all(
    config: EvaluateConfig,
    seed: int,
    model: VideoModel,
    conditioning: Conditioning,
    prompts: Sequence[Prompt],
    rule: SamplingRule,
) -> Tensor:
    """Latents of one video per prompt; the noise depends on the seed and the prompt, not on the stage."""
    from policy.prompts import num_latent_frames
    from policy.rollout import sample_all

    return sample_all(
        model,
        conditioning,
        rule,
        num_latent_frames=num_latent_frames(model, prompts),
        seeds=[derive_seed(config.seed, seed, prompt.key) for prompt in prompts],
        batch_size=config.batch_size,
    )


def _record_constant_velocity(
    table: Table, tracks: Sequence[np.ndarray], truth: Sequence[np.ndarray], samples: Sequence[Sample]
) -> None:
    from phys4d.metrics.tracking import trajectory_errors

    errors = [
        trajectory_errors(np.where(np.isfinite(a), a, np.inf), b, lost_px=s.rgb.shape[2] / 2)
        for a, b, s in zip(tracks, truth, samples, strict=True)
    ]
    table.add("constant_velocity", "rgb", TRACK, [mean_seen(e[1:]) for e in errors])
    table.add("constant_velocity", "rgb", FINAL, [mean_seen(e[-1]) for e in errors])


def _spread_over_families(families: Sequence[str], number: int) -> list[int]:
    """Indices that take each family in turn."""
    queues = {family: [i for i, f in enumerate(families) if f == family] for family in sorted(set(families))}
    chosen: list[int] = []
    while len(chosen) < min(number, len(families)):
        chosen += [queue.pop(0) for queue in queues.values() if queue]
    return chosen[:number]


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        EvaluateConfig, Path(__file__).parent / "presets" / "evaluate", default="tiny-wan"
    )
    if config.videos is None:
        evaluate(config)
    else:
        from policy.external import evaluate_videos

        evaluate_videos(config, config.videos)


if __name__ == "__main__":
    run_main(main)
