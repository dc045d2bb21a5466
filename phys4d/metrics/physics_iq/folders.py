"""The benchmark's file names, and which generated video belongs to which pair of takes."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from phys4d.metrics.physics_iq.videos import ClipError

VIEWS = ("perspective-left", "perspective-center", "perspective-right")
NUM_SCENARIOS = 66
REAL_NAME = re.compile(
    r"(?P<id>\d{4})_testing-videos_(?P<fps>\d+)FPS_(?P<view>[^_]+)_take-(?P<take>[12])_(?P<scenario>[^_]+)\.mp4"
)
OTHER_VIDEOS = {".avi", ".flv", ".gif", ".m4v", ".mkv", ".mov", ".mpeg", ".mpg", ".webm", ".wmv"}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A file that is not scored."""

    file: str
    reason: str
    """One line that begins with the file, for people."""


@dataclass(frozen=True, kw_only=True)
class Takes:
    """The two takes of one scenario from one view."""

    video_id: str
    """Of take 1; names of generated videos begin with it."""
    scenario: str
    view: str
    take_1: Path
    take_2: Path
    mask_1: Path | None = None
    """Stored motion mask of take 1; None computes it."""
    mask_2: Path | None = None


def find_takes(folder: Path, fps: int, masks: Path | None = None) -> tuple[list[Takes], list[Refusal]]:
    """Pair the takes in a testing folder of the benchmark; files that do not fit are refused.

    Args:
        masks: the benchmark's folder of stored masks of these videos, video-masks/real/{fps}FPS.

    Raises:
        ValueError: the folder is missing or holds no mp4 file.
    """
    refusals: list[Refusal] = []
    found: dict[tuple[str, str], dict[str, tuple[str, Path]]] = {}
    paths = _mp4_files(
        folder, "--real must be the benchmark's testing folder, e.g. split-videos/testing/8FPS"
    )
    ids = Counter(path.name[:4] for path in paths)
    for path in paths:
        name = REAL_NAME.fullmatch(path.name)
        if name is None or name["view"] not in VIEWS:
            reason = "must be named ID_testing-videos_{fps}FPS_{view}_take-{1 or 2}_{scenario}.mp4"
            refusals.append(_refusal(path, reason))
        elif int(name["fps"]) != fps:
            reason = f"is of {name['fps']} FPS, --fps is {fps}; point --real at the {fps}FPS folder"
            refusals.append(_refusal(path, reason))
        elif ids[name["id"]] > 1:
            refusals.append(_refusal(path, f"shares its id {name['id']} with another file"))
        else:
            takes = found.setdefault((name["scenario"], name["view"]), {})
            if name["take"] in takes:
                other = takes[name["take"]][1].name
                refusals.append(
                    _refusal(path, f"is take {name['take']} of its scenario and view, as is {other}")
                )
            else:
                takes[name["take"]] = (name["id"], path)
    pairs = []
    for scenario in sorted({scenario for scenario, _ in found}):
        for view in VIEWS:
            takes = found.get((scenario, view), {})
            missing = [take for take in ("1", "2") if take not in takes]
            refusals += [
                Refusal(
                    file=str(folder),
                    reason=f"{folder} lacks take {take} of {scenario} from {view}; download it again",
                )
                for take in missing
            ]
            if not missing:
                (video_id, take_1), (_, take_2) = takes["1"], takes["2"]
                mask_1, mask_2 = (
                    masks / path.name.replace("_testing-videos_", "_video-masks_") if masks else None
                    for path in (take_1, take_2)
                )
                pairs.append(
                    Takes(
                        video_id=video_id,
                        scenario=scenario,
                        view=view,
                        take_1=take_1,
                        take_2=take_2,
                        mask_1=mask_1,
                        mask_2=mask_2,
                    )
                )
    return sorted(pairs, key=lambda pair: pair.video_id), refusals


def find_generated(folder: Path, takes: Iterable[Takes]) -> tuple[dict[str, Path], list[Refusal]]:
    """Generated videos by id; missing, extra and doubled ids, and other video formats are refused.

    A video of the benchmark whose two takes are not both in the testing folder has nothing to compare with.
    """
    expected = {pair.video_id: pair for pair in takes}
    refusals: list[Refusal] = []
    videos: dict[str, Path] = {}
    for path in _mp4_files(folder, "--generated must be a folder of mp4 files, or of such folders"):
        video_id = path.name[:4]
        if re.match(r"\d{4}_", path.name) is None or not 1 <= int(video_id) <= NUM_SCENARIOS * len(VIEWS):
            refusals.append(_refusal(path, "does not begin with the id of a take-1 video, e.g. 0001_"))
        elif video_id not in expected:
            refusals.append(_refusal(path, f"has no pair of takes {video_id} under --real to compare with"))
        elif video_id in videos:
            refusals.append(_refusal(path, f"has the same id as {videos[video_id].name}"))
        else:
            videos[video_id] = path
    for path in _videos(folder, OTHER_VIDEOS):
        refusals.append(_refusal(path, f"is a {path.suffix} file; encode it as mp4"))
    for video_id in sorted(set(expected) - set(videos)):
        pair = expected[video_id]
        reason = f"{folder} has no video {video_id}_*.mp4 ({pair.scenario}, {pair.view})"
        refusals.append(Refusal(file=f"{folder}/{video_id}_*.mp4", reason=reason))
    return videos, refusals


def find_runs(folders: Iterable[Path]) -> list[Path]:
    """Folders of videos: each one given, or its subfolders where it holds folders and no mp4 file itself.

    Raises:
        ValueError: no folder, the same twice, or a subfolder that was to be a run and holds no mp4 file.
    """
    runs: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise ValueError(f"--generated {folder} is no folder")
        inner = [] if _videos(folder) else sorted(p for p in folder.iterdir() if p.is_dir())
        for run in inner:
            if not _videos(run) and (run.name.startswith("run_") or _videos(run, OTHER_VIDEOS)):
                raise ValueError(f"{run} holds no mp4 file; encode its videos as mp4, or remove it")
        runs += [run for run in inner if _videos(run)] or [folder]
    doubled = [str(run) for run, count in Counter(run.resolve() for run in runs).items() if count > 1]
    if doubled:
        raise ValueError(f"{doubled[0]} is given twice; runs must differ")
    return runs


def _videos(folder: Path, suffixes: Iterable[str] = (".mp4",)) -> list[Path]:
    """Files of these formats, without the hidden ones that some systems put beside them."""
    paths = (p for p in folder.iterdir() if not p.name.startswith("."))
    return sorted(p for p in paths if p.suffix.lower() in suffixes)


def _mp4_files(folder: Path, rule: str) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; {rule}")
    paths = _videos(folder)
    if not paths:
        raise ValueError(f"{folder} holds no mp4 file; {rule}")
    return paths


def _refusal(path: Path, reason: str) -> Refusal:
    return Refusal(file=str(path), reason=f"{path} {reason}")


def refusal_of(path: Path, error: ClipError) -> Refusal:
    """A clip's error as a refusal."""
    return Refusal(file=str(path), reason=str(error))
