"""Scoring videos by Physics-IQ."""

import importlib.metadata
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.registry import Work, compare

WIDTH, HEIGHT, FPS = 512, 288, 8


@compare(
    "Physics-IQ, a view of 512x288, 5 s at 8 fps",
    peer=f"OpenCV {importlib.metadata.version('opencv-python-headless')}, float frames one by one",
)
def one_view() -> tuple[Work, Work]:
    """Three mp4 files: two takes and a generated video. A run of the benchmark is 198 of these."""
    import cv2

    from phys4d.metrics.physics_iq.agreement import agreement
    from phys4d.metrics.physics_iq.clips import read_clip

    cv2.setNumThreads(1)
    folder = tempfile.TemporaryDirectory(prefix="physics-iq-")
    paths = [_write(Path(folder.name) / f"{lag}.mp4", lag) for lag in range(3)]

    def ours() -> object:
        take_1 = read_clip(paths[0], FPS)
        shrunk = (take_1.bgr.shape[2], take_1.bgr.shape[1])
        found = [agreement(take_1, read_clip(path, FPS, shrunk)) for path in paths[1:]]
        return [[f.mean_mse, f.mean_st_iou, f.s_iou, f.ws_iou] for f in found]

    def theirs() -> object:
        take_1, *others = (_frames_and_masks(path) for path in paths)
        return [_metrics(*take_1, *other) for other in others]

    # The files live as long as the work does.
    ours.folder = theirs.folder = folder  # type: ignore[attr-defined]
    return ours, theirs


def _write(path: Path, lag: int) -> Path:
    import av

    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    grain = np.random.default_rng(0).integers(0, 24, (HEIGHT, WIDTH, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for t in range(5 * FPS):
            inside = np.hypot(columns - 60 - 10 * t + 4 * lag, rows - 60 - 0.1 * t * t) < 30
            frame = np.where(inside[..., None], [240, 210, 40], 100 + grain).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def _frames_and_masks(path: Path) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Float frames and 0/1 masks at a quarter of the resolution, as the benchmark's tool holds them."""
    import cv2

    reader = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
    frames, masks, average, kernel = [], [], None, np.ones((5, 5), np.uint8)
    while True:
        found, frame = reader.read()
        if not found:
            return frames, masks
        grey = cv2.GaussianBlur(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), (5, 5), 0)
        mask = np.zeros_like(grey)
        if average is None:
            average = grey.astype(float)
        else:
            cv2.accumulateWeighted(grey, average, 0.3)
            difference = cv2.absdiff(grey, cv2.convertScaleAbs(average))
            mask = cv2.threshold(difference, 10, 255, cv2.THRESH_BINARY)[1]
            mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
            mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel)
        coloured = cv2.resize(cv2.cvtColor(mask, cv2.COLOR_GRAY2BGR), (WIDTH // 4, HEIGHT // 4))
        masks.append((coloured > 127).astype(np.uint8))
        frames.append(cv2.resize(frame, (WIDTH // 4, HEIGHT // 4)) / 255.0)


def _metrics(
    frames_a: Sequence[np.ndarray],
    masks_a: Sequence[np.ndarray],
    frames_b: Sequence[np.ndarray],
    masks_b: Sequence[np.ndarray],
) -> list[float]:
    def iou(a: np.ndarray, b: np.ndarray) -> float:
        union = np.logical_or(a, b).sum()
        return np.logical_and(a, b).sum() / union if union else 1.0

    mse = [
        round(float(np.mean((a.astype(np.float32) - b.astype(np.float32)) ** 2)), 4)
        for a, b in zip(frames_a, frames_b, strict=True)
    ]
    st_iou = [round(float(iou(a, b)), 4) for a, b in zip(masks_a, masks_b, strict=True)]
    share_a, share_b = np.mean(masks_a, axis=0), np.mean(masks_b, axis=0)
    ws_iou = np.minimum(share_a, share_b).sum() / np.maximum(share_a, share_b).sum()
    s_iou = iou(np.max(masks_a, axis=0), np.max(masks_b, axis=0))
    return [float(np.mean(mse)), float(np.mean(st_iou)), s_iou, float(ws_iou)]
