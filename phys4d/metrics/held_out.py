"""Simulator truth of held-out videos, and how far predicted depth and motion are from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from phys4d.data import Dataset
from phys4d.metrics.consistency.flow import flow_epe_3d
from phys4d.metrics.depth_motion import depth_motion_errors
from phys4d.types import Camera


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldOut:
    """Truth of videos of one shape."""

    keys: list[str]
    fps: float
    captions: list[str]
    cameras: list[Camera]
    rgb: UInt8[np.ndarray, "videos frames height width 3"]
    depth: Float[np.ndarray, "videos frames height width"]
    motion: Float[np.ndarray, "videos frames-1 height width 3"]
    object_ids: UInt8[np.ndarray, "videos frames height width"]
    visible: Bool[np.ndarray, "videos frames-1 height width"]

    @classmethod
    def of(cls, dataset: Dataset) -> HeldOut:
        """All videos of a split."""
        names = ("rgb", "depth", "motion", "object_ids", "visible")
        return cls(
            keys=dataset.keys,
            fps=dataset[0].spec.fps,
            captions=dataset.captions(),
            cameras=dataset.cameras(),
            **{name: dataset.stack(name) for name in names},
        )

    def shown(
        self,
        stage: str,
        depth: Float[np.ndarray, "videos frames height width"],
        motion: Float[np.ndarray, "videos frames-1 height width 3"],
        num_videos: int = 2,
    ) -> dict[str, dict[str, dict[str, np.ndarray]]]:
        """The first videos' truth and what `stage` predicts, as `write_event_file` takes them."""
        return {
            self.keys[i]: {
                "truth": {"rgb": self.rgb[i], "depth": self.depth[i], "motion": self.motion[i]},
                stage: {"depth": depth[i], "motion": motion[i]},
            }
            for i in range(min(num_videos, len(self.keys)))
        }

    def errors(
        self,
        depth: Float[np.ndarray, "videos frames height width"],
        motion: Float[np.ndarray, "videos frames-1 height width 3"],
    ) -> dict[str, float]:
        """`DepthMotionErrors` by name, and `epe_3d_m`: error in space of what objects move."""
        errors = depth_motion_errors(depth, motion, self.depth, self.motion, self.object_ids)
        in_space = []
        for i, camera in enumerate(self.cameras):
            moving = (self.object_ids[i, :-1] > 0) & (np.linalg.norm(self.motion[i, ..., :2], axis=-1) > 0.5)
            if moving.any():
                truth = (self.depth[i], self.motion[i])
                in_space.append(flow_epe_3d(depth[i], motion[i], *truth, camera, moving))
        return {**asdict(errors), "epe_3d_m": float(np.mean(in_space))}
