"""Rewards that no two siblings share: an untrained model's are alike, and such groups train nothing."""

from collections.abc import Sequence
from dataclasses import replace

from phys4d.types import Outcome, Rollout
from policy.rewards import Pending, Rewards

STEP = 1e-3


class DistinctPending(Pending):
    """Adds a thousandth to each score more than to the one before."""

    def result(self) -> list[list[Outcome]]:
        """Outcomes of each source; failures as they are."""
        return [
            [
                o if o.score is None else replace(o, result=replace(o.score, value=o.score.value + STEP * k))
                for k, o in enumerate(column)
            ]
            for column in super().result()
        ]


class DistinctRewards(Rewards):
    """The rewards of a real service, made distinct."""

    def submit(self, rollouts: Sequence[Rollout]) -> Pending:
        """Score in the background."""
        return DistinctPending(super().submit(rollouts).futures)
