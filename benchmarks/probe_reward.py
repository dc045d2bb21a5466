"""A reward that costs nothing, to time everything around it."""

import time

from phys4d.types import Rollout, Score


class Probe:
    """The first depth.

    Args:
        seconds: how long it pretends to think.
    """

    name = "probe"
    version = "1"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout."""
        time.sleep(self.seconds)
        return Score(value=float(rollout.depth[0, 0, 0]), scorer_version=self.version)
