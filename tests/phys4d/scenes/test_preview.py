"""Previews: colours that mean directions, pictures that any viewer opens, a page with every category."""

import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from phys4d.scenes import preview
from phys4d.scenes.preview import draw_tracks, line_of, motion_colors, page, png


def test_opposite_motions_have_opposite_colours_and_stillness_is_black() -> None:
    right, left, still = motion_colors(np.array([[2.0, 0, 0], [-2.0, 0, 0], [0, 0, 0]]), 2.0).astype(int)
    assert right[0] == 255 and left[0] == 0
    assert np.abs(right + left - 255).max() <= 1
    assert not still.any()


def test_a_png_holds_the_pixels_it_was_given() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    data = png(picture)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (7, 5)
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    lines = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8).reshape(5, 22)
    assert not lines[:, 0].any()
    assert np.array_equal(lines[:, 1:].reshape(5, 7, 3), picture)


def _arrays() -> dict[str, np.ndarray]:
    """Three frames of 4 x 5 pixels in which the pixel of one object goes right along the second row."""
    ids = np.zeros((3, 4, 5), np.uint8)
    tracks = np.zeros((3, 1, 3), np.float32)
    for frame in range(3):
        ids[frame, 1, frame] = 1
        tracks[frame, 0] = (frame + 0.5, 1.5, 2.0)
    motion = np.zeros((2, 4, 5, 3), np.float32)
    motion[ids[:-1] == 1, 0] = 1.0
    depth = np.full(ids.shape, 3.0, np.float32)
    depth[ids == 1] = 2.0
    depth[:, 3] = np.nan
    return {
        "rgb": np.repeat(30 * ids[..., None] + np.uint8(90), 3, axis=-1),
        "depth": depth,
        "motion": motion,
        "object_ids": ids,
        "visible": (ids[:-1] == 1) | (depth[:-1] == 3.0),
        "normal": np.broadcast_to(np.array([0, 0, -1], np.float16), (*ids.shape, 3)),
        "tracks": tracks,
        "tracks_visible": np.array([[True], [False], [True]]),
    }


def test_a_line_shows_the_object_in_every_picture() -> None:
    """Four pictures of RGB, then depth, motion, instances, normals and tracks of the middle frame."""
    pictures = line_of(_arrays()).reshape(4, 9, 5, 3).transpose(1, 0, 2, 3).astype(int)
    rgb, depth, motion, instances, normals = (pictures[i] for i in (3, 4, 5, 6, 7))
    assert np.argwhere(rgb[..., 0] == 120).tolist() == [[1, 2]]
    assert np.argwhere(depth[..., 0] == 255).tolist() == [[1, 1]]
    assert np.argwhere(motion.any(-1)).tolist() == [[1, 1]]
    assert motion[1, 1, 0] == 255
    # What has no surface is not seen in the next frame: white; towards the viewer is blue.
    assert (instances[3] == 255).all() and (instances[0] == 40).all()
    assert (normals == (127, 127, 255)).all()


def test_tracks_are_drawn_where_the_point_was_seen() -> None:
    """Seen at frames 0 and 2, hidden at 1, over the picture at a third of its brightness."""
    picture = draw_tracks(_arrays(), 2)
    coloured = (picture != picture[..., :1]).any(-1)
    assert np.argwhere(coloured).tolist() == [[1, 0], [1, 2]]
    assert (picture[0] == 30).all()


def test_the_program_draws_a_sheet_and_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ["--scenes.category", "rigid", "--scenes.families", "drop", "--scenes.num-frames", "3"]
    flags += ["--scenes.width", "16", "--scenes.height", "16", "--scenes.supersampling", "1"]
    monkeypatch.setattr("sys.argv", ["preview", "--out", str(tmp_path), *flags])
    preview.main()
    assert (tmp_path / "rigid.txt").read_text().startswith("drop : ")
    assert 'src="rigid.png"' in (tmp_path / "index.html").read_text()
    # Nine pictures of 16 x 16 pixels, twice as large.
    assert struct.unpack(">II", (tmp_path / "rigid.png").read_bytes()[16:24]) == (288, 32)


def test_the_page_shows_every_category_with_its_captions() -> None:
    shown: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            shown.extend(str(value) for name, value in attrs if tag == "img" and name == "src")

        def handle_data(self, data: str) -> None:
            shown.append(data)

    Reader().feed(page({"ropes": ["swing : a < b"], "fluids": ["pour"]}))
    assert [text for text in shown if text.endswith(".png")] == ["ropes.png", "fluids.png"]
    assert "swing : a < b" in shown and "pour" in shown
