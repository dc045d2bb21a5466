"""Render a dataset of annotated videos: `python -m phys4d.scenes.render --out data/rigid --split train`.

Resumable: finished shards are kept, so the same command continues where it was stopped. The split's index is
written last. Sample i of a split has the seed `seed_start + i` and the family i modulo their number. With
`--ray-address` a Ray cluster renders, on whose nodes phys4d is installed; the files are written here.
"""

import errno
import json
import logging
import multiprocessing
import os
import sys
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
    """Physical categories of the scenes, with commas between them; `all` is every one."""
    families: str = ""
    """Families to draw from, with commas between them; empty is all. Of several categories: `rope/swing`."""
    family_split: Literal["all", "seen", "held-out"] = "all"
    """`held-out` families are those that training on `seen` ones never meets."""
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
    annotations: Literal["basic", "full"] = "basic"
    """`full` adds normals, velocities, point tracks, contacts, particles, meshes and fields."""
    points_per_object: int = 64
    """Point tracks on each object at most."""
    second_take: bool = False
    """Add a second video of each scene, with physics changed by about 1 %."""
    workers: int = 0
    """Processes; 0 is one per core."""
    ray_address: str = ""
    """Ray cluster to render on, `host:port` or `auto`; empty renders here."""

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
        if not 1 <= self.points_per_object <= 4096:
            raise ValueError(f"points_per_object must be in 1 to 4096, got {self.points_per_object}")
        if not self.split or "/" in self.split or self.split.startswith("."):
            raise ValueError(f"split must be a plain folder name, got {self.split!r}")

    @property
    def folder(self) -> Path:
        """Where the split lies."""
        return self.out / self.split


NOT_SETTINGS = ("out", "num_samples", "workers", "families", "ray_address")
"""What may differ between runs that fill the same split."""


def family_names(config: RenderConfig) -> list[str]:
    """The families to draw from, each known; `category/family` where there are several categories."""
    from phys4d.scenes.registry import CATEGORIES, category_of, check_family

    categories = [name.strip() for name in config.category.split(",") if name.strip()]
    if categories == ["all"]:
        categories = list(CATEGORIES)
    if not categories:
        raise ValueError(f"category must name one at least, got {config.category!r}")
    asked = [name.strip() for name in config.families.split(",") if name.strip()]
    pairs = [(each, family) for each in categories for family in category_of(each).families]
    if asked:
        pairs = [tuple(name.split("/", 1)) if "/" in name else (categories[0], name) for name in asked]
        if len(categories) > 1 and any("/" not in name for name in asked):
            raise ValueError(
                f"families of several categories are named category/family, got {config.families!r}"
            )
    for category, family in pairs:
        check_family(category, family)
    if config.family_split != "all":
        held_out = config.family_split == "held-out"
        pairs = [(c, f) for c, f in pairs if (f in CATEGORIES[c].held_out) == held_out]
        if not pairs:
            raise ValueError(f"none of the families of {config.category} is {config.family_split}")
    if len(categories) == 1:
        return [family for _, family in pairs]
    return [f"{category}/{family}" for category, family in pairs]


def settings_of(config: RenderConfig, names: list[str]) -> dict[str, Any]:
    """What all samples of a split share."""
    from phys4d.scenes.registry import category_of

    values = {k: v for k, v in asdict(config).items() if k not in NOT_SETTINGS}
    engines = {category_of(_split_name(config, name)[0]).engine() for name in names}
    return {**values, "families": names, "engine": ", ".join(sorted(engines))}


def _split_name(config: RenderConfig, name: str) -> tuple[str, str]:
    """Category and family of a name."""
    category, slash, family = name.rpartition("/")
    return (category, family) if slash else (config.category, name)


_RENDERERS: dict[tuple[int, int, int, int], Any] = {}


def render_sample(
    config: RenderConfig, names: list[str], number: int, rejected: Counter[str]
) -> dict[str, Any]:
    """Draw, simulate, annotate and render sample `number`; returns its arrays and metadata."""
    import numpy as np

    from phys4d.scenes.annotations import annotate
    from phys4d.scenes.registry import sample_scene, second_take

    category, family = _split_name(config, names[number % len(names)])
    scene, trajectory = sample_scene(
        category,
        family,
        config.seed_start + number,
        num_frames=config.num_frames,
        fps=config.fps,
        physics=config.physics,
        look=config.look,
        rejected=rejected,
    )
    camera = scene.camera(config.width, config.height)
    truth = annotate(scene, trajectory, camera)
    renderer = _renderer(config)
    arrays = {
        "rgb": renderer.render(scene, trajectory),
        "depth": truth.depth.astype(np.float32),
        "motion": truth.motion.astype(np.float32),
        "object_ids": truth.object_ids,
        "visible": truth.visible,
        "position": trajectory.position_m,
        "rotation": trajectory.rotation,
    }
    metadata = {
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
    }
    if config.annotations == "full":
        arrays["normal"] = truth.normal.astype(np.float16)
        more, fields = _full_annotations(scene, trajectory, camera, config.points_per_object)
        arrays.update(more)
        metadata["fields"] = fields
    if config.second_take:
        scene, trajectory = second_take(scene)
        arrays["rgb_take2"] = renderer.render(scene, trajectory)
        arrays["object_ids_take2"] = annotate(scene, trajectory, camera).object_ids
    return {"arrays": arrays, "metadata": metadata}


def _renderer(config: RenderConfig) -> Any:
    """The process's renderer for videos of this size."""
    from phys4d.scenes.rgb import RgbRenderer

    size = (config.width, config.height, config.num_frames, config.supersampling)
    if size not in _RENDERERS:
        _RENDERERS[size] = RgbRenderer(
            width=size[0], height=size[1], num_frames=size[2], supersampling=size[3]
        )
    return _RENDERERS[size]


def _full_annotations(scene: Any, trajectory: Any, camera: Any, points_per_object: int) -> Any:
    """Arrays of `format.MORE_ARRAYS` without normals, and what the fields' arrays mean."""
    import numpy as np

    from phys4d.scenes.annotations import contacts, track_points
    from phys4d.scenes.rays import merged_meshes

    tracks = track_points(scene, trajectory, camera, points_per_object)
    arrays = {
        "velocity": trajectory.velocity,
        "tracks": tracks.position.astype(np.float32),
        "tracks_visible": tracks.visible,
        "tracks_object": tracks.object_index.astype(np.uint8),
        "contacts": contacts(scene, trajectory),
    }
    if trajectory.particles is not None:
        arrays["particles"] = trajectory.particles.position_m.astype(np.float32)
        arrays["particles_radius"] = trajectory.particles.radius_m.astype(np.float32)
        arrays["particles_object"] = trajectory.particles.object_index.astype(np.uint8)
    if trajectory.meshes:
        merged = [merged_meshes(trajectory, frame) for frame in range(len(trajectory.times_s))]
        arrays["vertices"] = np.stack([vertices for vertices, _, _ in merged]).astype(np.float32)
        arrays["faces"] = merged[0][1].astype(np.int32)
        arrays["faces_object"] = merged[0][2].astype(np.uint8)
    fields = {}
    for field in trajectory.fields:
        arrays[field.name] = field.values.astype(np.float32)
        fields[field.name] = {
            "unit": field.unit,
            "origin_m": list(field.origin_m),
            "spacing_m": field.spacing_m,
        }
    return arrays, fields


def render_shard(config: RenderConfig, names: list[str], index: int) -> tuple[Any, Counter[str]]:
    """Render one shard; returns its writer and the reasons of refused draws."""
    from phys4d.data.write import ShardWriter

    writer = ShardWriter(config.folder, index)
    rejected: Counter[str] = Counter()
    for number in _numbers(config, index):
        sample = render_sample(config, names, number, rejected)
        writer.add(f"{number:06d}", sample["arrays"], sample["metadata"])
    return writer, rejected


def _write_shard(config: RenderConfig, names: list[str], index: int) -> tuple[dict[str, Any], Counter[str]]:
    """Render and write one shard; returns its note for the index."""
    writer, rejected = render_shard(config, names, index)
    return writer.close(), rejected


def _samples_per_shard(config: RenderConfig) -> int:
    """32, or fewer of large videos, so that a shard stays in memory."""
    from phys4d.data.format import PIXELS_PER_SHARD, SAMPLES_PER_SHARD

    pixels = config.width * config.height * config.num_frames
    return max(1, min(SAMPLES_PER_SHARD, PIXELS_PER_SHARD // pixels))


def _numbers(config: RenderConfig, shard: int) -> range:
    size = _samples_per_shard(config)
    return range(shard * size, min((shard + 1) * size, config.num_samples))


def render_split(config: RenderConfig) -> None:
    """Render what is missing of a split, then write its index.

    Raises:
        UserError: the disk is full, or the split was begun with other settings.
    """
    from phys4d.data.format import INDEX_NAME
    from phys4d.data.write import write_index
    from phys4d.scenes.card import write_card

    names = family_names(config)
    settings = settings_of(config, names)
    _claim_folder(config.folder, settings)
    num_shards = -(-config.num_samples // _samples_per_shard(config))
    notes = _finished_shards(config, num_shards)
    missing = [shard for shard in range(num_shards) if shard not in notes]
    rejected: Counter[str] = Counter()
    done = sum(len(note["keys"]) for note in notes.values())
    if missing:
        (config.folder / INDEX_NAME).unlink(missing_ok=True)
        bar = progress(total=config.num_samples, desc=f"rendering {config.split}", unit="video")
        bar.update(done)
        bar.unpause()
        render = _on_ray if config.ray_address else _on_this_machine
        try:
            for shard, (note, reasons) in render(config, names, missing):
                notes[shard] = note
                rejected.update(reasons)
                bar.update(len(note["keys"]))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            there = sum(len(note["keys"]) for note in notes.values())
            raise UserError(
                f"no space left to write {config.folder}: {there} of {config.num_samples} videos are there; "
                "free some space and run the same command again to continue"
            ) from error
        finally:
            bar.close()
    write_index(config.folder, [notes[shard] for shard in range(num_shards)], {"settings": settings})
    write_card(config.out)
    refused = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items())) or "none"
    print(
        f"{config.folder}: {config.num_samples} videos, {done} of them were there; draws refused: {refused}",
        flush=True,
    )


def _finished_shards(config: RenderConfig, num_shards: int) -> dict[int, dict[str, Any]]:
    """Notes of the shards that are there, whole, and as the index has them if there is one."""
    from phys4d.data.format import INDEX_NAME, shard_name
    from phys4d.data.write import inspect_shard

    path = config.folder / INDEX_NAME
    known: dict[str, str] = {}
    if path.is_file():
        try:
            known = {shard["name"]: shard["sha256"] for shard in json.loads(path.read_text())["shards"]}
        except (json.JSONDecodeError, KeyError, UnicodeDecodeError):
            print(f"{path} is no dataset index; it is written anew", file=sys.stderr)
    notes = {}
    for shard in range(num_shards):
        name = shard_name(shard)
        note = inspect_shard(config.folder / name)
        if note is None or note["sha256"] != known.get(name, note["sha256"]):
            if (config.folder / name).is_file():
                print(f"{config.folder / name} is corrupt and is made again", file=sys.stderr)
        elif note["keys"] == [f"{number:06d}" for number in _numbers(config, shard)]:
            notes[shard] = note
    return notes


def _on_this_machine(config: RenderConfig, names: list[str], shards: list[int]) -> Any:
    """Yield (shard, result) as they finish in local processes."""
    workers = min(config.workers or len(os.sched_getaffinity(0)), len(shards))
    if workers == 1:
        for shard in shards:
            yield shard, _write_shard(config, names, shard)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=limit_threads, initargs=(1,)
    )
    try:
        pending = {pool.submit(_write_shard, config, names, shard): shard for shard in shards}
        while pending:
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield pending.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _on_ray(config: RenderConfig, names: list[str], shards: list[int]) -> Any:
    """Yield (shard, result) as they finish on a Ray cluster; nodes need no common file system."""
    import ray

    from phys4d.data.format import shard_name
    from phys4d.data.write import write_shard

    @ray.remote(num_cpus=1, max_retries=3)
    def render(index: int) -> tuple[bytes, list[str], Counter[str]]:
        limit_threads(1)
        writer, rejected = render_shard(config, names, index)
        return writer.to_bytes(), writer.keys, rejected

    ray.init(address=config.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        # As many shards at once as keep every core busy, so that the object store holds few results.
        limit = config.workers or max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, pending = list(reversed(shards)), {}
        while waiting or pending:
            while waiting and len(pending) < limit:
                shard = waiting.pop()
                pending[render.remote(shard)] = shard
            (finished,), _ = ray.wait(list(pending), num_returns=1)
            data, keys, rejected = ray.get(finished)
            shard = pending.pop(finished)
            yield shard, (write_shard(config.folder / shard_name(shard), data, keys), rejected)
    finally:
        ray.shutdown()


def _claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix samples of different settings in one split."""
    path = folder / SETTINGS_NAME
    if path.is_file():
        # A setting that is younger than the split had its default.
        before = {**asdict(RenderConfig()), **json.loads(path.read_text())}
        different = [k for k in settings if before.get(k) != settings[k]]
        if different:
            raise UserError(
                f"{folder} was begun with other settings ({', '.join(different)}); "
                "remove it, or choose another --out or --split"
            )
        return
    atomic_write_text(path, json.dumps(settings, indent=1, sort_keys=True) + "\n")


def main() -> None:
    """Entry point."""
    limit_threads(1)
    render_split(load(RenderConfig))


if __name__ == "__main__":
    run_main(main)
