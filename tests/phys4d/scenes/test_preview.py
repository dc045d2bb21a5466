"""Previews: colours that mean directions, pictures that any viewer opens, a page with every category."""

import struct
import zlib
from html.parser import HTMLParser

import numpy as np

from phys4d.scenes.preview import motion_colors, page, png


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
