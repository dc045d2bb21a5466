"""Generate what Physics-IQ scores: `python -m policy.physics_iq --descriptions CSV --switch-frames DIR`.

Writes texts and first frames to `prompts/`, and of each run a folder of mp4 files of exactly 5 s, named as
the benchmark wants them. Videos that are there stay, so that a run which was stopped goes on; `made_by.json`
says which weights and settings made them, and others are refused.

The two scores have texts and videos of their own, in the benchmark's code and data:

    Original  descriptions/descriptions_original.csv            switch-frames of physics-IQ-benchmark
    Verified  descriptions/best_practice/descriptions_base.csv  switch-frames of physics-IQ-benchmark-verified

Verified also lists scores of original texts, marked `op`, and of texts for one model. To score videos:

    python -m phys4d.metrics.physics_iq --real split-videos/testing/8FPS --fps 8 --generated OUT \\
        --json OUT.json

The report shows the scores of `runs/<run>/physics_iq/*.json` beside published ones.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import UInt8

from phys4d.runtime import config as configs
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_bytes, atomic_write_text
from phys4d.runtime.seeding import derive_seed
from phys4d.runtime.threads import limit_threads
from policy.inference_config import PhysicsIqConfig

if TYPE_CHECKING:
    from phys4d.models.backbone import Backbone

PROMPTS, MADE_BY = "prompts", "made_by.json"
SETTINGS = ("fps", "width", "height", "num_frames", "num_steps", "shift", "guidance_scale", "seed")
"""What a video depends on besides the weights, their precision, its text and its first frame."""


def generate(config: PhysicsIqConfig) -> list[Path]:
    """Generate all runs; returns their folders."""
    import cv2
    import torch

    from phys4d.metrics.physics_iq.videos import num_frames
    from phys4d.models.cache import EncodingCache
    from phys4d.models.protocol import to_uint8
    from phys4d.runtime.progress import progress
    from policy.placement import place
    from policy.prompts import encode
    from policy.rollout import sample, sampling_rule

    limit_threads(config.num_threads)
    name, model = _load(config)
    place(model, None, config.memory)
    cache = EncodingCache(model, config.memory.cache)
    folder = config.out or config.run / "physics_iq" / name
    jobs = _write_prompts(config, folder / PROMPTS)
    kept, made = num_frames(config.fps), config.num_frames or num_frames(config.fps) + 1
    _, num_latent_frames, _, _ = model.latent_shape(made, config.height, config.width)
    rule = sampling_rule(model, config.num_steps, shift=config.shift)
    _claim(folder, _made_by(config, name, model))
    runs = [folder / f"run_{r + 1:02d}" for r in range(config.num_runs)]
    work = [(r, job) for r in range(config.num_runs) for job in jobs]
    for r, job in progress(work, desc=f"Physics-IQ {name}", unit="video"):
        path = runs[r] / job["video_name"]
        if path.is_file():
            continue
        first = cv2.imread(str(folder / PROMPTS / job["first_frame"]), cv2.IMREAD_COLOR)
        if first is None:
            raise UserError(f"{folder / PROMPTS / job['first_frame']} is gone; remove {folder / PROMPTS}")
        with torch.no_grad():
            conditioning = encode(cache, [job["text"]], np.ascontiguousarray(first[None, ..., ::-1]))
            made_latents = sample(
                model,
                conditioning,
                rule,
                num_latent_frames=num_latent_frames,
                seeds=[derive_seed(config.seed, r, job["video_id"])],
                guidance_scale=config.guidance_scale,
            ).latents_BCThw
            video = to_uint8(model.decode_video(made_latents).float())[0, :kept].cpu().numpy()
        atomic_write_bytes(path, encode_mp4(video, config.fps))
    return runs


def _made_by(config: PhysicsIqConfig, name: str, model: Backbone) -> dict[str, Any]:
    """All that must be the same where videos are to be of one model."""
    from phys4d.models.estimators import weights_digest

    settings = {setting: getattr(config, setting) for setting in SETTINGS}
    weights = {"weights": weights_digest(model.transformer), "dtype": config.memory.dtype}
    return {"model": name, **weights, **settings}


def _claim(folder: Path, made_by: dict[str, Any]) -> None:
    """Write what makes the videos of a folder, or compare with what made those that are there."""
    listed = folder / MADE_BY
    if not listed.is_file():
        strange = next(folder.glob("run_*/*.mp4"), None)
        if strange is not None:
            raise UserError(f"nothing says what made {strange}; remove {folder} or choose another --out")
        atomic_write_text(listed, json.dumps(made_by, indent=1) + "\n")
        return
    before = json.loads(listed.read_text(encoding="utf-8"))
    differ = [f"{k} {before.get(k)} -> {v}" for k, v in made_by.items() if before.get(k) != v]
    if differ:
        raise UserError(
            f"videos in {folder} were made otherwise ({', '.join(differ)}); remove it or choose another --out"
        )


def _load(config: PhysicsIqConfig) -> tuple[str, Backbone]:
    """Name of what generates, and the model."""
    if config.model:
        from phys4d.models.registry import load_model

        return Path(config.model).name, load_model(config.model, dtype=config.memory.dtype)
    from policy.stages import finished_stages, load_stage, tell_unfinished

    tell_unfinished(config.run)
    finished = finished_stages(config.run)
    stage = finished[-1] if config.stage == "last" and finished else config.stage
    if stage not in finished:
        known = ", ".join(finished) or "none; train the base with `make base`"
        raise UserError(f"{config.run} has no finished {stage}; finished stages: {known}")
    return stage, load_stage(config.run, stage, config.memory)[0]


def _write_prompts(config: PhysicsIqConfig, folder: Path) -> list[dict[str, str]]:
    """Texts and first frames of the model's size; those of an earlier call must be the same."""
    from phys4d.metrics.physics_iq.prompts import load_jobs, write_jobs

    for flag, given in (("descriptions", config.descriptions), ("switch-frames", config.switch_frames)):
        if given == Path():
            raise UserError(f"--{flag} is missing; both come with the benchmark")
    jobs = load_jobs(config.descriptions, config.switch_frames, partial=config.partial)
    listed = folder / "prompts.jsonl"
    if not listed.is_file():
        write_jobs(jobs, folder, size=(config.width, config.height))
    lines = [json.loads(line) for line in listed.read_text(encoding="utf-8").splitlines()]
    if [(line["video_id"], line["text"]) for line in lines] != [(job.video_id, job.text) for job in jobs]:
        raise UserError(f"{listed} is of other descriptions; remove {folder.parent} or choose another --out")
    return lines


def encode_mp4(frames: UInt8[np.ndarray, "frames height width 3"], fps: int) -> bytes:
    """RGB as H.264 at a constant rate, all but lossless."""
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        # With more threads x264 does not always give the same bytes.
        stream = container.add_stream("libx264", rate=fps, options={"crf": "8", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def main() -> None:
    """Command line."""
    config, _ = configs.load_preset(
        PhysicsIqConfig, Path(__file__).parent / "presets" / "physics_iq", default="tiny-wan"
    )
    for folder in generate(config):
        print(folder)


if __name__ == "__main__":
    run_main(main)
