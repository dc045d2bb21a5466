"""Rewards that no two siblings share: an untrained model's are alike, and such groups train nothing."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from phys4d.types import Outcome, Rollout
from policy.rewards import Pending, Rewards

STEP = 1e-3


def change_of_pixels(completions: Sequence[UInt8[np.ndarray, "frames height width 3"]]) -> list[float]:
    """Mean absolute change of pixels from frame to frame, in [0, 1]; noise makes it another in each video."""
    return [float(np.abs(np.diff(video.astype(np.float64), axis=0)).mean()) / 255 for video in completions]


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
