"""Score videos that exist only as files: `python -m policy.evaluate --videos DIR`.

DIR holds one mp4 per held-out scene, named by the scene's key (`000017.mp4`), of the data's frame rate and
number of frames, and of its size or larger with the same proportions. Depth and flow come from the
estimators, so that a video needs no model of ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from phys4d.runtime.errors import UserError
from phys4d.runtime.threads import limit_threads
from policy.inference_config import EvaluateConfig
from policy.measurements import (
    Table,
    print_published,
    print_table,
    record_geometry,
    record_rgb,
    score_rollouts,
)

RESERVED = (
    *("base", "stage1", "stage2", "stage3", "best_of_n"),
    *("frozen", "constant_velocity", "second_take", "simulator"),
)


def evaluate_videos(config: EvaluateConfig, folder: Path) -> Path:
    """Measure a folder of videos; returns the results file, `external/<folder's name>.json` of the run."""
    import torch

    from phys4d.data import open_dataset
    from phys4d.metrics.tracking import track_colours
    from phys4d.models.estimators import load_depth_estimator
    from phys4d.models.reading import read_with_flow, to_numpy
    from phys4d.runtime.files import atomic_write_text
    from phys4d.runtime.progress import progress
    from policy.prompts import load_prompts
    from policy.service import reward_client

    name = folder.resolve().name
    if name in RESERVED:
        raise UserError(f"the folder's name {name!r} is that of a column of ours; rename {folder}")
    limit_threads(config.num_threads)
    dataset = open_dataset(config.data, config.split)
    wanted = dataset.keys[: config.num_scenes]
    paths = match_videos(folder, wanted, known=dataset.keys, partial=config.partial)
    indices = [i for i, key in enumerate(wanted) if key in paths]
    samples = [dataset[i] for i in indices]
    videos = [
        read_video(paths[s.key], s.rgb.shape, s.spec.fps)
        for s in progress(samples, desc="reading", unit="video")
    ]
    prompts = load_prompts(dataset, indices)
    estimator = load_depth_estimator(config.run / "estimator")
    table = Table()
    true_tracks = [track_colours(s.rgb, s.object_ids[0]) for s in samples]
    with reward_client(config.reward) as client:
        for stage, shown in (("simulator", [s.rgb for s in samples]), (name, videos)):
            read, flows = read_with_flow(estimator, torch.from_numpy(np.stack(shown)))
            record_rgb(table, stage, samples, shown, true_tracks, flows)
            depth, motion = to_numpy(read)
            record_geometry(table, stage, "estimator", samples, depth, motion)
            rollouts = [
                p.rollout(f"{stage}/{p.key}", d, m) for p, d, m in zip(prompts, depth, motion, strict=True)
            ]
            score_rollouts(client, table, stage, "estimator", rollouts)
    out = config.run / "external" / f"{name}.json"
    missing = [key for key in wanted if key not in paths]
    rows = [row for row in table.rows() if row["stage"] == name]
    atomic_write_text(out, json.dumps({"name": name, "rows": rows, "missing": missing}, indent=1))
    print_table(table)
    print_published()
    if missing:
        print(f"PARTIAL: {len(missing)} of {len(wanted)} videos are missing: {', '.join(missing[:8])}")
    print(f"wrote {out}")
    return out


def match_videos(
    folder: Path, wanted: Sequence[str], *, known: Sequence[str], partial: bool
) -> dict[str, Path]:
    """The file of each key.

    Args:
        known: keys of scenes that are not wanted now but no mistake either.

    Raises:
        UserError: no folder, a file that belongs to no scene, or, unless `partial`, a key without a file.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder} of videos")
    found = {path.stem: path for path in sorted(folder.glob("*.mp4"))}
    strange = sorted(set(found) - set(known))
    if strange:
        raise UserError(f"{found[strange[0]]} belongs to no scene; names must be keys such as {known[0]}.mp4")
    missing = [key for key in wanted if key not in found]
    if missing and (not partial or len(missing) == len(wanted)):
        raise UserError(
            f"{folder} lacks {missing[0]}.mp4"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
            + f" of {len(wanted)}; add them, lower --num-scenes, or score the rest with --partial"
        )
    return {key: found[key] for key in wanted if key in found}


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
