"""Score videos that exist only as files: `python -m policy.evaluate --videos DIR`.

DIR holds one mp4 per held-out scene, named by the scene's key (`000017.mp4`), of the data's frame rate and
number of frames, and of its size or larger with the same proportions. Depth and flow come from the
estimators, so that a video needs no model of ours. With `--partial` what is missing, refused or of no scene
is left out, and the results name it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from phys4d.metrics.physics_iq.folders import OTHER_VIDEOS
from phys4d.report.event_file import write_event_file
from phys4d.runtime.errors import UserError, one_line
from phys4d.runtime.threads import limit_threads
from policy.inference_config import EvaluateConfig
from policy.measurements import (
    Table,
    print_published,
    print_table,
    record_geometry,
    record_rgb,
    score_rollouts,
    true_tracks,
)

if TYPE_CHECKING:
    from phys4d.data import Sample

RESERVED = (
    *("base", "stage1", "stage2", "stage3", "best_of_n"),
    *("frozen", "constant_velocity", "second_take", "simulator", "truth"),
)


def evaluate_videos(config: EvaluateConfig, folder: Path) -> Path:
    """Measure a folder of videos; returns the results file.

    It is `external/<folder's name>.json` of the run, in `external-<split>/` for another split than `test`.
    """
    import torch

    from phys4d.models.estimators import load_depth_estimator
    from phys4d.models.reading import read_with_flow, to_numpy
    from policy.prompts import load_prompts, open_scenes
    from policy.service import reward_client
    from policy.stages import results_name

    name = folder.resolve().name
    if name in RESERVED:
        raise UserError(f"the folder's name {name!r} is that of a column of ours; rename {folder}")
    place = config.run / results_name("external", config.split)
    refuse_other_folder(place / f"{name}.json", folder)
    limit_threads(config.num_threads)
    dataset = open_scenes(config.data, config.split, config.num_scenes)
    wanted = dataset.keys[: config.num_scenes]
    paths, left_out = match_videos(folder, wanted, known=dataset.keys)
    refuse(left_out, wanted, partial=config.partial)
    by_key = read_videos([dataset[i] for i, key in enumerate(wanted) if key in paths], paths, left_out)
    refuse(left_out, wanted, partial=config.partial)
    indices = [i for i, key in enumerate(wanted) if key in by_key]
    samples, videos = [dataset[i] for i in indices], list(by_key.values())
    prompts = load_prompts(dataset, indices)
    estimator = load_depth_estimator(config.run / "estimator")
    table = Table()
    seen: dict[str, list[dict[str, np.ndarray]]] = {}
    tracks = true_tracks(samples)
    with reward_client(config.reward) as client:
        for stage, shown in (("simulator", [s.rgb for s in samples]), (name, videos)):
            read, flows = read_with_flow(estimator, torch.from_numpy(np.stack(shown)))
            record_rgb(table, stage, samples, shown, tracks, flows)
            depth, motion = to_numpy(read)
            record_geometry(table, stage, "estimator", samples, depth, motion)
            seen["truth" if stage == "simulator" else name] = [
                {"rgb": v, "depth": d, "motion": m} for v, d, m in zip(shown, depth, motion, strict=True)
            ]
            rollouts = [
                p.rollout(f"{stage}/{p.key}", d, m) for p, d, m in zip(prompts, depth, motion, strict=True)
            ]
            score_rollouts(client, table, stage, "estimator", rollouts)
    rows = [row for row in table.rows() if row["stage"] == name]
    results = {
        "name": name,
        "folder": str(folder.resolve()),
        "data": str(config.data),
        "split": config.split,
        "num_scenes": len(samples),
        "rows": rows,
        "partial": bool(left_out),
        "left_out": left_out,
    }
    scenes = {
        f"{sample.key} {sample.spec.family}": {stage: video[i] for stage, video in seen.items()}
        for i, sample in enumerate(samples[: config.num_report_scenes])
    }
    out = write_results(place, results, scenes, samples[0].spec.fps)
    print_table(table)
    print_published(config.run)
    if left_out:
        print(f"PARTIAL: {len(samples)} of {len(wanted)} scenes are scored; left out:")
        print("\n".join(f"  {reason}" for reason in left_out.values()))
    print(f"wrote {out}")
    return out


def write_results(
    folder: Path,
    results: Mapping[str, Any],
    scenes: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]],
    fps: float,
) -> Path:
    """Write `<name>.json`, and for TensorBoard `<name>/`; returns the first.

    Args:
        scenes: rgb, depth and motion of the simulator's video and of the one that is measured, by scene.
    """
    from phys4d.runtime.files import atomic_directory, atomic_write_text

    out = folder / f"{results['name']}.json"
    atomic_write_text(out, json.dumps(results, indent=1))
    with atomic_directory(folder / results["name"], replace=True) as events:
        write_event_file(events, results["rows"], scenes, fps)
    return out


def refuse_other_folder(results: Path, folder: Path) -> None:
    """Raise if the results are those of another folder of the same name."""
    if results.is_file():
        known = json.loads(results.read_text(encoding="utf-8")).get("folder", str(folder.resolve()))
        if known != str(folder.resolve()):
            raise UserError(f"{results} holds the scores of {known}; rename {folder}, or remove that file")


def match_videos(
    folder: Path, wanted: Sequence[str], *, known: Sequence[str]
) -> tuple[dict[str, Path], dict[str, str]]:
    """The file of each key; of keys without one, and of files that belong to no scene, the reason.

    Args:
        known: keys of scenes that are not wanted now but no mistake either.

    Raises:
        UserError: no folder.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder} of videos")
    videos = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in {".mp4", *OTHER_VIDEOS}]
    # An mp4 file comes last, so that it counts where there are others of its name.
    found = {path.stem: path for path in sorted(videos, key=lambda path: path.suffix.lower() == ".mp4")}
    left_out = {
        found[stem].name: f"{found[stem]} belongs to no scene; names must be keys such as {known[0]}.mp4"
        for stem in sorted(set(found) - set(known))
    }
    for key in wanted:
        path = found.get(key)
        if path is None:
            left_out[key] = f"{folder} lacks {key}.mp4"
        elif path.suffix.lower() != ".mp4":
            left_out[key] = f"{path} is a {path.suffix} file; encode it as mp4"
    return {key: found[key] for key in wanted if key not in left_out}, left_out


def read_videos(
    samples: Sequence[Sample], paths: dict[str, Path], left_out: dict[str, str]
) -> dict[str, np.ndarray]:
    """RGB by key; a file that is refused goes to `left_out` with the reason."""
    from phys4d.runtime.progress import progress

    videos = {}
    for sample in progress(samples, desc="reading", unit="video"):
        try:
            videos[sample.key] = read_video(paths[sample.key], sample.rgb.shape, sample.spec.fps)
        except ValueError as error:
            left_out[sample.key] = one_line(error)
    return videos


def refuse(left_out: dict[str, str], wanted: Sequence[str], *, partial: bool) -> None:
    """Raise for the first video that is left out, unless others can be scored and that is asked for."""
    nothing_left = set(wanted) <= set(left_out)
    if left_out and (not partial or nothing_left):
        more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
        advice = "nothing is left to score" if nothing_left else "mend it or score the rest with --partial"
        raise UserError(f"{next(iter(left_out.values()))}{more}; {advice}")


def read_video(path: Path, shape: tuple[int, ...], fps: float) -> np.ndarray:
    """RGB of the data's shape (T, H, W, 3); larger pictures of the same proportions are averaged down.

    Raises:
        ValueError: names the file, the value and the rule.
    """
    import cv2

    from phys4d.metrics.physics_iq.videos import read_frames

    num_frames, height, width = shape[:3]
    if fps != round(fps):
        raise ValueError(f"the data runs at {fps:g} fps; external videos need a whole number")
    frames = []
    for frame in read_frames(path, round(fps), num_frames):
        found_height, found_width = frame.shape[:2]
        if found_width * height != found_height * width or found_width < width:
            raise ValueError(
                f"{path} is of {found_width}x{found_height} pixels, must be {width}x{height} or larger with "
                "the same proportions"
            )
        if found_width > width:
            frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
        frames.append(frame[..., ::-1])
    return np.stack(frames)
