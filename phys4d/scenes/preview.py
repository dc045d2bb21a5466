"""A contact sheet of the families: `python -m phys4d.scenes.preview --out preview.png`.

Per scene four rows over time: RGB, depth (near is bright), motion (hue is direction, brightness is length)
and instance ids (white where the point is not seen in the next frame).
"""

import struct
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from phys4d.runtime.config import load
from phys4d.runtime.errors import run_main
from phys4d.runtime.files import atomic_write_bytes
from phys4d.runtime.threads import limit_threads
from phys4d.scenes.render import RenderConfig, family_names, render_sample


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """What to show."""

    out: Path = Path("preview.png")
    """Picture to write."""
    scenes: RenderConfig = field(default_factory=lambda: RenderConfig(num_samples=5))
    """As of `phys4d.scenes.render`; `scenes.num_samples` scenes are shown."""
    scale: int = 2
    """Picture pixels per video pixel."""


def motion_colors(motion: Float[np.ndarray, "*batch 3"], longest_px: float) -> UInt8[np.ndarray, "*batch 3"]:
    """Colours of image motion: hue is direction, brightness is length relative to `longest_px`."""
    angle = np.arctan2(motion[..., 1], motion[..., 0])
    length = np.clip(np.hypot(motion[..., 0], motion[..., 1]) / max(longest_px, 1e-6), 0, 1)
    hue = np.cos(angle[..., None] - np.radians([0.0, 120.0, 240.0]))
    return (255 * (0.5 + 0.5 * hue) * length[..., None]).astype(np.uint8)


def sheet_of(arrays: dict[str, np.ndarray]) -> UInt8[np.ndarray, "rows columns 3"]:
    """One sample's rows: RGB, depth, motion, ids; frames from left to right."""
    depth = arrays["depth"]
    low, high = np.nanmin(depth), np.nanmax(depth)
    near = np.nan_to_num(255 * (high - depth) / max(high - low, 1e-6)).astype(np.uint8)
    longest = float(np.abs(arrays["motion"][..., :2]).max())
    empty = np.zeros((1, *depth.shape[1:], 3), np.uint8)
    ids = arrays["object_ids"]
    angle = 2 * np.pi * ids / max(int(ids.max()) + 1, 2)
    instances = motion_colors(np.stack([np.cos(angle), np.sin(angle), angle], -1), 1.0) * (ids > 0)[..., None]
    again = np.concatenate([arrays["visible"], np.ones((1, *depth.shape[1:]), bool)])
    instances[again & (ids == 0)] = 40
    instances[~again] = 255
    rows = [
        arrays["rgb"],
        np.repeat(near[..., None], 3, axis=-1),
        np.concatenate([motion_colors(arrays["motion"], longest), empty]),
        instances,
    ]
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def png(picture: UInt8[np.ndarray, "height width 3"]) -> bytes:
    """A picture as PNG."""
    height, width, _ = picture.shape
    lines = np.concatenate([np.zeros((height, 1), np.uint8), picture.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(lines.tobytes()))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def main() -> None:
    """Entry point."""
    limit_threads(1)
    config = load(PreviewConfig)
    names, rejected = family_names(config.scenes), Counter()
    sheets = []
    for number in range(config.scenes.num_samples):
        sample = render_sample(config.scenes, names, number, rejected)
        print(sample["metadata"]["caption"])
        sheets.append(sheet_of(sample["arrays"]))
    picture = np.concatenate(sheets).repeat(config.scale, axis=0).repeat(config.scale, axis=1)
    atomic_write_bytes(config.out, png(picture))
    print(f"wrote {config.out}")


if __name__ == "__main__":
    run_main(main)
