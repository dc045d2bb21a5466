"""What the metrics see of a video: RGB and motion masks at a quarter of the benchmark's resolution."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from phys4d.metrics.physics_iq.videos import ClipError, read_frames

BACKGROUND_RATE = 0.3
"""Weight of a new frame in the running background."""
THRESHOLD = 10
"""Grey levels from the background above which a pixel moves."""
SHRINK = 4
_KERNEL = np.ones((5, 5), np.uint8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """A video as it is compared."""

    bgr: UInt8[np.ndarray, "frames height width 3"]
    masks: Bool[np.ndarray, "frames height width"]
    """Where something moves; nothing in frame 0."""
    size: tuple[int, int]
    """Width and height of the file in pixels."""


class MotionMask:
    """Where a BGR frame differs from a running background: 255 there, else 0; nothing in the first frame.

    The background is the first frame's blurred grey; each later frame is mixed into it with weight 0.3 before
    it is compared. Opening and closing with 5 x 5 ones remove specks and fill holes. The benchmark's tool
    keeps its masks in a lossy file, which takes up to a point from a score of small objects.
    """

    def __init__(self) -> None:
        self._background: np.ndarray | None = None

    def __call__(self, frame: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "height width"]:
        """The mask of the next frame."""
        grey = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (5, 5), 0)
        if self._background is None:
            self._background = grey.astype(np.float64)
            return np.zeros_like(grey)
        cv2.accumulateWeighted(grey, self._background, BACKGROUND_RATE)
        distance = cv2.absdiff(grey, cv2.convertScaleAbs(self._background))
        mask = cv2.threshold(distance, THRESHOLD, 255, cv2.THRESH_BINARY)[1]
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, _KERNEL)
        return cv2.morphologyEx(mask, cv2.MORPH_CLOSE, _KERNEL)


def make_clip(
    frames: Iterable[UInt8[np.ndarray, "height width 3"]],
    shrunk: tuple[int, int] | None = None,
    *,
    stored_fps: int | None = None,
    stored: Path | None = None,
) -> Clip:
    """Shrink BGR frames and the masks of their full resolution.

    Args:
        shrunk: width and height, by default a quarter of the frames' own. The picture is stretched to it
            whatever its own proportions, without borders.
        stored_fps: frame rate of the lossy file that masks go through as in the benchmark's tool; None keeps
            them as they are.
        stored: such a file, to be read instead of computing masks.
    """
    bgr, masks, size, mask_of = [], [], (0, 0), MotionMask()
    for frame in frames:
        size = (frame.shape[1], frame.shape[0])
        shrunk = shrunk or (size[0] // SHRINK, size[1] // SHRINK)
        bgr.append(cv2.resize(frame, shrunk))
        if stored is not None:
            continue
        mask = mask_of(frame)
        masks.append(mask if stored_fps else cv2.resize(mask, shrunk) > 127)
    assert shrunk is not None, "there are frames"
    if stored is not None:
        masks = [cv2.resize(mask, shrunk) > 127 for mask in _read_masks(stored, size, len(bgr))]
    elif stored_fps:
        masks = [cv2.resize(mask, shrunk) > 127 for mask in _stored(masks, size, stored_fps)]
    return Clip(bgr=np.stack(bgr), masks=np.stack(masks), size=size)


def _stored(
    masks: list[UInt8[np.ndarray, "height width"]], size: tuple[int, int], fps: int
) -> Iterator[UInt8[np.ndarray, "height width"]]:
    """Masks written as mp4v and read again."""
    with tempfile.TemporaryDirectory(prefix="physics-iq-masks-") as folder:
        path = str(Path(folder) / "masks.mp4")
        writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), fps, size, isColor=False)
        if not writer.isOpened():
            raise RuntimeError(f"OpenCV cannot write mp4v to {path}; leave --stored-masks out")
        for mask in masks:
            writer.write(mask)
        writer.release()
        yield from _read_masks(Path(path), size, len(masks))


def _read_masks(path: Path, size: tuple[int, int], count: int) -> Iterator[UInt8[np.ndarray, "height width"]]:
    """The masks of a file, which must be as many and as large as the video's frames."""
    if not path.is_file():
        raise ClipError(f"{path} is missing; stored masks need a file for each take")
    reader, found = cv2.VideoCapture(str(path)), 0
    try:
        while True:
            is_there, mask = reader.read()
            if not is_there:
                break
            if mask.shape[1::-1] != size:
                raise ClipError(
                    f"{path} is of {mask.shape[1]}x{mask.shape[0]} pixels, its video of {size[0]}x{size[1]}"
                )
            found += 1
            yield mask[..., 0]
    finally:
        reader.release()
    if found != count:
        raise ClipError(f"{path} has {found} masks, its video {count} frames")


def read_clip(
    path: Path,
    fps: int,
    shrunk: tuple[int, int] | None = None,
    *,
    stored_masks: bool = False,
    mask: Path | None = None,
) -> Clip:
    """Read a file; see `make_clip`.

    Args:
        mask: file of its stored masks; None computes them.

    Raises:
        ClipError: the file breaks a rule of `videos`.
    """
    return make_clip(read_frames(path, fps), shrunk, stored_fps=fps if stored_masks else None, stored=mask)
