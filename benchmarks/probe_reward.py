"""A reward that costs nothing, to time everything around it."""

from phys4d.types import Rollout, Score


class Probe:
    """The first depth."""

    name = "probe"
    version = "1"

    def score(self, rollout: Rollout) -> Score:
        """Score one rollout."""
        return Score(value=float(rollout.depth[0, 0, 0]), scorer_version=self.version)
