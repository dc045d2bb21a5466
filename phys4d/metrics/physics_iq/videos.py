"""Benchmark clips on disk: mp4 files of a constant frame rate, 5 s long, read frame by frame or refused.

The official tool resizes, truncates or skips what does not fit, and the score looks as good as any other.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from jaxtyping import UInt8

CLIP_S = 5
MIN_SIDE = 16
MAX_TIMESTAMP_ERROR = 0.1
"""A frame may come this share of a frame's duration early or late: what a container's clock rounds off."""


class ClipError(ValueError):
    """A clip that cannot be scored; the message begins with the file."""


def num_frames(fps: int) -> int:
    """Frames of a clip."""
    return CLIP_S * fps


def inspect_clip(path: Path, fps: int) -> tuple[int, int]:
    """Check a file's format, size, frame rate and length without decoding; returns (width, height).

    Raises:
        ClipError: names the file, the value and the rule.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        size, clock_s = _check_header(path, stream)
        # The last packet of a demuxer is empty.
        times = [p.pts for p in container.demux(stream) if p.size]
    if None in times:
        raise ClipError(f"{path} has no time stamp at frame {times.index(None)}; write it into an mp4 anew")
    _check_times(path, np.sort(times) * clock_s, clock_s, fps)
    return size


def read_frames(
    path: Path, fps: int, count: int | None = None
) -> Iterator[UInt8[np.ndarray, "height width 3"]]:
    """Decode a clip; BGR frames, bit for bit those of OpenCV's reader.

    Args:
        count: frames that the file must have; None is 5 s.

    Raises:
        ClipError: as `inspect_clip`; or the file is corrupt, rotated by its metadata, or shows no colour in
            any frame. What only the whole file tells is raised after the last frame.
    """
    times, coloured, to_bgr = [], False, VideoReformatter()
    with _opened(path) as container:
        stream = container.streams.video[0]
        _, clock_s = _check_header(path, stream)
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise ClipError(f"{path} is corrupt at frame {len(times)}; make or download it again")
            if frame.rotation:
                raise ClipError(
                    f"{path} is turned by {frame.rotation} degrees in its metadata; turn the pixels"
                )
            image = to_bgr.reformat(frame, format="bgr24").to_ndarray()
            if not coloured:
                coloured = bool(
                    (image[..., 0] != image[..., 1]).any() or (image[..., 1] != image[..., 2]).any()
                )
            if frame.pts is None:
                raise ClipError(f"{path} has no time stamp at frame {len(times)}; write it into an mp4 anew")
            times.append(frame.pts)
            yield image
    _check_times(path, np.asarray(times) * clock_s, clock_s, fps, count)
    if not coloured:
        raise ClipError(f"{path} is grey: no pixel of any frame has a colour; was it written as RGB?")


def _check_header(path: Path, stream: av.VideoStream) -> tuple[tuple[int, int], float]:
    """Returns (width, height) and the length of a tick of the file's clock in seconds."""
    pixels = stream.codec_context.format
    if pixels is None:
        raise ClipError(f"{path} is corrupt: its pixel format is not known")
    if any(component.is_alpha for component in pixels.components):
        raise ClipError(f"{path} has an alpha channel ({pixels.name}); encode it as yuv420p")
    if len(pixels.components) < 3:
        raise ClipError(f"{path} is grey ({pixels.name}); encode it in colour, e.g. as yuv420p")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width % 2 or height % 2 or min(width, height) < MIN_SIDE:
        raise ClipError(
            f"{path} is of {width}x{height} pixels; both sides must be even and at least {MIN_SIDE}"
        )
    return (width, height), float(stream.time_base or 0)


def _check_times(
    path: Path, times_s: np.ndarray, clock_s: float, fps: int, expected: int | None = None
) -> None:
    count, expected = len(times_s), expected or num_frames(fps)
    length = f"{expected / fps:g} s"
    if count < 2:
        raise ClipError(
            f"{path} has {count} frame{'' if count == 1 else 's'}, must have {expected} ({length})"
        )
    gaps = np.diff(times_s)
    rate = (count - 1) / (times_s[-1] - times_s[0]) if times_s[-1] > times_s[0] else float("inf")
    if np.ptp(gaps) > 2 * min(clock_s, MAX_TIMESTAMP_ERROR / rate) + 1e-9:
        raise ClipError(
            f"{path} has a variable frame rate (frames last {1e3 * gaps.min():.3g} to "
            f"{1e3 * gaps.max():.3g} ms); encode it at a constant {fps} fps"
        )
    # 1 ms over the whole clip, and what the clock rounds off at its ends.
    if abs((count - 1) / fps - (times_s[-1] - times_s[0])) > 1e-3 + clock_s * (clock_s < 5e-3):
        raise ClipError(
            f"{path} runs at {rate:.6g} fps, must run at {fps}; scores do not compare across rates"
        )
    if count != expected:
        raise ClipError(f"{path} has {count} frames, must have {expected} ({length} at {fps} fps)")


@contextmanager
def _opened(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ClipError(f"{path} has no video in it")
            yield container
    except av.FFmpegError as error:
        reason = (error.strerror or str(error)).lower()
        raise ClipError(f"{path} is corrupt ({reason}); make or download it again") from None
