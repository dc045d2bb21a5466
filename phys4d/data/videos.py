"""A folder of videos of any origin: files that PyAV reads, or folders of frames."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
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
    folder: Path, *, num_frames: int, height: int, width: int, limit: int | None = None
) -> Videos:
    """Read the first `num_frames` frames of every video of a folder, cut about the centre and averaged down.

    Entries are files ending in .mp4, .webm, .mov, .mkv or .avi, and folders of .png or .jpg frames, which are
    taken in the order of their names. A video that cannot be read, or is too short or too small, is named on
    stderr, skipped and counted.

    Args:
        limit: stop after so many good videos.

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
    videos, names, skipped = [], [], {}
    for path in progress(entries, desc="reading videos", unit="video"):
        if limit is not None and len(videos) == limit:
            break
        try:
            videos.append(_clip(_frames(path), num_frames, height, width))
            names.append(path.name)
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
    captions = [_caption(folder / name) for name in names]
    return Videos(rgb=np.stack(videos), captions=captions, names=names, skipped=skipped)


def _frames(path: Path) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Frames one after the other. Raises ValueError where they cannot be decoded."""
    if path.is_dir():
        from PIL import Image, UnidentifiedImageError

        files = sorted(file for file in path.iterdir() if file.suffix.lower() in FRAME_ENDINGS)
        for file in files:
            try:
                with Image.open(file) as image:
                    yield np.asarray(image.convert("RGB"))
            except (UnidentifiedImageError, OSError) as error:
                raise ValueError(f"frame {file.name} cannot be read ({type(error).__name__})") from None
        return
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError("there is no video in it")
            for frame in container.decode(container.streams.video[0]):
                yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise ValueError(f"it cannot be decoded ({(error.strerror or str(error)).lower()})") from None


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
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
