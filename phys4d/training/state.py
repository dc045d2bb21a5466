"""All that a training needs to go on: weights, their average, optimisers, schedules, step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from phys4d.training.ema import Ema


@dataclass
class TrainingState:
    """Draws are seeded by step and part and batches by the run, so no generator's state belongs to it."""

    parameters: Sequence[nn.Parameter]
    ema: Ema
    optimisers: Sequence[torch.optim.Optimizer]
    schedules: Sequence[LRScheduler]
    num_items: int
    """Samples that batches are drawn from."""
    step: int = 0
    """Steps done."""
    skipped_in_a_row: int = 0
    finished: bool = False

    def dump(self, *, finished: bool = False) -> dict[str, Any]:
        """What `load` reads; tensors are not copied. A finished training needs its average only."""
        counts = {"num_items": self.num_items, "step": self.step, "finished": finished}
        if finished:
            return {**counts, "average": self.ema.average}
        return {
            **counts,
            "average": self.ema.average,
            "parameters": [p.detach() for p in self.parameters],
            "num_ema_updates": self.ema.num_updates,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    @torch.no_grad()
    def load(self, saved: dict[str, Any], name: str) -> None:
        """Take over what `dump` gave.

        Raises:
            ValueError: the training saw another number of samples, or had other weights.
        """
        if saved["num_items"] != self.num_items:
            raise ValueError(
                f"{name} was interrupted with {saved['num_items']} samples, now there are {self.num_items}; "
                "give it the same data, or remove its checkpoints to begin anew"
            )
        before = [tuple(value.shape) for value in saved["average"]]
        now = [tuple(p.shape) for p in self.parameters]
        if before != now:
            raise ValueError(
                f"{name} was interrupted with {len(before)} weights of other shapes than the {len(now)} now; "
                "remove its checkpoints to begin anew"
            )
        self.step, self.finished = saved["step"], saved["finished"]
        for average, value in zip(self.ema.average, saved["average"], strict=True):
            average.copy_(value)
        if self.finished:
            return
        for parameter, value in zip(self.parameters, saved["parameters"], strict=True):
            parameter.copy_(value)
        self.ema.num_updates = saved["num_ema_updates"]
        self.skipped_in_a_row = saved["skipped_in_a_row"]
        for optimiser, value in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(value)
        for schedule, value in zip(self.schedules, saved["schedules"], strict=True):
            schedule.load_state_dict(value)
