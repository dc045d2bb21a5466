"""From the rewards of an iteration, as they come in, to advantages."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from phys4d.runtime.errors import UserError
from phys4d.types import Failure, Outcome
from policy.advantages import Advantages, Aggregation, compute_advantages
from policy.algorithms import ALGORITHMS
from policy.config import TrainConfig
from policy.ranks import Ranks
from policy.rewards import Pending, Rewards, failure_reasons, parse_sources, values
from policy.rollout import Rollouts

_COUNTS = ("num_invalid", "num_groups", "num_small_groups", "num_flat_groups", "num_clipped")


@dataclass
class Sampled:
    """The rollouts of one iteration on this rank, and their rewards as they come."""

    rollouts: list[Rollouts] = field(default_factory=list)
    pending: list[Pending] = field(default_factory=list)
    group_ids: list[list[int]] = field(default_factory=list)
    """Group of each video of a batch, over all ranks."""


def aggregation_of(config: TrainConfig) -> Aggregation:
    """How rewards are combined; one alone is its sum."""
    several = len(parse_sources(config.reward)) > 1
    return config.reward.aggregation if several else "sum_then_normalize"


def needs_all(config: TrainConfig) -> bool:
    """Whether rewards are compared beyond a group, so that the first update waits for all of an iteration."""
    algorithm = config.algorithm
    return (
        ALGORITHMS[algorithm.name].compares == "batch"
        or algorithm.std_scope != "group"
        or aggregation_of(config) == "normalize_then_sum"
    )


class Scoring:
    """Waits for rewards and turns them into advantages, as far as those are asked for."""

    def __init__(self, sampled: Sampled, config: TrainConfig, rewards: Rewards, ranks: Ranks) -> None:
        self._sampled = sampled
        self._config = config
        self._rewards = rewards
        self._ranks = ranks
        self.outcomes: list[list[list[Outcome]] | None] = [None] * len(sampled.rollouts)
        """By batch and source, on this rank."""
        self._values: list[Tensor | None] = [None] * len(sampled.rollouts)
        self._advantages: list[Advantages | None] = [None] * len(sampled.rollouts)
        self.wait_s = 0.0
        self._needs_all = needs_all(config)

    def values(self, b: int) -> Tensor:
        """Rewards of a batch over all ranks, (videos, sources)."""
        known = self._values[b]
        if known is None:
            start = time.monotonic()
            outcomes = self._sampled.pending[b].result()
            self.wait_s += time.monotonic() - start
            self.outcomes[b] = outcomes
            known = self._values[b] = self._ranks.gather(values(outcomes))
            self._refuse_failures(b)
        return known

    def batches(self, chosen: Sequence[int]) -> Iterator[tuple[Rollouts, Advantages]]:
        """Rollouts of this rank with their advantages, batch by batch, in the order asked for."""
        for b in chosen:
            yield self._sampled.rollouts[b], self._of_rank(b)

    def all_advantages(self) -> list[Advantages]:
        """Of all batches, over all ranks."""
        return [self.advantages(b) for b in range(len(self._values))]

    def advantages(self, b: int) -> Advantages:
        """Of one batch over all ranks; what is compared beyond a group waits for all rewards."""
        known = self._advantages[b]
        if known is not None:
            return known
        if not self._needs_all:
            known = self._advantages[b] = self._compare(self.values(b), self._sampled.group_ids[b])
            return known
        columns = [self.values(i) for i in range(len(self._values))]
        groups = [group for ids in self._sampled.group_ids for group in ids]
        whole = self._compare(torch.cat(columns), groups)
        start = 0
        for i, column in enumerate(columns):
            part = slice(start, start + len(column))
            # Counts are of the whole; they are told once.
            counts = {} if i == 0 else dict.fromkeys(_COUNTS, 0)
            self._advantages[i] = dataclasses.replace(
                whole, values=whole.values[part], trained=whole.trained[part], **counts
            )
            start += len(column)
        known = self._advantages[b]
        assert known is not None
        return known

    def _compare(self, rewards: Tensor, groups: Sequence[int]) -> Advantages:
        algorithm = self._config.algorithm
        if ALGORITHMS[algorithm.name].compares == "batch":
            groups = [0] * len(groups)
        return compute_advantages(
            rewards,
            groups,
            weights=self._rewards.weights,
            aggregation=aggregation_of(self._config),
            scale=algorithm.std_scope,
            min_spread=algorithm.min_reward_spread,
            clip=algorithm.advantage_clip,
        )

    def _of_rank(self, b: int) -> Advantages:
        whole = self.advantages(b)
        part = self._ranks.share(len(whole.values))
        return dataclasses.replace(whole, values=whole.values[part], trained=whole.trained[part])

    def _refuse_failures(self, b: int) -> None:
        """Stop where more rollouts of the iteration than allowed have no score; all are waited for first."""
        allowed = self._config.reward.max_failed_fraction
        known = self._values[b]
        assert known is not None
        if known.isnan().any(dim=1).double().mean() <= allowed:
            return
        whole = torch.cat([self.values(i) for i in range(len(self._values)) if i != b] + [known])
        num_failed = int(whole.isnan().any(dim=1).sum())
        if num_failed <= allowed * len(whole):
            return
        mine = [o.result for batch in self.outcomes if batch for column in batch for o in column]
        failures = self._ranks.gather_lists([f for f in mine if isinstance(f, Failure)])
        raise UserError(
            f"{num_failed} of {len(whole)} rollouts have no score ({failure_reasons(failures)}); mend the "
            "reward service, then run again to resume"
        )
