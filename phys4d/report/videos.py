"""Videos as horizontal strips of frames, which the page shows one frame at a time."""

import base64
import io
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from phys4d.runtime.errors import one_line

LARGEST_SIDE = 256
LARGEST_WEBP = 16383
LOSSLESS_PIXELS = 128 * 128
"""Frames of more pixels are encoded with losses: 49 of 240 x 160 take a tenth of the room then."""
LOSSY_QUALITY = 60
VIRIDIS = "440154 482878 3e4a89 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725"
"""Ten equally spaced colours of the viridis map. Source: matplotlib, _cm_listed.py (CC0)."""


@dataclass(frozen=True, kw_only=True)
class Video:
    """What one stage generated for a scene; parts that are not there are None."""

    rgb: UInt8[np.ndarray, "frames height width 3"] | None = None
    depth: Float[np.ndarray, "frames height width"] | None = None
    """Metres, NaN where there is no surface."""
    motion: Float[np.ndarray, "frames-1 height width 3"] | None = None
    """(du px, dv px, dz m) to the next frame."""
    fault: str = ""
    """Why nothing could be read, for people."""


def read_video(path: Path) -> Video:
    """Read `rgb`, `depth` and `motion` of an npz file, as far as they are there and have their shapes."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("rgb", "depth", "motion") if name in arrays}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return Video(fault=one_line(error))
    for name, num_axes in (("rgb", 4), ("depth", 3), ("motion", 4)):
        array = found.get(name)
        if array is not None and (array.ndim != num_axes or 0 in array.shape):
            return Video(fault=f"{name} of {path.name} has shape {array.shape}, must have {num_axes} axes")
    return Video(**found)


def depth_range(videos: list[Video]) -> tuple[float, float]:
    """The 1st and 99th percentile of the first video that has depth: one scale for a scene, in metres."""
    for video in videos:
        if video.depth is not None and np.isfinite(video.depth).any():
            low, high = np.nanpercentile(np.where(np.isfinite(video.depth), video.depth, np.nan), [1, 99])
            return float(low), float(max(high, low + 1e-3))
    return 0.0, 1.0


def colour_depth(
    depth: Float[np.ndarray, "frames height width"], low: float, high: float
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Viridis with near bright and far dark; no surface is mid-grey."""
    anchors = np.array(
        [[int(word[i : i + 2], 16) for i in (0, 2, 4)] for word in VIRIDIS.split()], np.float64
    )
    nearness = 1.0 - np.clip((np.nan_to_num(depth.astype(np.float64)) - low) / (high - low), 0.0, 1.0)
    position = nearness * (len(anchors) - 1)
    colours = np.stack(
        [np.interp(position, np.arange(len(anchors)), anchors[:, c]) for c in range(3)], axis=-1
    )
    colours[~np.isfinite(depth)] = 128.0
    return np.round(colours).astype(np.uint8)


def colour_motion(
    motion: Float[np.ndarray, "frames height width 3"], scale_px: float
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Image motion as colour: hue is direction, brightness is length up to `scale_px`; no motion is dark."""
    flow = np.nan_to_num(motion[..., :2].astype(np.float64))
    length = np.clip(np.hypot(flow[..., 0], flow[..., 1]) / scale_px, 0.0, 1.0)[..., None]
    angle = np.arctan2(flow[..., 1], flow[..., 0])[..., None]
    wheel = 0.5 + 0.5 * np.cos(angle - np.array([0.0, 2.0, 4.0]) * np.pi / 3)
    return np.round(24 + 231 * length * wheel).astype(np.uint8)


def motion_scale(videos: list[Video]) -> float:
    """The 99.5th percentile of motion of the first video that has it, at least 0.5, in pixels per frame."""
    for video in videos:
        if video.motion is not None:
            length = np.hypot(
                video.motion[..., 0].astype(np.float64), video.motion[..., 1].astype(np.float64)
            )
            if np.isfinite(length).any():
                return float(max(0.5, np.nanpercentile(length, 99.5)))
    return 1.0


def strip_uri(frames: UInt8[np.ndarray, "frames height width 3"]) -> str:
    """Frames side by side as an image data URI, lossless for small frames.

    Sides above 256 pixels are subsampled, and so are strips wider than a WebP may be.
    """
    from PIL import Image

    num_frames, height, width = frames.shape[:3]
    widest = min(LARGEST_SIDE, LARGEST_WEBP // num_frames)
    stride = max(math.ceil(height / LARGEST_SIDE), math.ceil(width / widest))
    small = frames[:, ::stride, ::stride].astype(np.uint8)
    lossless = small[0, ..., 0].size <= LOSSLESS_PIXELS
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(list(small), axis=1)).save(
        buffer, "WEBP", lossless=lossless, quality=80 if lossless else LOSSY_QUALITY, method=4
    )
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
