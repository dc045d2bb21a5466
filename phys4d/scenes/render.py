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
from dataclasses import asdict
from pathlib import Path
from typing import Any

from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.progress import progress
from phys4d.runtime.threads import limit_threads
from phys4d.scenes.render_config import RenderConfig, family_names, settings_of

SETTINGS_NAME = "settings.json"


def render_shard(config: RenderConfig, names: list[str], index: int) -> tuple[Any, Counter[str]]:
    """Render one shard; returns its writer and the reasons of refused draws."""
    from phys4d.data.write import ShardWriter
    from phys4d.scenes.sample import render_sample

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
