"""The four metrics of two clips."""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64

from phys4d.metrics.physics_iq.clips import Clip


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well two clips agree; IoUs are in [0, 1], higher is better."""

    mse: tuple[float, ...]
    """Per frame, mean squared difference of RGB in [0, 1], rounded to 4 decimals."""
    st_iou: tuple[float, ...]
    """Spatiotemporal IoU: of the masks of each frame, 1 where both are empty; rounded to 4 decimals."""
    s_iou: float
    """Spatial IoU: of where anything moves at any time."""
    ws_iou: float
    """Weighted spatial IoU: sum of minima over sum of maxima of the share of time each pixel moves."""

    @property
    def mean_mse(self) -> float:
        """Mean over frames."""
        return float(np.mean(self.mse))

    @property
    def mean_st_iou(self) -> float:
        """Mean over frames."""
        return float(np.mean(self.st_iou))


def agreement(a: Clip, b: Clip) -> Agreement:
    """Compare clips of equal length and size.

    Sums are exact integers, so no order of summation matters. The benchmark sums squares in float32, which is
    off by 1e-8 at most before it rounds to 4 decimals.
    """
    if a.bgr.shape != b.bgr.shape:
        raise ValueError(f"clips must have equal shapes, got {a.bgr.shape} and {b.bgr.shape}")
    count_a, count_b = a.masks.sum(0, dtype=np.int64), b.masks.sum(0, dtype=np.int64)
    larger = int(np.maximum(count_a, count_b).sum())
    return Agreement(
        mse=_rounded(mse_per_frame(a, b)),
        st_iou=_rounded(iou(a.masks, b.masks)),
        s_iou=float(iou((count_a > 0)[None], (count_b > 0)[None])[0]),
        ws_iou=int(np.minimum(count_a, count_b).sum()) / larger if larger else 1.0,
    )


def mse_per_frame(a: Clip, b: Clip) -> Float64[np.ndarray, " frames"]:
    """Mean over pixels and channels of ((a - b) / 255)^2."""
    squares = [cv2.norm(x, y, cv2.NORM_L2SQR) for x, y in zip(a.bgr, b.bgr, strict=True)]
    return np.asarray(squares) / (255**2 * a.bgr[0].size)


def iou(
    a: Bool[np.ndarray, "frames height width"], b: Bool[np.ndarray, "frames height width"]
) -> Float64[np.ndarray, " frames"]:
    """Intersection over union of each frame; 1 where both are empty."""
    both, either = np.count_nonzero(a & b, axis=(1, 2)), np.count_nonzero(a | b, axis=(1, 2))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def _rounded(values: Float64[np.ndarray, " frames"]) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)
