"""What a model needs for the benchmark: a text and a first frame for each video, and the name of its file.

    jobs = load_jobs(benchmark / "descriptions.csv", benchmark / "switch-frames")
    write_jobs(jobs, out, size=(832, 480))

A generator then writes, for each line of out/prompts.jsonl, a video of 5 s to `video_name`.
"""

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2

from phys4d.metrics.physics_iq.folders import NUM_SCENARIOS, VIEWS
from phys4d.runtime.files import atomic_directory
from phys4d.runtime.progress import progress

COLUMNS = ("scenario", "description", "category", "generated_video_name")
TAKE_NAME = re.compile(r"(?P<id>\d{4})_(?P<view>[^_]+)_take-(?P<take>[12])_(?P<scenario>[^_]+)\.mp4")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to generate."""

    video_id: str
    """E.g. `0042`."""
    text: str
    category: str
    """Of physics, e.g. `Solid Mechanics`."""
    first_frame: Path
    """Picture to go on from."""
    video_name: str
    """Name to save the video under."""


def load_jobs(descriptions: Path, switch_frames: Path, *, partial: bool = False) -> list[Job]:
    """Read what is to be generated: the take-1 rows of a descriptions file, with their first frames.

    Args:
        descriptions: the benchmark's CSV file with the columns scenario, description, category and
            generated_video_name.
        switch_frames: folder of `{ID}_switch-frames_anyFPS_{view}_{scenario}.jpg`.
        partial: accept fewer than 198 videos.

    Raises:
        ValueError: a file, a column, a row's value or a first frame is missing; names it.
    """
    if not descriptions.is_file():
        raise ValueError(
            f"no descriptions file {descriptions}; it is descriptions/*.csv of the benchmark's code"
        )
    if not switch_frames.is_dir():
        raise ValueError(f"no folder {switch_frames}; download switch-frames of the benchmark")
    with open(descriptions, encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream)
        absent = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if absent:
            raise ValueError(f"{descriptions} lacks the columns {', '.join(absent)}")
        rows = list(reader)
    frames: dict[str, Path] = {}
    for path in sorted(switch_frames.iterdir()):
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            frames.setdefault(path.name[:5], path)
    jobs: dict[str, Job] = {}
    for number, row in enumerate(rows, start=2):
        name = TAKE_NAME.fullmatch(row["scenario"] or "")
        if name is None:
            raise ValueError(
                f"{descriptions} line {number}: scenario must be ID_view_take-1_name.mp4, "
                f"got {row['scenario']!r}"
            )
        if name["take"] == "2":
            continue
        video_id = name["id"]
        jobs[video_id] = _job(descriptions, number, row, video_id, frames, switch_frames, video_id in jobs)
    expected = NUM_SCENARIOS * len(VIEWS)
    if len(jobs) != expected and not partial:
        raise ValueError(f"{descriptions} has {len(jobs)} take-1 rows, the benchmark has {expected}")
    return [jobs[video_id] for video_id in sorted(jobs)]


def _job(
    descriptions: Path,
    line: int,
    row: dict[str, str],
    video_id: str,
    frames: dict[str, Path],
    switch_frames: Path,
    doubled: bool,
) -> Job:
    where = f"{descriptions} line {line}"
    if doubled:
        raise ValueError(f"{where}: id {video_id} is there twice")
    for column in COLUMNS:
        if not (row[column] or "").strip():
            raise ValueError(f"{where}: {column} is empty")
    if not row["generated_video_name"].startswith(f"{video_id}_"):
        raise ValueError(f"{where}: generated_video_name must begin with {video_id}_")
    if f"{video_id}_" not in frames:
        raise ValueError(f"{switch_frames} has no first frame {video_id}_*.jpg; download it again")
    return Job(
        video_id=video_id,
        text=row["description"].strip(),
        category=row["category"].strip(),
        first_frame=frames[f"{video_id}_"],
        video_name=row["generated_video_name"].strip(),
    )


def write_jobs(jobs: Sequence[Job], folder: Path, *, size: tuple[int, int]) -> Path:
    """Write prompts.jsonl and the first frames as PNG of the model's size; returns the file.

    Each line holds video_id, text, category, first_frame (relative to the folder) and video_name. Pictures
    are stretched to `size` (width, height), because the score stretches generated videos back.

    Raises:
        ValueError: a picture cannot be read, or the folder exists.
    """
    if min(size) < 1:
        raise ValueError(f"size must be (width, height) in pixels, got {size}")
    with atomic_directory(folder) as partial:
        lines = []
        for job in progress(jobs, desc="first frames", unit="picture"):
            image = cv2.imread(str(job.first_frame), cv2.IMREAD_COLOR)
            if image is None:
                raise ValueError(f"{job.first_frame} is no picture; download it again")
            name = f"{job.video_id}.png"
            shrinks = size[0] < image.shape[1] or size[1] < image.shape[0]
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
            if not cv2.imwrite(str(partial / name), image):
                raise OSError(f"cannot write {partial / name}")
            lines.append(
                {
                    "video_id": job.video_id,
                    "text": job.text,
                    "category": job.category,
                    "first_frame": name,
                    "video_name": job.video_name,
                }
            )
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (partial / "prompts.jsonl").write_text(text, encoding="utf-8")
    return folder / "prompts.jsonl"
