"""Mirror images: left and right exchanged, which physics does not care about."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np


def mirrored_caption(caption: str) -> str:
    """The caption of the video seen in a mirror: left and right change places."""
    return re.sub(r"\b(left|right)\b", lambda word: "right" if word[0] == "left" else "left", caption)


def with_mirrored_captions(captions: Sequence[str]) -> list[str]:
    """The captions, and after them those of the mirror images."""
    return [*captions, *map(mirrored_caption, captions)]


def with_mirror_images(name: str, videos: np.ndarray) -> np.ndarray:
    """The videos, and after them their mirror images.

    Args:
        name: the field of a sample; of a `motion` the first channel (pixels to the right) changes its sign.
        videos: (N, T, H, W, ...).
    """
    flipped = videos[:, :, :, ::-1]
    if name == "motion":
        flipped = flipped * np.array([-1, 1, 1], flipped.dtype)
    return np.concatenate([videos, flipped])
