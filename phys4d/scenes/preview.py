"""A contact sheet of each category and a page with all of them: `python -m phys4d.scenes.preview`.

Each line is a scene: RGB at four times, then of the middle frame depth (near is bright), motion (hue is
direction, brightness is length), instance ids (white where the point is not seen in the next frame), normals,
and point tracks up to there over the picture.
"""

import html
import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from phys4d.runtime.config import load
from phys4d.runtime.errors import run_main
from phys4d.runtime.files import atomic_write_bytes, atomic_write_text
from phys4d.runtime.progress import progress
from phys4d.runtime.threads import limit_threads
from phys4d.scenes.render_config import RenderConfig, family_names
from phys4d.scenes.sample import render_sample


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """What to show."""

    out: Path = Path("preview")
    """Folder for `CATEGORY.png`, `CATEGORY.txt` (its captions from top to bottom) and `index.html`."""
    scenes: RenderConfig = field(
        default_factory=lambda: RenderConfig(
            category="all",
            annotations="full",
            num_samples=1,
            num_frames=25,
            width=96,
            height=96,
            points_per_object=24,
        )
    )
    """As of `phys4d.scenes.render`; `scenes.num_samples` scenes of each family are shown, of 2 s each: smoke
    and melting wax begin slowly."""
    scale: int = 2
    """Picture pixels per video pixel."""

    def __post_init__(self) -> None:
        if not 1 <= self.scale <= 8:
            raise ValueError(f"scale must be in 1 to 8, got {self.scale}")


def motion_colors(motion: Float[np.ndarray, "*batch 3"], longest_px: float) -> UInt8[np.ndarray, "*batch 3"]:
    """Colours of image motion: hue is direction, brightness is length relative to `longest_px`."""
    angle = np.arctan2(motion[..., 1], motion[..., 0])
    length = np.clip(np.hypot(motion[..., 0], motion[..., 1]) / max(longest_px, 1e-6), 0, 1)
    hue = np.cos(angle[..., None] - np.radians([0.0, 120.0, 240.0]))
    return (255 * (0.5 + 0.5 * hue) * length[..., None]).astype(np.uint8)


def instance_colors(ids: UInt8[np.ndarray, "*batch"]) -> UInt8[np.ndarray, "*batch 3"]:
    """A colour for each instance, dark grey for 0."""
    angle = 2 * np.pi * ids / max(int(ids.max(initial=0)) + 1, 2)
    colors = motion_colors(np.stack([np.cos(angle), np.sin(angle), angle], -1), 1.0)
    colors[ids == 0] = 40
    return colors


def line_of(arrays: dict[str, np.ndarray]) -> UInt8[np.ndarray, "rows columns 3"]:
    """One sample's line of pictures."""
    num_frames = len(arrays["rgb"])
    middle = (num_frames - 1) // 2
    pictures = [arrays["rgb"][frame] for frame in np.linspace(0, num_frames - 1, 4).astype(int)]
    depth = arrays["depth"]
    low, high = np.nanmin(depth), np.nanmax(depth)
    near = np.nan_to_num(255 * (high - depth[middle]) / max(high - low, 1e-6)).astype(np.uint8)
    pictures.append(np.repeat(near[..., None], 3, axis=-1))
    longest = float(np.abs(arrays["motion"][..., :2]).max())
    pictures.append(motion_colors(arrays["motion"][middle], longest))
    instances = instance_colors(arrays["object_ids"][middle])
    instances[~arrays["visible"][middle]] = 255
    pictures.append(instances)
    if "normal" in arrays:
        # As in most papers: x right, y up and z towards the viewer, from -1 to 1, are red, green and blue.
        facing = arrays["normal"][middle].astype(np.float64) * (1, -1, -1)
        pictures.append((127.5 * (1 + facing)).clip(0, 255).astype(np.uint8))
    if "tracks" in arrays:
        pictures.append(draw_tracks(arrays, middle))
    return np.concatenate(pictures, axis=1)


def draw_tracks(arrays: dict[str, np.ndarray], last: int) -> UInt8[np.ndarray, "height width 3"]:
    """Where the tracked points were seen up to a frame, over that frame darkened; a colour for each point."""
    picture = arrays["rgb"][last] // 3
    height, width = picture.shape[:2]
    angle = 2.4 * np.arange(arrays["tracks"].shape[1])
    colors = motion_colors(np.stack([np.cos(angle), np.sin(angle), angle], -1), 1.0)
    for frame in range(last + 1):
        shown = np.flatnonzero(arrays["tracks_visible"][frame])
        columns, rows = np.floor(arrays["tracks"][frame, shown, :2]).astype(int).T
        picture[rows.clip(0, height - 1), columns.clip(0, width - 1)] = colors[shown]
    return picture


def png(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A picture as PNG."""
    height, width, _ = picture.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(lines.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Simulated scenes</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1500px; padding: 0 1rem; }}
  img {{ width: 100%; height: auto; image-rendering: pixelated; }}
  li {{ color: #444; }}
</style>
<h1>Simulated scenes</h1>
<p>A line is a scene: {columns}.</p>
{sections}
</html>
"""
COLUMNS = (
    "RGB at four times; then, of the middle frame, depth (near is bright), motion (hue is direction, "
    "brightness is length), instances (white: not seen in the next frame), normals (x right, y up and z "
    "towards the viewer are red, green and blue), and the tracks of points up to there"
)


def page(captions: Mapping[str, Sequence[str]]) -> str:
    """HTML that shows each category's sheet, `CATEGORY.png` beside it, and its captions."""
    sections = [
        f'<h2 id="{category}">{category}</h2>\n<img src="{category}.png" alt="Scenes of {category}">\n<ol>'
        + "".join(f"<li>{html.escape(line)}</li>" for line in lines)
        + "</ol>"
        for category, lines in captions.items()
    ]
    return PAGE.format(columns=COLUMNS, sections="\n".join(sections))


def main() -> None:
    """Entry point."""
    limit_threads(1)
    config = load(PreviewConfig)
    scenes, rejected = config.scenes, Counter()
    told: dict[str, list[str]] = {}
    names: dict[str, list[str]] = {}
    for name in family_names(scenes):
        names.setdefault(name.rpartition("/")[0] or scenes.category, []).append(name)
    total = scenes.num_samples * sum(map(len, names.values()))
    bar = progress(total=total, desc="drawing previews", unit="scene")
    for category, mine in names.items():
        lines, captions = [], told.setdefault(category, [])
        for name in mine:
            for number in range(scenes.num_samples):
                # One sample of one family, whose seed grows with the number.
                one = replace(scenes, seed_start=scenes.seed_start + number)
                sample = render_sample(one, [name], 0, rejected)
                lines.append(line_of(sample["arrays"]))
                captions.append(sample["metadata"]["caption"])
                bar.update(1)
        picture = np.concatenate(lines).repeat(config.scale, axis=0).repeat(config.scale, axis=1)
        atomic_write_bytes(config.out / f"{category}.png", png(picture))
        atomic_write_text(config.out / f"{category}.txt", "\n".join(captions) + "\n")
        # After each category, so that there is something to look at soon.
        atomic_write_text(config.out / "index.html", page(told))
    bar.close()
    print(f"wrote {config.out / 'index.html'}")
    refused = ", ".join(f"{count} {reason}" for reason, count in sorted(rejected.items())) or "none"
    print(f"draws refused: {refused}")


if __name__ == "__main__":
    run_main(main)
