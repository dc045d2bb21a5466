"""The processes of one run, started by `accelerate launch`; most runs have one.

Videos of a batch are shared out, siblings of a group too, so what needs a whole group is gathered. Seeds
belong to videos, not to ranks, so that a run does not depend on how many there are but for rounding.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor


class Ranks:
    """This process among those of the run."""

    def __init__(self, accelerator: Accelerator | None) -> None:
        self._accelerator = accelerator
        self.num = 1 if accelerator is None else accelerator.num_processes
        self.index = 0 if accelerator is None else accelerator.process_index
        self.device = torch.device("cpu") if accelerator is None else accelerator.device

    @classmethod
    def launched(cls) -> Self:
        """The processes that `accelerate launch` started, or this one."""
        return cls(Accelerator())

    @classmethod
    def alone(cls) -> Self:
        """This process, whatever others there are."""
        return cls(None)

    @property
    def is_first(self) -> bool:
        """Whether this rank writes files and talks to people."""
        return self.index == 0

    def share(self, count: int) -> slice:
        """This rank's part of `count` videos, neighbours together.

        Raises:
            ValueError: `count` does not divide evenly.
        """
        if count % self.num:
            raise ValueError(
                f"{count} videos cannot be shared by {self.num} processes; make rollout.prompts_per_batch x "
                f"rollout.group_size a multiple of {self.num}"
            )
        size = count // self.num
        return slice(self.index * size, (self.index + 1) * size)

    def gather(self, values: Tensor) -> Tensor:
        """Rows of all ranks, in their order; equally many from each."""
        if self.num == 1 or self._accelerator is None:
            return values
        return self._accelerator.gather(values.to(self.device)).to(values.device)

    def gather_lists(self, values: list[Any]) -> list[Any]:
        """Lists of all ranks as one."""
        return values if self.num == 1 else gather_object(values)

    def sum_tensors(self, tensors: list[Tensor]) -> None:
        """Replace each by its sum over ranks."""
        if self.num == 1 or self._accelerator is None:
            return
        flat = self._accelerator.reduce(torch.cat([t.flatten() for t in tensors]), reduction="sum")
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def sums(self, *values: float) -> list[float]:
        """Each number summed over ranks."""
        if self.num == 1:
            return [float(v) for v in values]
        return self.gather(torch.tensor([values], dtype=torch.float64)).sum(0).tolist()

    def largest(self, value: float) -> float:
        """The largest of all ranks' numbers."""
        return float(self.gather(torch.tensor([value], dtype=torch.float64)).max())

    def tell(self, value: Any) -> Any:
        """What the first rank has."""
        if self.num == 1:
            return value
        return broadcast_object_list([value])[0]

    def wait(self) -> None:
        """Until all ranks are here."""
        if self._accelerator is not None:
            self._accelerator.wait_for_everyone()
