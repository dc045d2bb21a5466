"""Videos with their depth and motion as pictures: an mp4 with panels side by side, and a sheet of frames."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from phys4d.report.videos import Video, colour_depth, colour_motion, depth_range, motion_scale
from phys4d.runtime.files import atomic_write_bytes

SIDE = 224
"""Pixels that the longer side of a small video is enlarged to, as near as whole factors come."""
MARGIN, LABEL = 4, 16
SHEET_FRAMES = 9


@dataclass(frozen=True, eq=False)
class Panel:
    """One picture in time."""

    label: str
    frames: UInt8[np.ndarray, "frames height width 3"]


def panels(
    video: Video, truth: Video | None, names: tuple[str, str] = ("generated", "simulated")
) -> list[list[Panel]]:
    """RGB, depth and motion in a row, as far as they are there; the simulator's in a second row.

    Both rows have the simulator's colour scales, or the video's own if there is no simulator.
    """
    scale = [v for v in (truth, video) if v is not None]
    low, high = depth_range(scale)
    longest = motion_scale(scale)
    rows = [(names[0], video)] + ([(names[1], truth)] if truth is not None else [])
    shown = []
    for name, part in rows:
        assert part.rgb is not None, "a video to show has frames"
        row = [Panel(name, part.rgb)]
        if part.depth is not None:
            label = f"depth, {low:.2g} to {high:.2g} m"
            row.append(Panel(label, colour_depth(part.depth, low, high)))
        if part.motion is not None:
            # The last frame moves nowhere.
            motion = np.concatenate([part.motion, np.zeros_like(part.motion[:1])])
            row.append(Panel(f"motion, up to {longest:.2g} px", colour_motion(motion, longest)))
        shown.append(row)
    return shown


def write_mp4(path: Path, rows: list[list[Panel]], *, fps: float, title: str) -> Path:
    """Rows below one another, panels side by side, H.264."""
    num_frames = len(rows[0][0].frames)
    pictures = [
        _page([[(panel.label, panel.frames[t]) for panel in row] for row in rows], title)
        for t in range(num_frames)
    ]
    height, width = (length - length % 2 for length in pictures[0].shape[:2])
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(fps), options={"crf": "14"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    atomic_write_bytes(path, buffer.getvalue())
    return path


def write_sheet(path: Path, rows: list[list[Panel]], *, title: str) -> Path:
    """A row for each panel, with up to nine frames from the first to the last."""
    num_frames = len(rows[0][0].frames)
    chosen = np.unique(np.linspace(0, num_frames - 1, min(SHEET_FRAMES, num_frames)).round().astype(int))
    # Generated and simulated of a kind lie below one another.
    ordered = [row[k] for k in range(max(map(len, rows))) for row in rows if k < len(row)]
    names = {id(panel): row[0].label for row in rows for panel in row}
    cells = []
    for panel in ordered:
        name = names[id(panel)]
        label = name if panel.label == name else f"{name} {panel.label}"
        labels = [label, *(f"frame {t}" if not cells else "" for t in chosen[1:])]
        cells.append([(text, panel.frames[t]) for text, t in zip(labels, chosen, strict=True)])
    buffer = io.BytesIO()
    Image.fromarray(_page(cells, title, side=SIDE // 2)).save(buffer, "PNG", optimize=True)
    atomic_write_bytes(path, buffer.getvalue())
    return path


def _page(
    cells: list[list[tuple[str, UInt8[np.ndarray, "height width 3"]]]], title: str, side: int = SIDE
) -> UInt8[np.ndarray, "page_height page_width 3"]:
    """Pictures in rows on dark ground, each under its label."""
    height, width = cells[0][0][1].shape[:2]
    factor = max(1, round(side / max(height, width)))
    step_y, step_x = height * factor + LABEL + MARGIN, width * factor + MARGIN
    columns = max(map(len, cells))
    page = Image.new("RGB", (MARGIN + columns * step_x, LABEL + MARGIN + len(cells) * step_y), (24, 24, 27))
    draw = ImageDraw.Draw(page)
    draw.text((MARGIN, 3), title, fill=(244, 244, 245))
    for r, row in enumerate(cells):
        for c, (label, picture) in enumerate(row):
            x, y = MARGIN + c * step_x, LABEL + MARGIN + r * step_y
            draw.text((x, y), label, fill=(161, 161, 170))
            enlarged = picture.repeat(factor, 0).repeat(factor, 1)
            page.paste(Image.fromarray(enlarged), (x, y + LABEL))
    return np.asarray(page)
