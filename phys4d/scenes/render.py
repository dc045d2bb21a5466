"""Render a dataset of annotated videos: `python -m phys4d.scenes.render --out data/rigid --split train`.

Resumable: finished shards are kept, so the same command continues where it was stopped. The split's index is
written last. Sample i of a split has the seed `seed_start + i` and the family i modulo their number.
"""

import json
import multiprocessing
import os
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.progress import progress
from phys4d.runtime.threads import limit_threads

SETTINGS_NAME = "settings.json"


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """What to render and where to."""

    out: Path = Path("data/rigid")
    """Folder of the dataset; the split becomes a folder in it."""
    split: str = "train"
    """Name of the split, e.g. `train` or `val`."""
    num_samples: int = 1024
    """Videos in the split. A larger number later adds videos to the same split."""
    category: str = "rigid"
    """Physical category of the scenes."""
    families: str = ""
    """Families to draw from, with commas between them; empty is all of the category."""
    look: Literal["textured", "plain"] = "textured"
    """`plain` leaves textures and patterns away, for tiny models."""
    physics: Literal["true", "mixed"] = "true"
    """`mixed` redraws gravity, friction and restitution per video and does not tell in the caption."""
    seed_start: int = 0
    """Seed of the first sample. Splits must not share seeds."""
    width: int = 64
    """Pixels."""
    height: int = 64
    """Pixels."""
    num_frames: int = 9
    """Frames of a video, the first at time 0."""
    fps: float = 12.0
    """Frames per second."""
    supersampling: int = 2
    """Rays per pixel along each axis for RGB; depth, ids and motion are exact at the pixel centres."""
    workers: int = 0
    """Processes; 0 is one per core."""

    def __post_init__(self) -> None:
        for name, least in {"num_samples": 1, "width": 16, "height": 16, "num_frames": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 1 <= self.supersampling <= 8:
            raise ValueError(f"supersampling must be in 1 to 8, got {self.supersampling}")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 (one per core) or more, got {self.workers}")
        if self.seed_start < 0:
            raise ValueError(f"seed_start must not be negative, got {self.seed_start}")
        if self.fps <= 0:
            raise ValueError(f"fps must be positive, got {self.fps}")
        if not self.split or "/" in self.split or self.split.startswith("."):
            raise ValueError(f"split must be a plain folder name, got {self.split!r}")

    @property
    def folder(self) -> Path:
        """Where the split lies."""
        return self.out / self.split


def family_names(config: RenderConfig) -> list[str]:
    """The families to draw from, each known."""
    from phys4d.scenes.registry import check_family, families

    known = families(config.category)[config.category]
    names = [name.strip() for name in config.families.split(",") if name.strip()] or known
    for name in names:
        check_family(config.category, name)
    return names


def settings_of(config: RenderConfig, names: list[str]) -> dict[str, Any]:
    """What all samples of a split share."""
    from phys4d.scenes.registry import category_of

    values = {
        k: v for k, v in asdict(config).items() if k not in ("out", "num_samples", "workers", "families")
    }
    return {**values, "families": names, "engine": category_of(config.category).engine()}


_RENDERERS: dict[tuple[int, int, int, int], Any] = {}


def render_sample(
    config: RenderConfig, names: list[str], number: int, rejected: Counter[str]
) -> dict[str, Any]:
    """Draw, simulate, annotate and render sample `number`; returns its arrays and metadata."""
    import numpy as np

    from phys4d.scenes.annotations import annotate
    from phys4d.scenes.registry import sample_scene
    from phys4d.scenes.rgb import RgbRenderer

    size = (config.width, config.height, config.num_frames, config.supersampling)
    if size not in _RENDERERS:
        _RENDERERS[size] = RgbRenderer(
            width=size[0], height=size[1], num_frames=size[2], supersampling=size[3]
        )
    scene, trajectory = sample_scene(
        config.category,
        names[number % len(names)],
        config.seed_start + number,
        num_frames=config.num_frames,
        fps=config.fps,
        physics=config.physics,
        look=config.look,
        rejected=rejected,
    )
    camera = scene.camera(config.width, config.height)
    truth = annotate(scene, trajectory, camera)
    return {
        "arrays": {
            "rgb": _RENDERERS[size].render(scene, trajectory),
            "depth": truth.depth.astype(np.float32),
            "motion": truth.motion.astype(np.float32),
            "object_ids": truth.object_ids,
            "visible": truth.visible,
            "position": trajectory.position_m,
            "rotation": trajectory.rotation,
        },
        "metadata": {
            "caption": scene.caption,
            "spec": json.loads(scene.spec.to_json()),
            "camera": camera.to_dict(),
            "objects": [
                {
                    "name": item.name,
                    "shape": item.shape,
                    "size_m": item.size_m,
                    "color_rgb": item.color_rgb,
                    "material": item.material,
                    "mass_kg": item.mass_kg,
                }
                for item in scene.objects
            ],
            "engine": scene.spec.engine,
        },
    }


def render_shard(config: RenderConfig, names: list[str], index: int) -> tuple[dict[str, Any], Counter[str]]:
    """Render and write one shard; returns its note for the index and the reasons of refused draws."""
    from phys4d.data.write import ShardWriter

    writer = ShardWriter(config.folder, index)
    rejected: Counter[str] = Counter()
    for number in _numbers(config, index):
        sample = render_sample(config, names, number, rejected)
        writer.add(f"{number:06d}", sample["arrays"], sample["metadata"])
    return writer.close(), rejected


def _numbers(config: RenderConfig, shard: int) -> range:
    from phys4d.data.format import SAMPLES_PER_SHARD

    start = shard * SAMPLES_PER_SHARD
    return range(start, min(start + SAMPLES_PER_SHARD, config.num_samples))


def render_split(config: RenderConfig) -> None:
    """Render what is missing of a split, then write its index."""
    from phys4d.data.format import INDEX_NAME, SAMPLES_PER_SHARD, shard_name
    from phys4d.data.write import inspect_shard, write_index

    names = family_names(config)
    settings = settings_of(config, names)
    _claim_folder(config.folder, settings)
    num_shards = -(-config.num_samples // SAMPLES_PER_SHARD)
    notes: dict[int, dict[str, Any]] = {}
    for shard in range(num_shards):
        note = inspect_shard(config.folder / shard_name(shard))
        if note is not None and note["keys"] == [f"{number:06d}" for number in _numbers(config, shard)]:
            notes[shard] = note
    missing = [shard for shard in range(num_shards) if shard not in notes]
    rejected: Counter[str] = Counter()
    done = sum(len(note["keys"]) for note in notes.values())
    if missing:
        (config.folder / INDEX_NAME).unlink(missing_ok=True)
        bar = progress(total=config.num_samples, desc=f"rendering {config.split}", unit="video")
        bar.update(done)
        bar.unpause()
        for shard, (note, reasons) in _render_shards(config, names, missing):
            notes[shard] = note
            rejected.update(reasons)
            bar.update(len(note["keys"]))
        bar.close()
    write_index(config.folder, [notes[shard] for shard in range(num_shards)], {"settings": settings})
    refused = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items())) or "none"
    print(
        f"{config.folder}: {config.num_samples} videos, {done} of them were there; draws refused: {refused}",
        flush=True,
    )


def _render_shards(config: RenderConfig, names: list[str], shards: list[int]) -> Any:
    """Yield (shard, result) as they finish."""
    workers = min(config.workers or len(os.sched_getaffinity(0)), len(shards))
    if workers == 1:
        for shard in shards:
            yield shard, render_shard(config, names, shard)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=limit_threads, initargs=(1,)
    )
    try:
        pending = {pool.submit(render_shard, config, names, shard): shard for shard in shards}
        while pending:
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield pending.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix samples of different settings in one split."""
    path = folder / SETTINGS_NAME
    text = json.dumps(settings, indent=1, sort_keys=True) + "\n"
    if path.is_file() and path.read_text() != text:
        before = json.loads(path.read_text())
        different = [k for k in settings if before.get(k) != settings[k]]
        raise UserError(
            f"{folder} was begun with other settings ({', '.join(different)}); "
            "remove it, or choose another --out or --split"
        )
    atomic_write_text(path, text)


def main() -> None:
    """Entry point."""
    limit_threads(1)
    render_split(load(RenderConfig))


if __name__ == "__main__":
    run_main(main)
