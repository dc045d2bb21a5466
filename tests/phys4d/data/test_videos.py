"""Folders of videos of any origin: what is read, and what is named, skipped and counted."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from phys4d.data.videos import read_videos


def frame(number: int, height: int = 48, width: int = 96) -> np.ndarray:
    """Grey that says the frame's number, with a white left third."""
    image = np.full((height, width, 3), 20 * number, np.uint8)
    image[:, : width // 3] = 255
    return image


def write_video(path: Path, num_frames: int, codec: str = "mpeg4", rate: int = 12, **size: int) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size.get("width", 96), size.get("height", 48)
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for number in range(num_frames):
            picture = av.VideoFrame.from_ndarray(frame(number, stream.height, stream.width), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def test_good_videos_are_cut_to_one_shape_and_bad_ones_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_video(tmp_path / "a.mp4", 6)
    write_video(tmp_path / "b.webm", 6, codec="libvpx")
    (tmp_path / "c").mkdir()
    for number in range(5):
        Image.fromarray(frame(number)).save(tmp_path / "c" / f"{number:03d}.png")
    write_video(tmp_path / "short.mp4", 2)
    write_video(tmp_path / "small.mp4", 6, width=32, height=16)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "a.txt").write_text("a white bar\n")
    (tmp_path / "notes.md").write_text("not a video")
    found = read_videos(tmp_path, num_frames=4, height=24, width=24)
    assert found.rgb.shape == (3, 4, 24, 24, 3)
    assert found.names == ["a.mp4", "b.webm", "c"] and found.captions == ["a white bar", "", ""]
    assert found.skipped.keys() == {"broken.mp4", "short.mp4", "small.mp4"}
    assert found.skipped["short.mp4"] == "it has 2 frames, must have 4"
    assert found.skipped["small.mp4"] == "it is of 32x16 pixels, must be 24x24 or larger"
    assert "cannot be decoded" in found.skipped["broken.mp4"]
    complaint = capsys.readouterr().err
    assert "skipping" in complaint and "skipped 3 of 6 videos" in complaint
    # The middle 48 x 48 of 96 x 48, so the white third ends 8 source pixels, 4 of ours, from the left.
    for video in found.rgb:
        assert np.abs(video[:, 12, 2].astype(int) - 255).max() < 12
        assert np.abs(video[:, 12, 12, 0].astype(int) - [0, 20, 40, 60]).max() < 12


def test_a_folder_without_a_usable_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no dataset, no .mp4"):
        read_videos(tmp_path, num_frames=4, height=24, width=24)
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"none of the 1 videos in .* can be used: 1x it cannot be decoded"):
        read_videos(tmp_path, num_frames=4, height=24, width=24)


def test_videos_are_taken_at_one_frame_rate(tmp_path: Path) -> None:
    """A video shown too fast or too slow would have its motion learnt wrong."""
    write_video(tmp_path / "30.mp4", 10, rate=30)
    write_video(tmp_path / "slow.mp4", 10, rate=8)
    write_video(tmp_path / "twelve.mp4", 10)
    found = read_videos(tmp_path, num_frames=4, height=24, width=24, fps=12.0)
    assert found.names == ["30.mp4", "twelve.mp4"]
    # Every 2.5th frame, and every one.
    for video, numbers in zip(found.rgb, ([0, 2, 5, 8], [0, 1, 2, 3]), strict=True):
        assert np.abs(video[:, 12, 20, 0].astype(int) - 20 * np.array(numbers)).max() < 12
    assert found.skipped == {"slow.mp4": "it has 8 frames per second, must have 12 or more"}


def test_one_bad_video_of_a_user_does_not_end_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("caption", "good", "huge", "long"):
        (tmp_path / name).mkdir()
        for number in range(12):
            image = frame(number, 480, 960) if name == "huge" else frame(number)
            Image.fromarray(image).save(tmp_path / name / f"{number}.png")
    (tmp_path / "caption.txt").write_bytes(b"\xff\xfe caption")
    (tmp_path / "long.txt").write_text("a ball " * 90)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 48)

    def short(caption: str) -> None:
        if len(caption) > 100:
            raise ValueError("its caption is too long")

    found = read_videos(tmp_path, num_frames=12, height=24, width=24, check_caption=short)
    assert found.names == ["good"]
    assert found.skipped == {
        "caption": "its caption caption.txt is no UTF-8 text",
        "huge": "frame 0.png cannot be read (DecompressionBombError)",
        "long": "its caption is too long",
    }
    assert np.abs(found.rgb[0, :, 12, 20, 0].astype(int) - 20 * np.arange(12)).max() < 3
