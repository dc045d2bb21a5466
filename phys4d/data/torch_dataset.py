"""Samples as torch tensors, for `torch.utils.data.DataLoader`."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import IterableDataset, get_worker_info

from phys4d.data.format import ARRAYS, MORE_ARRAYS
from phys4d.data.read import Dataset

DERIVED = ("category_ids",)
"""Arrays computed from others."""
COMMON = ("rgb", "depth", "motion", "object_ids")


def _checked(arrays: Sequence[str]) -> tuple[str, ...]:
    """The arrays' names, each known."""
    known = [*ARRAYS, *MORE_ARRAYS, *DERIVED]
    unknown = sorted(set(arrays) - set(known))
    if unknown:
        raise ValueError(f"unknown arrays {unknown}; known: {', '.join(known)}")
    return tuple(arrays)


def tensors(dataset: Dataset, number: int, arrays: Sequence[str]) -> dict[str, Any]:
    """The named arrays of a sample, its `key`, `caption`, `category` and `family`, and its `camera`.

    The camera is `intrinsics` (fx, fy, cx, cy in pixels) and `camera_from_world` (4 x 4, metres, OpenCV).
    """
    sample = dataset[number]
    found: dict[str, Any] = {}
    for name in arrays:
        array = sample.more.get(name) if name in MORE_ARRAYS else getattr(sample, name)
        if array is None:
            raise ValueError(
                f"sample {sample.key} in {dataset.folder} has no {name}; it has "
                f"{', '.join([*ARRAYS, *sample.more])}"
            )
        found[name] = torch.from_numpy(array)
    camera = sample.camera
    return {
        **found,
        "key": sample.key,
        "caption": sample.caption,
        "category": sample.spec.category,
        "family": sample.spec.family,
        "camera": {
            "intrinsics": torch.tensor([camera.fx, camera.fy, camera.cx, camera.cy], dtype=torch.float64),
            "camera_from_world": torch.from_numpy(camera.camera_from_world),
        },
    }


class TensorDataset(TorchDataset):
    """The samples of a split by number, each what `tensors` gives.

    Arrays whose sizes depend on the number of objects, points or particles cannot be batched by torch's
    default collation: name only others, or pass a collate function of your own.
    """

    def __init__(self, dataset: Dataset, arrays: Sequence[str] = COMMON) -> None:
        """
        Args:
            arrays: which arrays, named as in `phys4d.data.format`, or `category_ids`.

        Raises:
            ValueError: an array is unknown.
        """
        self.dataset = dataset
        self.arrays = _checked(arrays)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return tensors(self.dataset, number, self.arrays)


class StreamDataset(IterableDataset):
    """The samples of a split shard after shard, each what `tensors` gives; for splits that only disks hold.

    Ranks and the loader's workers share the shards out, so a split needs as many shards as there are of them.
    """

    def __init__(
        self,
        dataset: Dataset,
        arrays: Sequence[str] = COMMON,
        *,
        shuffle_buffer: int = 0,
        seed: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
    ) -> None:
        """
        Args:
            shuffle_buffer: samples among which the next is drawn; 0 keeps the order of the split.
            rank, num_ranks: this process and their number, in distributed training.

        Raises:
            ValueError: an array is unknown, or there are fewer shards than ranks.
        """
        if not 0 <= rank < num_ranks <= len(dataset.index["shards"]):
            raise ValueError(
                f"rank {rank} of {num_ranks} cannot share {len(dataset.index['shards'])} shards; each rank "
                "needs one, and ranks count from 0"
            )
        self.dataset = dataset
        self.arrays = _checked(arrays)
        self.shuffle_buffer, self.seed, self.epoch = shuffle_buffer, seed, 0
        self._rank, self._num_ranks = rank, num_ranks

    def set_epoch(self, epoch: int) -> None:
        """Shuffle otherwise in each epoch; call it before the loader begins one."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        mine, all_ = (0, 1) if worker is None else (worker.id, worker.num_workers)
        starts = np.cumsum([0, *(len(shard["keys"]) for shard in self.dataset.index["shards"])])
        order = np.arange(len(starts) - 1)
        # All ranks and workers shuffle the shards alike and so take different ones.
        rng = np.random.default_rng([self.seed, self.epoch])
        if self.shuffle_buffer:
            rng.shuffle(order)
        held: list[int] = []
        for shard in order[self._rank + self._num_ranks * mine :: self._num_ranks * all_]:
            for number in range(starts[shard], starts[shard + 1]):
                held.append(number)
                if len(held) > self.shuffle_buffer:
                    yield tensors(self.dataset, held.pop(int(rng.integers(len(held)))), self.arrays)
        rng.shuffle(held)
        for number in held:
            yield tensors(self.dataset, number, self.arrays)
