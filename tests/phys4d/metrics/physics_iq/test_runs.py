"""The command on the conformance clips, and what it refuses."""

import csv
import json
import shutil
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from phys4d.metrics.physics_iq.__main__ import main
from phys4d.metrics.physics_iq.folders import find_runs
from phys4d.metrics.physics_iq.runs import score_runs, summarise
from phys4d.metrics.physics_iq.videos import read_frames


def command(real: Path, *generated: Path, more: tuple[str, ...] = (), workers: int = 1) -> None:
    flags = [word for folder in generated for word in ("--generated", str(folder))]
    main(["--real", str(real), *flags, "--fps", "8", "--workers", str(workers), *more])


def scores(real: Path, *generated: Path, partial: bool = False) -> dict:
    return summarise(score_runs(real, generated, fps=8, partial=partial, workers=1), fps=8, partial=partial)


def take(conformance: ModuleType, real: Path, number: int, folder: Path) -> Path:
    """The files of a take under the names of generated videos."""
    folder.mkdir()
    for scenario, view in conformance.CELLS:
        name = conformance.generated_name(scenario, view)
        (folder / name).symlink_to(real / conformance.real_name(scenario, view, number))
    return folder


def decoded(path: Path) -> np.ndarray:
    """RGB by OpenCV's reader."""
    reader, frames = cv2.VideoCapture(str(path)), []
    while True:
        found, frame = reader.read()
        if not found:
            return np.stack(frames)[..., ::-1]
        frames.append(frame)


def test_the_command_scores_a_folder_as_the_float64_reference_does(
    conformance: ModuleType, reference: ModuleType, real: Path, late: Path, tmp_path: Path, capsys
) -> None:
    command(real, late, more=("--json", str(tmp_path / "s.json"), "--per-scenario", str(tmp_path / "s.csv")))
    found = json.loads((tmp_path / "s.json").read_text())
    model, variance = [], []
    for scenario in range(2):
        model.append([])
        variance.append([])
        for view in range(3):
            files = (
                real / conformance.real_name(scenario, view, 1),
                real / conformance.real_name(scenario, view, 2),
                late / conformance.generated_name(scenario, view),
            )
            first, second, video = (reference.shrunk(decoded(path)) for path in files)
            model[-1].append(reference.metrics(first, video))
            variance[-1].append(reference.metrics(first, second))
    original, verified = reference.scores(model, variance)
    assert 30 < original < 95 and 30 < verified < 95
    assert found["original"]["score"] == pytest.approx(original, abs=1e-9)
    assert found["verified"]["score"] == pytest.approx(verified, abs=1e-9)
    assert not found["partial"] and not found["complete"] and found["num_scenarios"] == 2
    printed = capsys.readouterr().out
    assert f"Physics-IQ original {original:6.2f}   (spatial IoU" in printed
    assert f"Physics-IQ verified {verified:6.2f}   (shares of the physical variance, 1 at most" in printed
    assert "2 of the benchmark's 66 scenarios" in printed
    assert "of one --real folder one of the two scores at most compares with its leaderboard" in printed
    rows = list(csv.DictReader((tmp_path / "s.csv").open()))
    assert [row["scenario"] for row in rows] == list(conformance.SCENARIOS)
    assert np.mean([float(row["verified"]) for row in rows]) == pytest.approx(verified, abs=1e-5)


def test_take_2_scores_100_and_so_does_take_1(conformance: ModuleType, real: Path, tmp_path: Path) -> None:
    """Another take is as good as physics allows; the same take is clipped to that."""
    second = scores(real, take(conformance, real, 2, tmp_path / "second"))
    assert second["original"]["score"] == pytest.approx(100, abs=0.1)  # the variance has 4 decimals
    assert second["verified"]["score"] == pytest.approx(100, abs=0.1)
    first = scores(real, take(conformance, real, 1, tmp_path / "first"))
    assert first["original"]["score"] == 100 and first["original"]["s_iou"] == 1
    assert first["verified"]["score"] == pytest.approx(100, abs=1e-4)


def test_frozen_videos_score_less_than_late_ones(
    conformance: ModuleType, real: Path, late: Path, tmp_path: Path
) -> None:
    frozen = conformance.write_generated(
        tmp_path / "frozen", lambda s, v: lambda t: conformance.path_of(s, v, 1)(0 * t)
    )
    for name in ("original", "verified"):
        assert scores(real, frozen)[name]["score"] < scores(real, late)[name]["score"] - 20


def test_several_runs_have_a_mean_and_a_sample_deviation(
    conformance: ModuleType, real: Path, late: Path, tmp_path: Path
) -> None:
    """Also as one folder of run folders."""
    (tmp_path / "runs").mkdir()
    take(conformance, real, 2, tmp_path / "runs" / "run_01")
    (tmp_path / "runs" / "run_02").symlink_to(late)
    found = scores(real, tmp_path / "runs")
    each = [run["verified"]["score"] for run in found["runs"]]
    assert found["num_runs"] == 2 and each[0] > each[1] + 10
    assert found["verified"]["score"] == pytest.approx(np.mean(each))
    assert found["verified"]["score_std"] == pytest.approx((each[0] - each[1]) / np.sqrt(2))
    assert any("a claim needs 4 runs" in note for note in found["notes"])


def test_repeated_flags_are_several_runs(
    conformance: ModuleType, real: Path, late: Path, tmp_path: Path
) -> None:
    second = take(conformance, real, 2, tmp_path / "second")
    command(real, late, second, more=("--json", str(tmp_path / "s.json")))
    assert json.loads((tmp_path / "s.json").read_text())["num_runs"] == 2


def test_two_processes_find_what_one_finds(real: Path, late: Path, tmp_path: Path) -> None:
    for workers in (1, 2):
        more = ("--stored-masks", "--json", str(tmp_path / f"{workers}.json"))
        command(real, late, workers=workers, more=more)
    assert (tmp_path / "1.json").read_text() == (tmp_path / "2.json").read_text()
    found = json.loads((tmp_path / "1.json").read_text())
    exact = scores(real, late)
    assert found["stored_masks"] and not exact["stored_masks"]
    assert 0 < abs(found["verified"]["score"] - exact["verified"]["score"]) < 5


def test_generated_videos_of_another_size_are_stretched(
    conformance: ModuleType, real: Path, late: Path, tmp_path: Path
) -> None:
    """What lies at the same share of width and height is compared; resolution costs a few points.

    A run of several sizes would be stretched in several ways.
    """
    larger = conformance.write_generated(
        tmp_path / "larger",
        lambda s, v: lambda t: conformance.path_of(s, v, 1)((t - 0.5).clip(0)),
        size=(256, 192),
    )
    found, expected = (scores(real, folder) for folder in (larger, late))
    assert found["verified"]["score"] == pytest.approx(expected["verified"]["score"], abs=5)
    assert f"{larger}: videos of 256x192 pixels were scaled to the benchmark's 128x96" in found["notes"]
    assert not any("scaled" in note for note in expected["notes"])
    portrait = larger / conformance.generated_name(0, 1)
    conformance.write_mp4(portrait, conformance.paint(conformance.path_of(0, 1, 1), size=(96, 128)))
    told = f"{portrait} is of 96x128 pixels, its run of 256x192; give all one size"
    with pytest.raises(ValueError, match=f"{told}; --partial"):
        scores(real, larger)
    for path in larger.iterdir():
        if path != portrait:
            path.unlink()
    found = scores(real, larger, late, partial=True)
    assert f"{larger}: videos of 96x128 pixels were stretched to the benchmark's 128x96" in found["notes"]
    assert any(note.startswith("runs lack different videos") for note in found["notes"])


def test_frames_are_bit_for_bit_those_of_opencv(real: Path) -> None:
    path = sorted(real.iterdir())[0]
    np.testing.assert_array_equal(np.stack(list(read_frames(path, 8)))[..., ::-1], decoded(path))


def spoil(conformance: ModuleType, kind: str, path: Path) -> None:
    """Replace a generated video by one that must be refused."""
    rgb = conformance.paint(conformance.path_of(0, 0, 1))
    data = path.read_bytes()
    path.unlink()
    write = conformance.write_mp4
    if kind == "missing":
        return
    if kind == "fps":
        write(path, conformance.paint(conformance.path_of(0, 0, 1), fps=12), fps=12)
    elif kind == "long":
        write(path, np.concatenate([rgb, rgb[-1:]]))
    elif kind == "one frame":
        write(path, rgb[:1])
    elif kind == "variable":
        write(path, rgb, times_ms=np.arange(40) * 125 + 40 * (np.arange(40) % 3 > 0))
    elif kind == "dropped":
        write(path, rgb, times_ms=np.append(np.arange(39) * 125, 40 * 125))
    elif kind == "no times":
        write(path, rgb, container_format="h264")
    elif kind == "alpha":
        write(
            path,
            np.dstack([rgb.reshape(-1, 128, 3), np.full((40 * 96, 128), 200, np.uint8)]).reshape(
                40, 96, 128, 4
            ),
            codec="png",
            pixels="rgba",
        )
    elif kind == "grey":
        write(path, rgb[..., 0].copy(), codec="png", pixels="gray")
    elif kind == "grey as colour":
        write(path, rgb[..., :1].repeat(3, -1))
    elif kind == "odd":
        write(path, rgb[:, 1:].copy(), codec="png", pixels="rgb24")
    elif kind == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "damaged":
        middle = bytearray(data)
        start = data.index(b"mdat") + 1500
        middle[start : start + 600] = bytes(600)
        path.write_bytes(bytes(middle))
    elif kind == "no video":
        path.write_text("not a video")
    else:
        raise AssertionError(kind)


BAD = {
    "missing": r"has no video 0002_\*\.mp4 \(trimmed-ball-falls, perspective-center\)",
    "fps": "runs at 12 fps, must run at 8",
    "long": "has 41 frames, must have 40",
    "one frame": "has 1 frame, must have 40",
    "variable": "has a variable frame rate",
    "dropped": "has a variable frame rate",
    "no times": "has no time stamp at frame 0",
    "alpha": r"has an alpha channel \(rgba\)",
    "grey": r"is grey \(gray\)",
    "grey as colour": "is grey: no pixel of any frame has a colour",
    "odd": "is of 128x95 pixels; both sides must be even",
    "cut": "is corrupt",
    "damaged": "is corrupt",
    "no video": "is corrupt",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_video_that_cannot_be_scored_is_refused_by_name(
    conformance: ModuleType, real: Path, generated: Path, kind: str
) -> None:
    path = generated / conformance.generated_name(0, 1)
    spoil(conformance, kind, path)
    name = "" if kind == "missing" else rf"{path.name} "
    with pytest.raises(ValueError, match=f"{name}{BAD[kind]}.*; --partial scores the rest"):
        scores(real, generated)


def test_partial_scores_the_rest_and_says_what_it_left_out(
    conformance: ModuleType, real: Path, generated: Path, tmp_path: Path, capsys
) -> None:
    spoil(conformance, "damaged", generated / conformance.generated_name(0, 1))
    spoil(conformance, "missing", generated / conformance.generated_name(1, 2))
    shutil.copy(generated / conformance.generated_name(0, 0), generated / "0500_extra.mp4")
    command(real, generated, more=("--partial", "--json", str(tmp_path / "s.json")))
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["partial"] and found["runs"][0]["num_videos"] == 4
    left_out = " ".join(item["file"] for item in found["runs"][0]["left_out"])
    for name in (conformance.generated_name(0, 1), "0006_*.mp4", "0500_extra.mp4"):
        assert name in left_out
    assert "3 left out, 4 videos scored" in capsys.readouterr().out


def test_extra_and_doubled_ids_and_other_formats_are_refused(
    conformance: ModuleType, real: Path, generated: Path
) -> None:
    source = generated / conformance.generated_name(0, 0)
    for name, reason in (
        ("0199_take-2.mp4", "0199_take-2.mp4 does not begin with the id of a take-1 video"),
        ("sunset.mp4", "sunset.mp4 does not begin with the id"),
        ("0001_again.mp4", "has the same id as 0001_again.mp4"),
        ("0002_video.webm", "is a .webm file; encode it as mp4"),
        ("0002_video.m4v", "is a .m4v file; encode it as mp4"),
        ("0198_video.mp4", "0198_video.mp4 has no pair of takes 0198 under --real to compare with"),
    ):
        extra = generated / name
        shutil.copy(source, extra)
        with pytest.raises(ValueError, match=reason):
            scores(real, generated)
        extra.unlink()


def test_a_benchmark_folder_that_lacks_a_take_or_is_of_another_rate_is_refused(
    conformance: ModuleType, real: Path, late: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "8FPS"
    shutil.copytree(real, folder)
    (folder / conformance.real_name(0, 1, 2)).unlink()
    with pytest.raises(ValueError, match="lacks take 2 of trimmed-ball-falls from perspective-center"):
        scores(folder, late)
    found = scores(folder, late, partial=True)
    assert found["partial"] and found["runs"][0]["num_videos"] == 5
    smaller = conformance.paint(conformance.path_of(0, 1, 2), size=(64, 48))
    conformance.write_mp4(folder / conformance.real_name(0, 1, 2), smaller)
    with pytest.raises(ValueError, match=r"is of 64x48 pixels, take 1 of 128x96"):
        scores(folder, late)
    with pytest.raises(ValueError, match="is of 8 FPS, --fps is 30"):
        score_runs(real, [late], fps=30)


def test_with_stored_masks_the_scores_are_those_of_the_benchmarks_tool(
    conformance: ModuleType, official: ModuleType, real: Path, late: Path, tmp_path: Path
) -> None:
    """Both read the masks of the real videos that the tool has written, and store those of generated ones."""
    masks = tmp_path / "video-masks"
    masks.mkdir()
    model, variance = [], []
    for cell in conformance.CELLS:
        views = []
        for number in (1, 2):
            video = real / conformance.real_name(*cell, number)
            stored = official.write_masks(
                video, masks / video.name.replace("testing-videos", "video-masks"), 8
            )
            views.append(official.read_view(video, stored, (32, 24)))
        video = late / conformance.generated_name(*cell)
        made = official.read_view(video, official.write_masks(video, tmp_path / video.name, 8), (32, 24))
        model.append(official.compare(views[0], made))
        variance.append(official.compare(*views))
    original, verified = official.scores(model, variance)
    assert 60 < verified < original < 90
    command(real, late, more=("--real-masks", str(masks), "--json", str(tmp_path / "s.json")))
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["stored_masks"]
    assert found["original"]["score"] == pytest.approx(original, abs=0.011), "both are rounded to 2 decimals"
    assert found["verified"]["score"] == pytest.approx(verified, abs=1e-6)
    assert (found["dataset"], found["real_masks"]) == (str(real), str(masks))
    mask = masks / conformance.real_name(0, 0, 1).replace("testing-videos", "video-masks")
    other = masks / conformance.real_name(1, 1, 1).replace("testing-videos", "video-masks")
    shutil.copy(other, mask)
    other_runs = score_runs(real, [late], fps=8, workers=1, real_masks=masks)
    assert summarise(other_runs, fps=8, partial=False)["original"] != found["original"]
    mask.unlink()
    with pytest.raises(ValueError, match=f"{mask.name} is missing; stored masks need a file for each take"):
        score_runs(real, [late], fps=8, workers=1, real_masks=masks)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--fps", "8"], "--real is missing"),
        (["--real", "x", "--fps", "8"], "--generated is missing"),
        (["--real", "x", "--generated", "y"], "--fps is missing"),
        (["--real", "x", "--generated", "y", "--fps", "8"], "--generated y is no folder"),
        (["--real", "x", "--generated", "/", "--fps", "0"], "--fps is missing"),
        (
            ["--real", "x", "--generated", "y", "--fps", "8", "--json", "."],
            "--json . is a folder; name a file",
        ),
    ],
)
def test_a_command_that_lacks_something_says_what(
    args: list[str], message: str, monkeypatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        main(args)


def test_folders_of_runs_are_those_that_hold_videos_or_are_refused(late: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is given twice"):
        find_runs([late, late])
    for name in ("run_01/0001_a.MP4", "second/0001_a.mp4", "notes/readme.txt", "._0001_a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    runs = [tmp_path / "run_01", tmp_path / "second"]
    assert find_runs([tmp_path]) == runs and find_runs(runs[:1]) == runs[:1]
    for name in ("run_02", "third"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ("._0001_a.mp4" if name == "run_02" else "0001_a.avi")).touch()
        with pytest.raises(
            ValueError, match=f"{name} holds no mp4 file; encode its videos as mp4, or remove"
        ):
            find_runs([tmp_path])
        shutil.rmtree(tmp_path / name)
