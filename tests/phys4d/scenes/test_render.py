"""The render program: whole datasets, resumed after a kill, refused when asked for nonsense."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from phys4d.data import open_dataset
from phys4d.data.format import ARRAYS
from phys4d.runtime.errors import UserError
from phys4d.scenes import build, simulate
from phys4d.scenes.memory import check_memory
from phys4d.scenes.registry import CATEGORIES
from phys4d.scenes.render import render_split
from phys4d.scenes.render_config import RenderConfig, family_names, settings_of, split_name
from phys4d.scenes.sample import SEED_STRIDE, draw, render_sample

ROOT = Path(__file__).parents[3]


def _config(folder: Path, **changes: object) -> RenderConfig:
    values = {"num_samples": 34, "width": 16, "height": 16, "num_frames": 3, "supersampling": 1, "workers": 1}
    return RenderConfig(out=folder, **{**values, **changes})  # pyright: ignore[reportArgumentType]


def _command(folder: Path, *flags: str) -> list[str]:
    return [sys.executable, "-m", "phys4d.scenes.render", "--out", str(folder), *flags]


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """34 small videos in two shards."""
    folder = tmp_path_factory.mktemp("rendered")
    render_split(_config(folder))
    return folder


def test_samples_hold_the_simulation_of_their_spec(rendered: Path) -> None:
    dataset = open_dataset(rendered, "train")
    assert len(dataset) == 34
    for number in (0, 1, 2, 3, 4, 33):
        sample = dataset[number]
        scene = build(sample.spec)
        trajectory = simulate(scene)
        assert sample.position.tobytes() == trajectory.position_m.tobytes()
        assert sample.caption == scene.caption
        assert sample.spec.seed == number
        assert sample.rgb.std() > 5
        assert sample.camera.to_dict() == scene.camera(16, 16).to_dict()


def test_families_take_turns(rendered: Path) -> None:
    dataset = open_dataset(rendered, "train")
    assert [dataset[i].spec.family for i in range(6)] == [
        "drop",
        "collision",
        "ramp",
        "tower",
        "projectile",
        "billiard",
    ]


def test_a_lost_shard_is_made_again_with_the_same_bytes_and_the_others_are_kept(
    rendered: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy" / "train"
    folder.mkdir(parents=True)
    for path in (rendered / "train").iterdir():
        if path.name not in ("shard-000001.tar", "index.json"):
            (folder / path.name).write_bytes(path.read_bytes())
    before = (folder / "shard-000000.tar").stat().st_mtime_ns
    render_split(_config(tmp_path / "copy"))
    assert (folder / "shard-000000.tar").stat().st_mtime_ns == before
    for name in ("shard-000001.tar", "index.json"):
        assert (folder / name).read_bytes() == (rendered / "train" / name).read_bytes()


def test_a_killed_run_leaves_whole_shards_and_is_resumed(rendered: Path, tmp_path: Path) -> None:
    flags = ["--num-samples", "34", "--width", "16", "--height", "16", "--num-frames", "3"]
    flags += ["--supersampling", "1", "--workers", "1"]
    process = subprocess.Popen(_command(tmp_path, *flags), cwd=ROOT, stderr=subprocess.DEVNULL)
    first = tmp_path / "train" / "shard-000000.tar"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert first.read_bytes() == (rendered / "train" / first.name).read_bytes()
    render_split(_config(tmp_path))
    for name in ("shard-000000.tar", "shard-000001.tar", "index.json"):
        assert (tmp_path / "train" / name).read_bytes() == (rendered / "train" / name).read_bytes()


def test_two_workers_render_what_one_does(rendered: Path, tmp_path: Path) -> None:
    render_split(_config(tmp_path, workers=2))
    for name in ("shard-000000.tar", "shard-000001.tar"):
        assert (tmp_path / "train" / name).read_bytes() == (rendered / "train" / name).read_bytes()


def test_a_ray_cluster_renders_what_one_process_does(rendered: Path, tmp_path: Path) -> None:
    render_split(_config(tmp_path, num_samples=3, ray_address="local"))
    ours, reference = open_dataset(tmp_path, "train"), open_dataset(rendered, "train")
    for number in range(3):
        for name in ARRAYS:
            assert getattr(ours[number], name).tobytes() == getattr(reference[number], name).tobytes()


def test_more_samples_extend_a_split_beside_a_damaged_one(
    rendered: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.json").write_text("[]")
    render_split(_config(tmp_path, num_samples=3))
    assert "README.md leaves out other: " in capsys.readouterr().err
    assert "| train | 3 |" in (tmp_path / "README.md").read_text()
    render_split(_config(tmp_path, num_samples=5))
    dataset, reference = open_dataset(tmp_path, "train"), open_dataset(rendered, "train")
    assert len(dataset) == 5
    assert np.array_equal(dataset.stack("rgb"), reference.stack("rgb")[:5])


def test_fewer_videos_than_a_split_holds_are_refused_and_none_is_lost(rendered: Path) -> None:
    """33 are a shorter last shard, 5 one shard less."""
    before = {path: path.read_bytes() for path in (rendered / "train").iterdir()}
    for fewer in (33, 5):
        with pytest.raises(UserError, match=f"train holds more than {fewer} videos already, .*remove the"):
            render_split(_config(rendered, num_samples=fewer))
    assert {path: path.read_bytes() for path in (rendered / "train").iterdir()} == before


def test_other_settings_in_the_same_split_are_refused(rendered: Path) -> None:
    with pytest.raises(ValueError, match=r"begun with other settings \(physics\)"):
        render_split(_config(rendered, physics="mixed"))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--families", "dorp"], "error: unknown family 'dorp' (did you mean 'drop'?)"),
        (["--famlies", "drop"], "error: unknown option '--famlies'"),
        (["--ray-address", "127.0.0.1:1"], "error: no Ray cluster answers at 127.0.0.1:1: "),
    ],
)
def test_bad_flags_end_with_one_line_and_code_2(tmp_path: Path, flags: list[str], message: str) -> None:
    done = subprocess.run(_command(tmp_path, *flags), cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 0}, "num_samples must be in 1 to 100000000, got 0"),
        ({"families": "ropes/swing"}, "got ropes/swing; add ropes to --category"),
        ({"split": "a/b"}, "split must be a plain folder name, .* got 'a/b'"),
        ({"split": "README.md"}, "not that of the card README.md, got 'README.md'"),
        ({"fps": float("inf")}, "fps must be in 0.1 to 1000, got inf"),
        ({"fps": float("nan")}, "fps must be in 0.1 to 1000, got nan"),
        ({"ray_address": "cluster"}, "ray_address must be host:port, .* got 'cluster'"),
        ({"families": "table", "family_split": "seen"}, "must be seen ones, got table; see --family-split"),
        (
            {"num_frames": 9000},
            "rigid/drop cannot be built: a scene must take at most 100000 steps, got 9000",
        ),
        ({"width": 4000, "height": 4000, "num_frames": 9999}, "free; render fewer frames or smaller ones"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        render_split(_config(tmp_path, **changes))
    assert not any(tmp_path.iterdir())


def test_nothing_but_progress_and_the_outcome_is_printed(tmp_path: Path) -> None:
    flags = ["--num-samples", "1", "--width", "16", "--height", "16", "--num-frames", "3"]
    done = subprocess.run(
        _command(tmp_path, *flags, "--supersampling", "1", "--workers", "1"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/train: 1 videos, 0 of them were there; draws refused: ")
    assert done.stdout.count("\n") == 1
    assert all(line.startswith("rendering train") for line in done.stderr.splitlines()), done.stderr


def test_an_unwritable_folder_is_an_error_of_one_line() -> None:
    done = subprocess.run(
        _command(Path("/proc/nowhere"), "--num-samples", "1"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert "/proc/nowhere" in done.stderr


def test_a_sample_depends_on_its_number_alone(tmp_path: Path) -> None:
    names = ["drop", "ramp"]
    config = _config(tmp_path)
    first = render_sample(config, names, 3, Counter())
    render_sample(config, names, 4, Counter())
    again = render_sample(config, names, 3, Counter())
    assert all(np.array_equal(first["arrays"][k], again["arrays"][k]) for k in first["arrays"])


def test_a_full_disk_ends_in_one_line_and_is_continued(rendered: Path, tmp_path: Path) -> None:
    """A real limit on file size stands for the full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, ((rendered / "train/shard-000000.tar").stat().st_size - 1, limits[1])
    )
    try:
        with pytest.raises(
            UserError, match=r"no space left to write .*train: 0 of 34 videos are there; free"
        ):
            render_split(_config(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name for path in (tmp_path / "train").iterdir()} == {"settings.json"}
    render_split(_config(tmp_path))
    assert (tmp_path / "train" / "index.json").read_bytes() == (
        rendered / "train" / "index.json"
    ).read_bytes()


def test_a_shard_with_a_flipped_bit_is_made_again(rendered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy" / "train"
    folder.mkdir(parents=True)
    for path in (rendered / "train").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    broken = bytearray((folder / "shard-000001.tar").read_bytes())
    broken[len(broken) // 2] ^= 1
    (folder / "shard-000001.tar").write_bytes(broken)
    render_split(_config(tmp_path / "copy"))
    for name in ("shard-000001.tar", "index.json"):
        assert (folder / name).read_bytes() == (rendered / "train" / name).read_bytes()


def test_checksums_are_those_of_sha256sum(rendered: Path) -> None:
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=rendered / "train", capture_output=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"OK") == 2


def test_the_card_names_every_split_with_its_families(rendered: Path) -> None:
    card = (rendered / "README.md").read_text()
    assert "| train | 34 | 16 x 16 | 3 at 12 fps | true | textured | drop, collision," in card
    assert "`category_ids` of the reader):\n1 rigid, 2 articulated, " in card


def test_full_annotations_and_a_second_take_are_kept(tmp_path: Path) -> None:
    config = _config(tmp_path, num_samples=1, annotations="full", second_take=True, points_per_object=5)
    render_split(config)
    sample = open_dataset(tmp_path, "train")[0]
    more = sample.more
    num_objects = len(sample.objects)
    assert more["velocity"].shape == (3, num_objects, 6)
    assert more["tracks"].shape[1] <= 5 * num_objects
    assert set(more["tracks_object"]) == set(range(num_objects))
    assert np.allclose(np.linalg.norm(more["normal"].astype(float), axis=-1), 1, atol=2e-3)
    assert np.array_equal(more["object_ids_take2"][0], sample.object_ids[0])
    assert set(np.unique(sample.category_ids)) == {0, 1}
    assert sample.spec_take2 is not None
    take = simulate(build(sample.spec_take2))
    assert np.array_equal(more["position_take2"], take.position_m)
    assert 0 < np.abs(take.position_m - sample.position).max() < 0.1


def test_categories_take_turns_and_count_once() -> None:
    names = family_names(RenderConfig(category="all"))
    assert len({name.partition("/")[0] for name in names[:9]}) == 9
    assert family_names(RenderConfig(category="all,rigid")) == names
    for text in ("rigid,rigid", "rigid, "):
        config = RenderConfig(category=text)
        names = family_names(config)
        assert names == list(CATEGORIES["rigid"].families)
        assert split_name(config, names[0]) == ("rigid", names[0])
        assert settings_of(config, names) == settings_of(RenderConfig(), names)


def test_memory_that_is_short_is_told_with_the_number_of_processes_that_fit() -> None:
    """300 frames of 1080p are 19 GB of arrays, and as much on their way into a shard."""
    config = RenderConfig(width=1920, height=1080, num_frames=300)
    with pytest.raises(UserError, match=r"4 processes would need about 1\d\d.\d GiB .*; give --workers 2"):
        check_memory(config, 4, 100 * 2**30)
    check_memory(RenderConfig(), 16, 16 * 2**30)


def test_a_killed_process_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that end at once stand for those that the kernel kills."""
    monkeypatch.setattr("phys4d.scenes.render.limit_threads", os._exit)
    with pytest.raises(UserError, match="one of 2 processes was killed, .* give fewer --workers"):
        render_split(_config(tmp_path, workers=2))


def test_a_seed_without_a_scene_gives_way_to_another(tmp_path: Path) -> None:
    """At 49 frames of 8 fps a billiard of this seed is refused 200 times when all of it must be in view."""
    config = _config(tmp_path, num_samples=2, families="billiard", num_frames=49, fps=8.0, seed_start=1000005)
    render_split(config)
    assert [sample.spec.seed for sample in open_dataset(tmp_path, "train")] == [1000005, 1000006]


def test_draws_that_are_all_refused_take_the_next_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, rejected = _config(tmp_path), Counter()
    monkeypatch.setattr("phys4d.scenes.registry.MAX_ATTEMPTS", 1)
    seeds = [draw(config, ["billiard"], number, rejected)[0][0].spec.seed for number in range(12)]
    assert [seed % SEED_STRIDE for seed in seeds] == list(range(12))
    assert sum(seed // SEED_STRIDE for seed in seeds) == rejected["whole seed"] > 0


def test_seen_and_held_out_families_share_none() -> None:
    seen = family_names(RenderConfig(category="all", family_split="seen"))
    held_out = family_names(RenderConfig(category="all", family_split="held-out"))
    everything = family_names(RenderConfig(category="all"))
    assert sorted(seen + held_out) == sorted(everything)
    assert {name.partition("/")[0] for name in held_out} == {name.partition("/")[0] for name in seen}


def test_settings_younger_than_a_split_count_as_their_defaults(rendered: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old" / "train"
    folder.mkdir(parents=True)
    settings = json.loads((rendered / "train" / "settings.json").read_text())
    for name in ("annotations", "second_take", "family_split", "points_per_object"):
        del settings[name]
    (folder / "settings.json").write_text(json.dumps(settings))
    render_split(_config(tmp_path / "old", num_samples=1))
    with pytest.raises(ValueError, match=r"other settings \(annotations\)"):
        render_split(_config(tmp_path / "old", num_samples=1, annotations="full"))
    for damaged in ("[]", "{"):
        (folder / "settings.json").write_text(damaged)
        with pytest.raises(UserError, match=r"settings.json is damaged; remove .*old/train"):
            render_split(_config(tmp_path / "old", num_samples=1))
