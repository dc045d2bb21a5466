"""A folder of videos of any origin: files that PyAV reads, or folders of frames."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from phys4d.data.format import INDEX_NAME
from phys4d.runtime.progress import progress

VIDEO_ENDINGS = (".mp4", ".webm", ".mov", ".mkv", ".avi")
FRAME_ENDINGS = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True, eq=False)
class Videos:
    """Videos cut to one shape, with what was left out."""

    rgb: UInt8[np.ndarray, "videos frames height width 3"]
    captions: list[str]
    """The text beside a video, `NAME.txt`; empty where there is none."""
    names: list[str]
    skipped: dict[str, str]
    """Of each video that is not used its name and why."""


def is_dataset(folder: Path, split: str = "train") -> bool:
    """Whether a folder holds a rendered dataset instead of videos."""
    return (folder / split / INDEX_NAME).is_file()


def read_videos(
    folder: Path,
    *,
    num_frames: int,
    height: int,
    width: int,
    fps: float | None = None,
    limit: int | None = None,
    check_caption: Callable[[str], object] = str,
) -> Videos:
    """Read the first `num_frames` frames of every video of a folder, cut about the centre and averaged down.

    Entries are files ending in .mp4, .webm, .mov, .mkv or .avi, and folders of .png or .jpg frames, which are
    taken in the order of the numbers in their names. A video that cannot be read, or is too short, too small
    or too slow, is named on stderr, skipped and counted.

    Args:
        fps: frames per second to take of a file, by its average rate; None takes every frame. A folder of
            frames has no rate, so they are taken as they are.
        limit: stop after so many good videos.
        check_caption: raises ValueError for a caption that cannot be used; its video is skipped.

    Raises:
        FileNotFoundError: no folder, or nothing in it that could be a video.
        ValueError: none of the videos can be used.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}; render a dataset there or put videos into it")
    entries = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in VIDEO_ENDINGS or (path.is_dir() and not path.name.startswith("."))
    ]
    if not entries:
        raise FileNotFoundError(
            f"{folder} holds no dataset, no {'/'.join(VIDEO_ENDINGS)} and no folder of frames"
        )
    videos, names, captions, skipped = [], [], [], {}
    for path in progress(entries, desc="reading videos", unit="video"):
        if limit is not None and len(videos) == limit:
            break
        try:
            caption = _caption(path)
            check_caption(caption)
            videos.append(_clip(_frames(path, fps), num_frames, height, width))
            names.append(path.name)
            captions.append(caption)
        except ValueError as error:
            skipped[path.name] = str(error)
            print(f"warning: skipping {path}: {error}", file=sys.stderr)
    if skipped:
        print(f"skipped {len(skipped)} of {len(videos) + len(skipped)} videos", file=sys.stderr)
    if not videos:
        reasons = ", ".join(
            f"{count}x {reason}" for reason, count in Counter(skipped.values()).most_common(3)
        )
        raise ValueError(f"none of the {len(entries)} videos in {folder} can be used: {reasons}")
    return Videos(rgb=np.stack(videos), captions=captions, names=names, skipped=skipped)


def _frames(path: Path, fps: float | None) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Frames one after the other. Raises ValueError where they cannot be decoded."""
    if path.is_dir():
        from PIL import Image

        files = [file for file in path.iterdir() if file.suffix.lower() in FRAME_ENDINGS]
        for file in sorted(files, key=_number_by_number):
            try:
                with Image.open(file) as image:
                    frame = np.asarray(image.convert("RGB"))
            except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
                raise ValueError(f"frame {file.name} cannot be read ({type(error).__name__})") from None
            yield frame
        return
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("there is no video in it")
            stream = container.streams.video[0]
            step = _frames_per_frame(stream.average_rate or stream.guessed_rate, fps)
            wanted = 0.0
            for number, frame in enumerate(container.decode(stream)):
                if number == round(wanted):
                    yield frame.to_ndarray(format="rgb24")
                    wanted += step
    except av.FFmpegError as error:
        raise ValueError(f"it cannot be decoded ({(error.strerror or str(error)).lower()})") from None


def _frames_per_frame(rate: Fraction | None, fps: float | None) -> float:
    """How many frames of a file at `rate` there are for each one at `fps`, 1 at least.

    Raises:
        ValueError: there is less than one, beyond a tenth. Frames shown twice would teach that nothing moves.
    """
    if fps is None or not rate:
        return 1.0
    if rate < 0.9 * fps:
        raise ValueError(f"it has {float(rate):.4g} frames per second, must have {fps:.4g} or more")
    return max(1.0, float(rate) / fps)


def _number_by_number(path: Path) -> list[str | int]:
    """A key that sorts 10.png after 9.png."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def _clip(
    frames: Iterator[UInt8[np.ndarray, "h w 3"]], num_frames: int, height: int, width: int
) -> UInt8[np.ndarray, "frames height width 3"]:
    """The first frames in the wanted shape."""
    import cv2

    kept = []
    for frame in frames:
        rows, columns = frame.shape[:2]
        if rows < height or columns < width:
            raise ValueError(f"it is of {columns}x{rows} pixels, must be {width}x{height} or larger")
        scale = min(rows / height, columns / width)
        cut_rows, cut_columns = round(height * scale), round(width * scale)
        top, left = (rows - cut_rows) // 2, (columns - cut_columns) // 2
        cut = frame[top : top + cut_rows, left : left + cut_columns]
        kept.append(cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA))
        if len(kept) == num_frames:
            return np.stack(kept)
    raise ValueError(f"it has {len(kept)} frames, must have {num_frames}")


def _caption(video: Path) -> str:
    path = video.with_suffix(".txt")
    try:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
    except UnicodeDecodeError:
        raise ValueError(f"its caption {path.name} is no UTF-8 text") from None
