"""Samples as torch tensors, for `torch.utils.data.DataLoader`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset as TorchDataset

from phys4d.data.format import ARRAYS, MORE_ARRAYS
from phys4d.data.read import Dataset


class TensorDataset(TorchDataset):
    """The samples of a split, each a dict of tensors with `key`, `caption`, `category` and `family`.

    Arrays whose sizes depend on the number of objects, points or particles cannot be batched by torch's
    default collation: name only others, or pass a collate function of your own.
    """

    def __init__(self, dataset: Dataset, arrays: Sequence[str] = ("rgb", "depth", "motion", "object_ids")):
        """
        Args:
            arrays: which arrays, named as in `phys4d.data.format`.

        Raises:
            ValueError: an array is unknown.
        """
        unknown = sorted(set(arrays) - set(ARRAYS) - set(MORE_ARRAYS))
        if unknown:
            raise ValueError(f"unknown arrays {unknown}; known: {', '.join([*ARRAYS, *MORE_ARRAYS])}")
        self.dataset = dataset
        self.arrays = tuple(arrays)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> dict[str, Any]:
        sample = self.dataset[number]
        tensors = {}
        for name in self.arrays:
            array = getattr(sample, name) if name in ARRAYS else sample.more.get(name)
            if array is None:
                raise ValueError(
                    f"sample {sample.key} in {self.dataset.folder} has no {name}; it has "
                    f"{', '.join([*ARRAYS, *sample.more])}"
                )
            tensors[name] = torch.from_numpy(array)
        return {
            **tensors,
            "key": sample.key,
            "caption": sample.caption,
            "category": sample.spec.category,
            "family": sample.spec.family,
        }
