"""What a model is given."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from phys4d.metrics.physics_iq.prompts import COLUMNS, load_jobs, write_jobs

ROW = {
    "scenario": "0001_perspective-left_take-1_trimmed-ball.mp4",
    "description": "A ball, orange, falls.",
    "category": "Solid Mechanics",
    "generated_video_name": "0001_perspective-left_trimmed-ball.mp4",
}


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "switch-frames"
    folder.mkdir()
    image = np.full((90, 160, 3), (40, 60, 220), np.uint8)
    cv2.imwrite(str(folder / "0001_switch-frames_anyFPS_perspective-left_trimmed-ball.jpg"), image)
    return folder


def descriptions(folder: Path, *changes: dict[str, str], columns: tuple[str, ...] = COLUMNS) -> Path:
    """A file with one row per change of `ROW`."""
    path = folder / "descriptions.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**ROW, **change} for change in changes)
    return path


def test_a_job_has_the_text_the_frame_of_the_model_s_size_and_the_name(tmp_path: Path, frames: Path) -> None:
    take_2 = {"scenario": "0199_perspective-left_take-2_trimmed-ball.mp4"}
    jobs = load_jobs(descriptions(tmp_path, {}, take_2), frames, partial=True)
    written = write_jobs(jobs, tmp_path / "out", size=(96, 64))
    assert [json.loads(line) for line in written.read_text().splitlines()] == [
        {
            "video_id": "0001",
            "text": "A ball, orange, falls.",
            "category": "Solid Mechanics",
            "first_frame": "0001.png",
            "video_name": "0001_perspective-left_trimmed-ball.mp4",
        }
    ]
    image = cv2.imread(str(tmp_path / "out" / "0001.png"))
    assert image is not None and image.shape == (64, 96, 3)
    assert np.abs(image.astype(int) - (40, 60, 220)).max() <= 3  # JPEG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"description": " "}, "line 2: description is empty"),
        ({"scenario": "ball.mp4"}, "line 2: scenario must be ID_view_take-1_name.mp4, got 'ball.mp4'"),
        ({"generated_video_name": "ball.mp4"}, "line 2: generated_video_name must begin with 0001_"),
        (
            {"scenario": "0002_perspective-left_take-1_x.mp4", "generated_video_name": "0002_x.mp4"},
            r"has no first frame 0002_\*\.jpg",
        ),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, frames: Path, change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_jobs(descriptions(tmp_path, change), frames, partial=True)


def test_what_is_missing_is_named(tmp_path: Path, frames: Path) -> None:
    with pytest.raises(ValueError, match="no descriptions file"):
        load_jobs(tmp_path / "none.csv", frames)
    with pytest.raises(ValueError, match="download switch-frames"):
        load_jobs(descriptions(tmp_path, {}), tmp_path / "none")
    with pytest.raises(ValueError, match="lacks the columns category"):
        load_jobs(descriptions(tmp_path, {}, columns=(*COLUMNS[:2], COLUMNS[3])), frames)
    with pytest.raises(ValueError, match="has 1 take-1 rows, the benchmark has 198"):
        load_jobs(descriptions(tmp_path, {}), frames)
    with pytest.raises(ValueError, match="id 0001 is there twice"):
        load_jobs(descriptions(tmp_path, {}, {}), frames, partial=True)


def test_a_first_frame_that_is_no_picture_is_named_and_leaves_nothing_behind(
    tmp_path: Path, frames: Path
) -> None:
    jobs = load_jobs(descriptions(tmp_path, {}), frames, partial=True)
    next(frames.iterdir()).write_text("no picture")
    with pytest.raises(ValueError, match="is no picture"):
        write_jobs(jobs, tmp_path / "out", size=(96, 64))
    assert not (tmp_path / "out").exists()
