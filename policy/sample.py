"""Generate videos with depth and motion: `python -m policy.sample --preset tiny-wan`.

Prompts come from a dataset, whose simulated video is then shown beside, or from a text and a picture. Each
video becomes an mp4 and a png sheet of frames in the run's `samples/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from phys4d.runtime import config as configs
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.seeding import derive_seed
from phys4d.runtime.threads import limit_threads
from policy.inference_config import SampleConfig

if TYPE_CHECKING:
    from phys4d.data import Sample


def generate(config: SampleConfig) -> list[Path]:
    """Sample, read depth and motion, write; returns the files."""
    from phys4d.models.cache import EncodingCache
    from phys4d.models.reading import to_numpy
    from phys4d.report.videos import Video
    from phys4d.runtime.progress import progress
    from policy.film import panels, write_mp4, write_sheet
    from policy.placement import place
    from policy.prompts import encode
    from policy.reading import Reader
    from policy.rollout import sample, sampling_rule
    from policy.stages import finished_stages, load_stage, tell_unfinished

    limit_threads(config.num_threads)
    tell_unfinished(config.run)
    finished = finished_stages(config.run)
    if not finished:
        raise UserError(f"{config.run} has no finished stage; train the base with `make base`")
    stage = finished[-1] if config.stage == "last" else config.stage
    if stage not in finished:
        raise UserError(f"{config.run} has no finished {stage}; finished stages: {', '.join(finished)}")
    model, heads = load_stage(config.run, stage, config.memory)
    place(model, heads, config.memory)
    if heads is None:
        print(f"{stage} has no heads, so its videos have no depth and motion; `make pretrain` trains them")
    simulated = [] if config.text else _read_dataset(config)
    keys = [sample.key for sample in simulated] or [f"seed-{i}" for i in range(config.num_videos)]
    captions = [sample.caption for sample in simulated] or [config.text] * config.num_videos
    firsts = [sample.rgb[0] for sample in simulated] or [_read_picture(config)] * config.num_videos
    num_frames = len(simulated[0].rgb) if simulated else config.num_frames
    num_latent_frames = model.latent_shape(num_frames, *firsts[0].shape[:2])[1]
    cache = EncodingCache(model, config.memory.cache)
    rule = sampling_rule(model, config.num_steps, shift=config.shift)
    reader = Reader(model, heads, None)
    folder = config.out or config.run / "samples"
    written: list[Path] = []
    for i in progress(range(len(keys)), desc=f"sample {stage}", unit="video"):
        conditioning = encode(cache, captions[i : i + 1], firsts[i][None].copy())
        latents = sample(
            model,
            conditioning,
            rule,
            num_latent_frames=num_latent_frames,
            seeds=[derive_seed(config.seed, keys[i])],
            guidance_scale=config.guidance_scale,
        ).latents_BCThw
        depth, motion = (None, None)
        if heads is not None:
            depth, motion = (part[0] for part in to_numpy(reader.geometry(latents, conditioning)))
        video = Video(rgb=reader.decode(latents)[0].numpy(), depth=depth, motion=motion)
        truth = None
        if simulated:
            truth = Video(rgb=simulated[i].rgb, depth=simulated[i].depth, motion=simulated[i].motion)
        shown = panels(video, truth)
        fps = simulated[i].spec.fps if simulated else config.fps
        path = folder / f"{stage}-{keys[i]}"
        written += [
            write_mp4(path.with_suffix(".mp4"), shown, fps=fps, title=captions[i]),
            write_sheet(path.with_suffix(".png"), shown, title=captions[i]),
        ]
    return written


def _read_dataset(config: SampleConfig) -> list[Sample]:
    from phys4d.data import open_dataset

    dataset = open_dataset(config.data, config.split)
    if len(dataset) < config.num_videos:
        raise UserError(
            f"num_videos is {config.num_videos}, but {config.data} {config.split} has {len(dataset)}; "
            f"use {len(dataset)} or render more"
        )
    return [dataset[i] for i in range(config.num_videos)]


def _read_picture(config: SampleConfig) -> np.ndarray:
    """The first frame, uint8 (H, W, 3)."""
    from PIL import Image, UnidentifiedImageError

    assert config.first_frame is not None, "SampleConfig has checked that a text comes with a picture"
    try:
        with Image.open(config.first_frame) as picture:
            return np.asarray(picture.convert("RGB"))
    except UnidentifiedImageError:
        raise UserError(f"first_frame {config.first_frame} is no picture; give a png or jpg") from None


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        SampleConfig, Path(__file__).parent / "presets" / "sample", default="tiny-wan"
    )
    for path in generate(config):
        print(path)


if __name__ == "__main__":
    run_main(main)
