"""Render a dataset of annotated videos: `python -m phys4d.scenes.render --out data/rigid --split train`.

Resumable: finished shards are kept, so the same command continues where it was stopped. The split's index is
written last. Sample i of a split has the seed `seed_start + i` (plus 2^32, once or more, where that yields no
scene) and the family i modulo their number. With `--ray-address` a Ray cluster renders, on whose nodes phys4d
is installed; the files are written here.
"""

import errno
import json
import logging
import multiprocessing
import os
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.progress import progress
from phys4d.runtime.threads import limit_threads
from phys4d.scenes.memory import available_bytes, check_memory, video_bytes
from phys4d.scenes.render_config import RenderConfig, family_names, settings_of, split_name

SETTINGS_NAME = "settings.json"


Packed = tuple[Any, Counter[str]]
"""The files of a sample, and the reasons of refused draws."""


def render_packed(config: RenderConfig, names: list[str], number: int) -> Packed:
    """Render sample `number` and pack it."""
    from phys4d.data.write import pack
    from phys4d.scenes.sample import render_sample

    rejected: Counter[str] = Counter()
    sample = render_sample(config, names, number, rejected)
    return pack(f"{number:06d}", sample["arrays"], sample["metadata"]), rejected


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
        ValueError: no scene can be built, of too long a video say.
        UserError: the disk is full, memory is short, or the split was begun with other settings.
    """
    from phys4d.data.format import INDEX_NAME
    from phys4d.data.write import ShardWriter, write_index
    from phys4d.scenes.card import write_card

    names = family_names(config)
    settings = settings_of(config, names)
    workers = _num_workers(config)
    _check_scenes(config, names)
    _claim_folder(config.folder, settings)
    num_shards = -(-config.num_samples // _samples_per_shard(config))
    notes = _finished_shards(config, num_shards)
    missing: dict[int, dict[int, Any]] = {shard: {} for shard in range(num_shards) if shard not in notes}
    rejected: Counter[str] = Counter()
    done = sum(len(note["keys"]) for note in notes.values())
    if missing:
        (config.folder / INDEX_NAME).unlink(missing_ok=True)
        bar = progress(total=config.num_samples, desc=f"rendering {config.split}", unit="video")
        bar.update(done)
        bar.unpause()
        render = _on_ray if config.ray_address else _on_this_machine
        numbers = [number for shard in missing for number in _numbers(config, shard)]
        try:
            for number, (members, reasons) in render(config, names, numbers, workers):
                rejected.update(reasons)
                bar.update(1)
                shard = number // _samples_per_shard(config)
                missing[shard][number] = members
                if len(missing[shard]) < len(_numbers(config, shard)):
                    continue
                writer = ShardWriter(config.folder, shard)
                for each, packed in sorted(missing.pop(shard).items()):
                    writer.add_packed(f"{each:06d}", packed)
                notes[shard] = writer.close()
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


def _num_workers(config: RenderConfig) -> int:
    """Processes: as asked for, or one per core as far as memory goes; 0 leaves it to a Ray cluster.

    Raises:
        UserError: there is too little memory, or no cluster.
    """
    if config.ray_address:
        _reach(config.ray_address)
        return config.workers
    available, most = available_bytes(), min(config.workers or 2**31, config.num_samples)
    if not config.workers:
        most = min(most, len(os.sched_getaffinity(0)))
        if available is not None:
            most = max(1, min(most, available // video_bytes(config)))
    check_memory(config, most, available)
    return most


def _finished_shards(config: RenderConfig, num_shards: int) -> dict[int, dict[str, Any]]:
    """Notes of the shards that are there, whole, and as the index has them if there is one.

    Raises:
        UserError: the split holds more videos than are asked for.
    """
    from phys4d.data.format import INDEX_NAME, shard_name
    from phys4d.data.read import load_index
    from phys4d.data.write import inspect_shard

    path = config.folder / INDEX_NAME
    known: dict[str, str] = {}
    if path.is_file():
        try:
            known = {shard["name"]: shard["sha256"] for shard in load_index(path)["shards"]}
        except ValueError:
            print(f"{path} is no dataset index; it is written anew", file=sys.stderr)
    notes, shards = {}, range(num_shards)
    there = {path.name for path in config.folder.glob("shard-*.tar")}
    too_many = UserError(
        f"{config.folder} holds more than {config.num_samples} videos already, and none is taken away; "
        "give a larger --num-samples, remove the folder, or choose another --split"
    )
    if there - {shard_name(shard) for shard in shards}:
        raise too_many
    if there:
        shards = progress(shards, desc=f"checking {config.split}", unit="shard")
    for shard in shards:
        name = shard_name(shard)
        note = inspect_shard(config.folder / name)
        if note is None or note["sha256"] != known.get(name, note["sha256"]):
            if (config.folder / name).is_file():
                print(f"{config.folder / name} is corrupt and is made again", file=sys.stderr)
        elif note["keys"] == (asked := [f"{number:06d}" for number in _numbers(config, shard)]):
            notes[shard] = note
        elif len(note["keys"]) > len(asked):
            raise too_many
    return notes


def _on_this_machine(
    config: RenderConfig, names: list[str], numbers: list[int], workers: int
) -> Iterator[tuple[int, Packed]]:
    """Yield (number, result) as they finish in local processes."""
    if min(workers, len(numbers)) == 1:
        for number in numbers:
            yield number, render_packed(config, names, number)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=limit_threads, initargs=(1,)
    )
    waiting, pending = iter(numbers), {}
    try:
        while True:
            # Few at once, so that few results wait to be written.
            for number in islice(waiting, 2 * workers - len(pending)):
                pending[pool.submit(render_packed, config, names, number)] = number
            if not pending:
                return
            finished, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in finished:
                yield pending.pop(future), future.result()
    except BrokenProcessPool as error:
        raise UserError(
            f"one of {workers} processes was killed, most likely for want of memory; give fewer --workers; "
            "what is there is kept"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _on_ray(
    config: RenderConfig, names: list[str], numbers: list[int], workers: int
) -> Iterator[tuple[int, Packed]]:
    """Yield (number, result) as they finish on a Ray cluster; nodes need no common file system."""
    import ray

    @ray.remote(num_cpus=1, max_retries=3)
    def render(number: int) -> Packed:
        limit_threads(1)
        return render_packed(config, names, number)

    ray.init(address=config.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        # As many at once as keep every core busy, so that the object store holds few results.
        limit = workers or 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
        waiting, pending = iter(numbers), {}
        while True:
            for number in islice(waiting, limit - len(pending)):
                pending[render.remote(number)] = number
            if not pending:
                return
            (finished,), _ = ray.wait(list(pending), num_returns=1)
            yield pending.pop(finished), ray.get(finished)
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Refuse an address `host:port` where nobody listens: Ray itself tries for a minute and says much."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address in ("auto", "local"):
        return
    if not host or not port.isdigit():
        raise UserError(f"ray_address must be host:port, ray://host:port, auto or local, got {address!r}")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}; start one with: ray start") from error


def _check_scenes(config: RenderConfig, names: list[str]) -> None:
    """Refuse settings with which the first family of a category cannot be built, whatever is drawn."""
    from phys4d.scenes.registry import MAX_UNBUILT, build, draw_spec

    pairs = [split_name(config, name) for name in names]
    for category in dict(pairs):
        family = next(family for each, family in pairs if each == category)
        for attempt in range(MAX_UNBUILT):
            spec = draw_spec(
                category,
                family,
                config.seed_start,
                attempt=attempt,
                num_frames=config.num_frames,
                fps=config.fps,
            )
            try:
                build(spec)
                break
            except ValueError as error:
                if attempt == MAX_UNBUILT - 1:
                    raise ValueError(f"{category}/{family} cannot be built: {error}") from error


def _claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Refuse to mix samples of different settings in one split."""
    path = folder / SETTINGS_NAME
    if path.is_file():
        # A setting that is younger than the split had its default.
        try:
            before = {**asdict(RenderConfig()), **json.loads(path.read_text())}
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError):
            raise UserError(f"{path} is damaged; remove {folder} and run the same command again") from None
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
