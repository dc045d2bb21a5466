"""Benchmark and tune the Chamfer kernel on a GPU: `python -m benchmarks.chamfer_gpu` (or make bench-gpu).

1. Check the kernel against the k-d tree on ragged clouds, in 3 and 4 dimensions.
2. Time every tile on the clouds of a batch of rollouts, interleaved, and name the fastest.
3. Time that tile beside torch (all pairs, differences) and, where it is installed, pytorch3d.
4. Write all of it with the name of the device.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.pytorch3d_cpu import IS_INSTALLED
from phys4d.runtime.config import load
from phys4d.runtime.errors import UserError, run_main
from phys4d.runtime.files import atomic_write_text
from phys4d.runtime.progress import progress
from phys4d.runtime.run import provenance

if TYPE_CHECKING:
    import torch

    from phys4d.metrics.nearest_triton import Tile

BLOCKS_P, BLOCKS_Q, WARPS, STAGES = (32, 64, 128), (32, 64, 128), (2, 4, 8), (1, 2, 3)
MAX_PAIRS_PER_THREAD = 64
CHECK_SIZES = (1, 65, 0, 1000, 4097)


@dataclass(frozen=True, kw_only=True)
class GpuBenchConfig:
    """Tune and time the Triton kernel of the Chamfer distance on this machine's GPU."""

    batch: int = 8
    """Rollouts."""
    frames: int = 49
    """Frames of each."""
    points: int = 4096
    """Points of each frame."""
    repeats: int = 9
    """Interleaved repeats; the median counts."""
    out: Path = Path("runs/bench")
    """Folder for chamfer-<device>.json."""

    def __post_init__(self) -> None:
        for name in ("batch", "frames", "points"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.repeats < 3:
            raise ValueError(f"repeats must be at least 3 for a median, got {self.repeats}")


def tiles() -> list[Tile]:
    """Tiles worth a try: up to 64 pairs in a thread's registers."""
    from phys4d.metrics.nearest_triton import Tile

    return [
        Tile(block_p=p, block_q=q, num_warps=warps, num_stages=stages)
        for p, q, warps, stages in itertools.product(BLOCKS_P, BLOCKS_Q, WARPS, STAGES)
        if 8 <= p * q // (32 * warps) <= MAX_PAIRS_PER_THREAD
    ]


def check() -> float:
    """Largest relative deviation from the k-d tree.

    Raises:
        ValueError: above 1e-4, so that no time of a wrong kernel is written down.
    """
    from phys4d.metrics.nearest import nn_d2

    deviations = []
    offsets = np.append(0, np.cumsum(CHECK_SIZES))
    for num_dims in (3, 4):
        x, y = np.random.default_rng(num_dims).normal(size=(2, offsets[-1], num_dims)) + 10
        expected = nn_d2(x, y, offsets, offsets, backend="cpu")
        found = nn_d2(x, y, offsets, offsets, backend="triton")
        deviations.append(np.max(np.abs(found - expected) / np.maximum(expected, 1e-6)))
    worst = float(np.max(deviations))
    if not worst <= 1e-4:
        raise ValueError(f"the kernel deviates from the k-d tree by {worst:.1e}; at most 1e-4 is rounding")
    return worst


def milliseconds(work: Any) -> float:
    """Time of one call on the device."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def interleaved_ms(works: dict[str, Any], repeats: int, desc: str) -> dict[str, float]:
    """Median milliseconds of each; all run once before, untimed, which also compiles."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for repeat in progress(range(repeats + 1), desc=desc, unit="round"):
        for name, work in works.items():
            took = milliseconds(work)
            if repeat:
                times[name].append(took)
    return {name: statistics.median(taken) for name, taken in times.items()}


def peers(x: torch.Tensor, y: torch.Tensor, config: GpuBenchConfig) -> dict[str, Any]:
    """What others offer for clouds of equal size."""
    import torch

    shape = (config.batch * config.frames, config.points, 3)
    x_batch, y_batch = x.reshape(shape), y.reshape(shape)

    def all_pairs() -> None:
        for frame in range(len(x_batch)):
            torch.cdist(x_batch[frame], y_batch[frame], compute_mode="donot_use_mm_for_euclid_dist").amin(-1)

    works = {f"torch {torch.__version__} cdist, by differences": all_pairs}
    if IS_INSTALLED:
        from pytorch3d.ops import knn_points

        works["pytorch3d knn_points"] = lambda: knn_points(x_batch, y_batch, K=1)
    return works


def main() -> None:
    """Command line."""
    config = load(GpuBenchConfig)
    import torch

    if not torch.cuda.is_available():
        raise UserError("no NVIDIA GPU here; run this on a machine with one (CPU: python -m benchmarks)")
    from phys4d.metrics.nearest_triton import TILE, nn_d2_triton

    device = torch.cuda.get_device_name()
    deviation = check()
    num_segments = config.batch * config.frames
    generator = torch.Generator("cuda").manual_seed(0)
    shape = (2, num_segments * config.points, 3)
    x, y = torch.randn(shape, generator=generator, device="cuda")
    offsets = config.points * torch.arange(num_segments + 1, device="cuda")
    ranges = torch.stack([offsets[:-1], offsets[1:]], -1)
    pairs = num_segments * config.points**2

    by_name = {str(asdict(tile)): tile for tile in tiles()}
    works = {
        name: lambda tile=tile: nn_d2_triton(x, y, offsets, ranges, tile=tile)
        for name, tile in by_name.items()
    }
    tile_ms = interleaved_ms(works, config.repeats, "tiles")
    best = min(tile_ms, key=tile_ms.__getitem__)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    works[best]()
    extra_mib = (torch.cuda.max_memory_allocated() - before) / 2**20
    compared = interleaved_ms({"ours": works[best], **peers(x, y, config)}, config.repeats, "peers")

    print(f"{device}: {num_segments} clouds of {config.points} points, one direction, {pairs:.3g} pairs")
    print(f"largest relative deviation from the k-d tree {deviation:.1e}; extra memory {extra_mib:.0f} MiB")
    for name, ms in compared.items():
        rate = pairs / ms / 1e6
        print(f"{name:44s} {ms:9.3f} ms {rate:8.1f} Gpairs/s {ms / compared['ours']:7.2f}x ours")
    gain = tile_ms[str(asdict(TILE))] / tile_ms[best]
    print(f"fastest tile {best}, {gain:.2f}x as fast as the built-in one")
    if by_name[best] != TILE:
        print("to use it, set the defaults of Tile in phys4d/metrics/nearest_triton.py")
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    result = {
        "device": device,
        "capability": torch.cuda.get_device_capability(),
        "machine": provenance(),
        "config": {**asdict(config), "out": str(config.out)},
        "pairs": pairs,
        "deviation": deviation,
        "extra_mib": extra_mib,
        "compared_ms": compared,
        "best_tile": asdict(by_name[best]),
        "tile_ms": tile_ms,
    }
    file = config.out / f"chamfer-{slug}.json"
    atomic_write_text(file, json.dumps(result, indent=2) + "\n")
    print(f"written: {file}")


if __name__ == "__main__":
    run_main(main)
