"""The processes of one training job, as `accelerate launch`, torchrun or Ray Train started them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from accelerate import PartialState
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

PATIENCE = timedelta(days=1)
"""How long processes wait for one another: the first one labels many videos while the others wait."""


@dataclass(frozen=True)
class Ranks:
    """This process among all; the default is a process of its own on the CPU."""

    index: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def current(cls, device: str = "auto") -> Ranks:
        """Join the job that the environment names.

        Args:
            device: `cpu`, `cuda` or `auto`, the GPU if there is one.

        Raises:
            ValueError: cuda was asked for and is not there.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device is cuda, but torch sees no GPU here; take --device cpu")
        state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
        return cls(state.process_index, state.num_processes, torch.device(state.device or "cpu"))

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and shows progress."""
        return self.index == 0

    def deal(self, pieces: Sequence[tuple[int, int, Tensor]]) -> list[tuple[int, int, Tensor]]:
        """The micro-batches that are this process's."""
        return list(pieces[self.index :: self.count])

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes; one message for each type of number."""
        if self.count == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in same])
            distributed.all_reduce(flat)
            for tensor, part in zip(same, flat.split([t.numel() for t in same]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def highest(self, value: int) -> int:
        """The greatest value of all processes."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, device=self.device)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return int(tensor.item())

    @torch.no_grad()
    def copy_from_main(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the main one's values."""
        if self.count > 1:
            for tensor in tensors:
                distributed.broadcast(tensor.data, 0)

    @property
    def shards(self) -> bool:
        """Whether accelerate's configuration asks for FSDP."""
        return self.count > 1 and os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"

    def shard_frozen(self, transformer: nn.Module, blocks: nn.ModuleList) -> None:
        """Split a transformer's frozen weights among the processes, if accelerate is configured for FSDP.

        Each block is gathered while it computes. Weights that are trained stay whole on every process and are
        summed as ever: adapters are small. To be called when they are attached and everything is loaded.
        """
        if not self.shards:
            return
        mesh = init_device_mesh(self.device.type, (self.count,))
        trained = {p for p in transformer.parameters() if p.requires_grad}
        for module in (*blocks, transformer):
            fully_shard(module, mesh=mesh, ignored_params=trained)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            distributed.barrier()
