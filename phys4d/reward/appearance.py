"""Reward functions on pixels, as `phys4d.reward.callables` takes them: against side effects of other rewards.

--reward.sources scene_chamfer 1 phys4d.reward.appearance:little_change 0.5
--reward.aggregation normalize_then_sum
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from phys4d.reward.plugin import DataError

FLOOR = 0.25
"""Grey levels: half of what rounding to whole levels can hide."""


def little_change(completions: Sequence[UInt8[np.ndarray, "frames height width 3"]]) -> list[float]:
    """Minus the log of how far frames are from frame 0, in mean grey levels: a price on idle change.

    Rewards that follow the points of frame 0 see an object better the more it stands out, so training on them
    makes objects grow and fringes show in all videos, also where they are too large already. The log makes
    scenes alike: 10 % more change costs the same in each. It is highest for a still video, and so only good
    beside a reward that wants motion.

    Raises:
        DataError: a video has a single frame.
    """
    values = []
    for video in completions:
        if len(video) < 2:
            raise DataError(
                "SINGLE_FRAME",
                f"a video must have 2 or more frames to change, got shape {np.shape(video)}; make longer "
                "ones or leave little_change out",
            )
        grey = np.asarray(video, np.float32).mean(-1)
        values.append(-float(np.log(np.abs(grey[1:] - grey[0]).mean() + FLOOR)))
    return values
