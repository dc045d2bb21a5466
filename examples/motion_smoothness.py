"""A custom reward: videos whose motion changes little from frame to frame score higher.

Offer it with

    python -m reward_service.serve --rewards "examples.motion_smoothness:MotionSmoothness(scale_px=0.5)"
"""

import numpy as np

from phys4d.reward.plugin import DataError
from phys4d.types import Rollout, Score


class MotionSmoothness:
    """1 / (1 + a / scale_px), where a is the mean length of the motion's change from frame to frame.

    Args:
        scale_px: change in pixels per frame that earns one half.
    """

    name = "motion_smoothness"

    def __init__(self, scale_px: float = 1.0) -> None:
        if scale_px <= 0:
            raise ValueError(f"scale_px must be positive pixels, got {scale_px}")
        self.scale_px = scale_px
        # Another scale gives other scores, and a run refuses to mix them.
        self.version = f"1+{scale_px:g}px"

    def score(self, rollout: Rollout) -> Score:
        """Score the motion of the objects' pixels of frame 0."""
        motion = np.asarray(rollout.motion, np.float64)
        if not np.isfinite(motion).all():
            raise DataError("NON_FINITE_MOTION", "motion must be finite")
        if motion.shape[0] < 2:
            raise DataError("TOO_SHORT", f"smoothness needs 3 frames, got {motion.shape[0] + 1}")
        on_object = np.asarray(rollout.object_ids) > 0
        if not on_object.any():
            raise DataError("NO_VISIBLE_OBJECT", "object_ids marks no pixel of frame 0")
        change = np.diff(motion[..., :2], axis=0)[:, on_object]
        mean_px = float(np.linalg.norm(change, axis=-1).mean())
        return Score(
            value=1 / (1 + mean_px / self.scale_px),
            components={"mean_change_px": mean_px},
            scorer_version=self.version,
        )
