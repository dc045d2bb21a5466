"""Pictures of videos: what is in them and where."""

from pathlib import Path

import av
import numpy as np
from PIL import Image

from phys4d.report.videos import Video
from policy.film import LABEL, MARGIN, panels, write_mp4, write_sheet


def video(colour: tuple[int, int, int], *, geometry: bool = True) -> Video:
    rgb = np.broadcast_to(np.uint8(colour), (5, 24, 32, 3)).copy()
    if not geometry:
        return Video(rgb=rgb)
    depth = np.linspace(1.0, 3.0, 32, dtype=np.float32) * np.ones((5, 24, 1), np.float32)
    return Video(rgb=rgb, depth=depth, motion=np.ones((4, 24, 32, 3), np.float32))


def test_generated_and_simulated_are_shown_on_one_scale_and_missing_parts_are_left_out() -> None:
    rows = panels(video((200, 0, 0)), video((0, 0, 200)))
    assert [[panel.label.split(",")[0] for panel in row] for row in rows] == [
        ["generated", "depth", "motion"],
        ["simulated", "depth", "motion"],
    ]
    assert rows[0][1].label == rows[1][1].label
    assert all(panel.frames.shape == (5, 24, 32, 3) for row in rows for panel in row)
    assert [panel.label for panel in panels(video((9, 9, 9), geometry=False), None)[0]] == ["generated"]


def test_an_mp4_has_every_frame_at_its_rate_with_the_panels_side_by_side(tmp_path: Path) -> None:
    path = write_mp4(
        tmp_path / "a.mp4", panels(video((200, 0, 0)), video((0, 0, 200))), fps=12.0, title="a ball"
    )
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 12
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(frames) == 5
    # Seven-fold pictures of 24 x 32, two rows of three.
    height, width = 24 * 7, 32 * 7
    assert abs(frames[0].shape[1] - (MARGIN + 3 * (width + MARGIN))) <= 1
    top = LABEL + MARGIN + LABEL + height // 2
    red, blue = (
        frames[2][top, MARGIN + width // 2],
        frames[2][top + height + LABEL + MARGIN, MARGIN + width // 2],
    )
    np.testing.assert_allclose(red, (200, 0, 0), atol=12)
    np.testing.assert_allclose(blue, (0, 0, 200), atol=12)


def test_a_sheet_has_a_row_for_each_panel(tmp_path: Path) -> None:
    path = write_sheet(tmp_path / "a.png", panels(video((200, 0, 0)), None), title="a ball")
    with Image.open(path) as image:
        pixels = np.asarray(image)
    height, width = 24 * round(112 / 32), 32 * round(112 / 32)
    assert pixels.shape[0] == LABEL + MARGIN + 3 * (height + LABEL + MARGIN)
    assert pixels.shape[1] == MARGIN + 5 * (width + MARGIN)
    assert tuple(pixels[LABEL + MARGIN + LABEL + 5, MARGIN + 5]) == (200, 0, 0)
