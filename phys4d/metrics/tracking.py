"""Follow objects in RGB by their colour: a reading of motion that needs no network.

The scenes paint every object in its own saturated hue on a grey background, so a pixel's chromaticity says
which object it shows. The same tracker runs on the simulator's video, so that its bias cancels.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

MIN_PIXELS = 4.0


def track_colours(
    rgb: UInt8[np.ndarray, "frames height width 3"],
    object_ids: UInt8[np.ndarray, "height width"],
    *,
    tolerance: float = 0.06,
) -> Float[np.ndarray, "frames objects 2"]:
    """Centroid (u, v) in pixels of each object's colour per frame; NaN where fewer than 4 pixels show it.

    Only objects that frame 0 shows are followed; where it shows none there are no tracks.

    Args:
        rgb: the video; frame 0 agrees with `object_ids`.
        object_ids: instances in frame 0, 0 is background.
        tolerance: standard deviation of the Gaussian weight in chromaticity (r, g, b) / (r + g + b).
    """
    distances, nearest = _colour_distances(rgb, object_ids)
    num_objects = distances.shape[-1] - 1
    height, width = object_ids.shape
    rows, columns = np.mgrid[:height, :width] + 0.5
    tracks = np.full((len(rgb), num_objects, 2), np.nan)
    for o in range(1, num_objects + 1):
        weight = np.exp(-0.5 * (distances[..., o] / tolerance) ** 2) * (nearest == o)
        total = weight.sum((1, 2))
        seen = total >= MIN_PIXELS
        tracks[seen, o - 1, 0] = (weight * columns).sum((1, 2))[seen] / total[seen]
        tracks[seen, o - 1, 1] = (weight * rows).sum((1, 2))[seen] / total[seen]
    return tracks


def colour_masks(
    rgb: UInt8[np.ndarray, "frames height width 3"], object_ids: UInt8[np.ndarray, "height width"]
) -> Bool[np.ndarray, "frames height width objects"]:
    """Pixels whose colour is nearest to each object's; arguments as in `track_colours`."""
    distances, nearest = _colour_distances(rgb, object_ids)
    return nearest[..., None] == np.arange(1, distances.shape[-1])


def _colour_distances(
    rgb: UInt8[np.ndarray, "frames height width 3"], object_ids: UInt8[np.ndarray, "height width"]
) -> tuple[Float[np.ndarray, "frames height width colours"], Int[np.ndarray, "frames height width"]]:
    """Distance in chromaticity to the background (first) and each object, and which is the nearest."""
    num_objects = int(object_ids.max())
    colours = _chromaticity(rgb)
    background = (
        np.median(colours[0][object_ids == 0], axis=0) if (object_ids == 0).any() else np.full(3, 1 / 3)
    )
    references = [
        np.median(colours[0][object_ids == o], axis=0) if (object_ids == o).any() else np.full(3, np.nan)
        for o in range(1, num_objects + 1)
    ]
    distances = np.linalg.norm(colours[:, :, :, None] - np.stack([background, *references]), axis=-1)
    return distances, np.nanargmin(distances, axis=-1)


def trajectory_errors(
    tracks: Float[np.ndarray, "frames objects 2"],
    true_tracks: Float[np.ndarray, "frames objects 2"],
    lost_px: float,
) -> Float[np.ndarray, "frames objects"]:
    """Distance in pixels per frame and object.

    It is NaN where the truth is not seen, and `lost_px` where only the truth is seen.
    """
    distance = np.linalg.norm(tracks - true_tracks, axis=-1)
    true_seen = np.isfinite(true_tracks).all(axis=-1)
    lost = true_seen & ~np.isfinite(tracks).all(axis=-1)
    return np.where(lost, lost_px, np.where(true_seen, np.minimum(distance, lost_px), np.nan))


def constant_velocity(
    true_tracks: Float[np.ndarray, "frames objects 2"],
) -> Float[np.ndarray, "frames objects 2"]:
    """The baseline that sees the true frames 0 and 1 and goes on in a straight line."""
    steps = np.arange(len(true_tracks))[:, None, None]
    return true_tracks[0] + steps * (true_tracks[1] - true_tracks[0])


def _chromaticity(rgb: UInt8[np.ndarray, "*image 3"]) -> Float[np.ndarray, "*image 3"]:
    values = rgb.astype(np.float64) + 8.0
    return values / values.sum(-1, keepdims=True)
