"""Conformance clips, painted here: a coloured ball over a coloured wall, in the benchmark's folders."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

VIEWS = ("perspective-left", "perspective-center", "perspective-right")
SCENARIOS = ("trimmed-ball-falls", "trimmed-ball-rolls")
FPS = 8
WIDTH, HEIGHT = 128, 96
Motion = Callable[[np.ndarray], np.ndarray]


def path_of(scenario: int, view: int, take: int) -> Motion:
    """Place (x, y) of the ball as a share of width and height at times in seconds; takes differ a little."""

    def place(t: np.ndarray) -> np.ndarray:
        slip = 0.02 * (take - 1) * np.sin(t + view)
        if scenario == 0:
            y = 0.15 + np.minimum(0.08 * t**2, 0.6)
            return np.stack([0.3 + 0.2 * view + slip, y + slip], -1)
        return np.stack([0.1 + 0.16 * t + slip, 0.5 + 0.1 * view + 0 * t], -1)

    return place


def paint(motion: Motion, *, fps: int = FPS, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    """RGB frames (T, H, W, 3) of 5 s."""
    width, height = size
    rows, columns = np.mgrid[:height, :width] + 0.5
    wall = np.stack([90 + 50 * columns / width, 110 + 40 * rows / height, 120 + 0 * rows], -1)
    frames = []
    for x, y in motion(np.arange(5 * fps) / fps):
        distance = np.hypot(columns - x * width, rows - y * height)
        cover = np.clip(height / 8 - distance, 0, 1)[..., None]
        frames.append(np.round((1 - cover) * wall + cover * np.array([250.0, 210.0, 40.0])))
    return np.stack(frames).astype(np.uint8)


def write_mp4(
    path: Path,
    frames: np.ndarray,
    *,
    fps: int = FPS,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times_ms: np.ndarray | None = None,
    container_format: str | None = None,
) -> Path:
    """Encode RGB, RGBA or grey frames."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = {3: "gray"}.get(frames.ndim) or {3: "rgb24", 4: "rgba"}[frames.shape[-1]]
    with av.open(str(path), "w", format=container_format) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pixels
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "threads": "1"}
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format=channels)
            if times_ms is not None:
                picture.pts, picture.time_base = int(times_ms[number]), Fraction(1, 1000)
                stream.codec_context.time_base = Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def real_name(scenario: int, view: int, take: int, fps: int = FPS) -> str:
    number = 1 + 3 * scenario + view + 198 * (take - 1)
    return f"{number:04d}_testing-videos_{fps}FPS_{VIEWS[view]}_take-{take}_{SCENARIOS[scenario]}.mp4"


def generated_name(scenario: int, view: int) -> str:
    return f"{1 + 3 * scenario + view:04d}_{VIEWS[view]}_{SCENARIOS[scenario]}.mp4"


CELLS = [(scenario, view) for scenario in range(len(SCENARIOS)) for view in range(len(VIEWS))]


def write_benchmark(folder: Path) -> Path:
    """A testing folder of two scenarios."""
    for scenario, view in CELLS:
        for take in (1, 2):
            write_mp4(folder / real_name(scenario, view, take), paint(path_of(scenario, view, take)))
    return folder


def write_generated(folder: Path, motion: Callable[[int, int], Motion], **options) -> Path:
    """A folder of generated videos whose ball moves as `motion(scenario, view)`."""
    for scenario, view in CELLS:
        write_mp4(folder / generated_name(scenario, view), paint(motion(scenario, view), **options))
    return folder
