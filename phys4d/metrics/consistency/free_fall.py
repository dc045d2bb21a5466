"""A falling object's masks against the simulator's, in the manner of PisaBench."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from scipy.spatial import cKDTree


@dataclass(frozen=True, kw_only=True)
class FreeFallErrors:
    """Means over the frames in which the truth shows the object; distances as shares of the diagonal."""

    l2: float
    """Distance of the mask centroids; lower is better."""
    chamfer: float
    """Mean distance to the nearest pixel of the other mask, both ways added up; lower is better."""
    iou: float
    """Intersection over union; higher is better."""
    num_lost: int
    """Frames in which only the truth shows the object; there l2 is 1, chamfer 2 and iou 0."""


def free_fall_errors(
    masks: Bool[np.ndarray, "frames height width"], true_masks: Bool[np.ndarray, "frames height width"]
) -> FreeFallErrors:
    """Compare the masks of one object; frame 0 is given to the model and does not count.

    PisaBench divides by the diagonal of a square image and averages its L2 over coordinates; here L2 is the
    Euclidean distance, and a frame without the object is as bad as can be instead of being left out.
    Truth is at l2 = chamfer = 0 and iou = 1.

    Source: Li et al., PISA Experiments, 2025 (arXiv:2503.09595), section 3.
    """
    if masks.shape != true_masks.shape:
        raise ValueError(f"masks must be of the truth's shape {true_masks.shape}, got {masks.shape}")
    diagonal = float(np.hypot(*true_masks.shape[1:]))
    rows, num_lost = [], 0
    for mask, true in zip(masks[1:].astype(bool), true_masks[1:].astype(bool), strict=True):
        if not true.any():
            continue
        if not mask.any():
            num_lost += 1
            rows.append((1.0, 2.0, 0.0))
            continue
        found, expected = _pixels(mask), _pixels(true)
        l2 = np.linalg.norm(found.mean(0) - expected.mean(0)) / diagonal
        there, back = cKDTree(expected).query(found)[0], cKDTree(found).query(expected)[0]
        iou = np.count_nonzero(mask & true) / np.count_nonzero(mask | true)
        rows.append((float(l2), (there.mean() + back.mean()) / diagonal, iou))
    if not rows:
        raise ValueError("the truth shows no object after frame 0")
    l2, chamfer, iou = np.mean(rows, axis=0)
    return FreeFallErrors(l2=float(l2), chamfer=float(chamfer), iou=float(iou), num_lost=num_lost)


def _pixels(mask: Bool[np.ndarray, "height width"]) -> Float64[np.ndarray, "points 2"]:
    return np.argwhere(mask).astype(np.float64)
