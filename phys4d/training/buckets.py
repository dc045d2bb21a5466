"""Samples of several shapes, held by shape, so that a batch of one shape can be stacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Buckets:
    """Several stacks of samples seen as one list; give `shapes` to `fit` for batches of one shape."""

    def __init__(self, stacks: Sequence[Tensor]) -> None:
        self.stacks = list(stacks)
        self._starts = torch.tensor([0, *(len(stack) for stack in self.stacks)]).cumsum(0)

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of every sample."""
        return [tuple(stack.shape[1:]) for stack in self.stacks for _ in range(len(stack))]

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Samples of one shape, stacked."""
        if len(self.stacks) == 1:
            return self.stacks[0][indices]
        which = torch.bucketize(indices, self._starts[1:], right=True)
        places = indices - self._starts[which]
        return torch.stack([self.stacks[s][p] for s, p in zip(which.tolist(), places.tolist(), strict=True)])
