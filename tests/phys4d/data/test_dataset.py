"""The dataset on disk: what is written comes back, what is broken is refused by name."""

import json
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phys4d.data import ShardWriter, open_dataset
from phys4d.data.write import inspect_shard, write_index
from phys4d.types import Camera, SceneSpec

T, H, W, NUM_OBJECTS = 3, 4, 5, 2


def _arrays(seed: int, **changes: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    arrays = {
        "rgb": rng.integers(0, 256, (T, H, W, 3), np.uint8),
        "depth": rng.uniform(1, 5, (T, H, W)).astype(np.float32),
        "motion": rng.normal(size=(T - 1, H, W, 3)).astype(np.float32),
        "object_ids": rng.integers(0, NUM_OBJECTS + 1, (T, H, W)).astype(np.uint8),
        "visible": rng.random((T - 1, H, W)) < 0.5,
        "position": rng.normal(size=(T, NUM_OBJECTS, 3)),
        "rotation": rng.normal(size=(T, NUM_OBJECTS, 3, 3)),
    }
    return {**arrays, **changes}


def _metadata(seed: int) -> dict[str, Any]:
    spec = SceneSpec(
        category="rigid", family="drop", seed=seed, parameters={"x": 0.1 * seed}, num_frames=T, fps=12.0
    )
    camera = Camera(fx=5.0, fy=5.0, cx=2.5, cy=2.0, width=W, height=H, camera_from_world=np.eye(4))
    return {
        "caption": f"ball {seed}",
        "spec": json.loads(spec.to_json()),
        "camera": camera.to_dict(),
        "objects": [{"name": "a"}, {"name": "b"}],
        "engine": "mujoco test",
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A split of two shards with 2 and 1 samples."""
    notes = []
    for shard, seeds in enumerate(([0, 1], [2])):
        writer = ShardWriter(tmp_path / "train", shard)
        for seed in seeds:
            writer.add(f"{seed:06d}", _arrays(seed), _metadata(seed))
        notes.append(writer.close())
    write_index(tmp_path / "train", notes, {"settings": {}})
    return tmp_path


def test_samples_come_back_as_they_were_written(folder: Path) -> None:
    dataset = open_dataset(folder, "train")
    assert len(dataset) == 3
    assert dataset.captions() == ["ball 0", "ball 1", "ball 2"]
    for number in (2, 0, 1):
        sample = dataset[number]
        assert sample.key == f"{number:06d}"
        assert sample.spec == SceneSpec(**_metadata(number)["spec"])
        assert sample.camera.to_dict() == _metadata(number)["camera"]
        for name, array in _arrays(number).items():
            assert np.array_equal(getattr(sample, name), array)


def test_stacking_puts_samples_in_order(folder: Path) -> None:
    rgb = open_dataset(folder, "train").stack("rgb")
    assert rgb.dtype == np.uint8
    assert np.array_equal(rgb, np.stack([_arrays(seed)["rgb"] for seed in range(3)]))


def test_an_unknown_array_is_refused_with_a_suggestion(folder: Path) -> None:
    with pytest.raises(ValueError, match="no array 'dept' to stack; did you mean 'depth'"):
        open_dataset(folder, "train").stack("dept")


def test_arrays_that_depend_on_the_number_of_objects_are_not_stacked(folder: Path) -> None:
    with pytest.raises(ValueError, match="no array 'position' to stack"):
        open_dataset(folder, "train").stack("position")


def test_the_same_samples_make_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "again", 0)
    for seed in (0, 1):
        writer.add(f"{seed:06d}", _arrays(seed), _metadata(seed))
    writer.close()
    assert (tmp_path / "again" / "shard-000000.tar").read_bytes() == (
        folder / "train" / "shard-000000.tar"
    ).read_bytes()


def test_shards_are_webdataset_tars(folder: Path) -> None:
    with tarfile.open(folder / "train" / "shard-000000.tar") as tar:
        assert tar.getnames() == ["000000.json", "000000.npz", "000001.json", "000001.npz"]


def test_a_missing_dataset_tells_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"does not exist .*python -m phys4d.scenes.render --out .*--split val"
    ):
        open_dataset(tmp_path, "val")


def test_an_unfinished_split_is_told_apart(folder: Path) -> None:
    (folder / "train" / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match="is unfinished"):
        open_dataset(folder, "train")


def test_an_index_of_another_format_is_refused(folder: Path) -> None:
    (folder / "train" / "index.json").write_text('{"format_version": 99}')
    with pytest.raises(ValueError, match="is of format 99, this program reads 1"):
        open_dataset(folder, "train")


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "null", '{"format_version": 1}', '{"format_version": 1, "settings": {}, "shards": [1]}'],
)
def test_a_damaged_index_is_refused(folder: Path, text: str) -> None:
    (folder / "train" / "index.json").write_text(text)
    with pytest.raises(ValueError, match="is no dataset index"):
        open_dataset(folder, "train")


def test_a_flipped_bit_in_a_shard_is_refused_by_name(folder: Path) -> None:
    path = folder / "train" / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    dataset = open_dataset(folder, "train")
    with pytest.raises(ValueError, match=r"shard-000000.tar is corrupt: .*delete it and run python -m"):
        dataset[0]
    assert dataset[2].caption == "ball 2"


def test_a_missing_shard_is_refused_by_name(folder: Path) -> None:
    (folder / "train" / "shard-000001.tar").unlink()
    with pytest.raises(FileNotFoundError, match="shard-000001.tar is missing"):
        open_dataset(folder, "train")[2]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": np.ones((T, H, W + 1), np.float32)}, r"sample 7: depth must be float32 \(3, 4, 5\), got"),
        ({"depth": np.ones((T, H, W))}, "got float64"),
        ({"depth": np.full((T, H, W), np.inf, np.float32)}, "depth holds 60 values that are not finite"),
        ({"motion": np.full((T - 1, H, W, 3), np.nan, np.float32)}, "motion holds 120 values"),
        ({"object_ids": np.full((T, H, W), 3, np.uint8)}, "object_ids up to 3 for 2 objects"),
        ({"position": np.zeros((T, 3, 3))}, r"position must be float64 \(3, 2, 3\)"),
    ],
)
def test_a_broken_sample_is_refused_when_written(
    tmp_path: Path, changes: dict[str, np.ndarray], message: str
) -> None:
    writer = ShardWriter(tmp_path, 0)
    with pytest.raises(ValueError, match=message):
        writer.add("7", _arrays(7, **changes), _metadata(7))


def test_a_pixel_without_surface_may_have_nan_depth(tmp_path: Path) -> None:
    ShardWriter(tmp_path, 0).add("0", _arrays(0, depth=np.full((T, H, W), np.nan, np.float32)), _metadata(0))


def test_a_sample_without_an_array_or_field_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 0)
    arrays, metadata = _arrays(0), _metadata(0)
    del arrays["visible"]
    with pytest.raises(ValueError, match=r"lacks \['visible'\]"):
        writer.add("0", arrays, metadata)
    del metadata["camera"]
    with pytest.raises(ValueError, match=r"lacks metadata \['camera'\]"):
        writer.add("0", _arrays(0), metadata)


def test_a_key_is_taken_once(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 0)
    writer.add("0", _arrays(0), _metadata(0))
    with pytest.raises(ValueError, match="already in shard-000000.tar"):
        writer.add("0", _arrays(0), _metadata(0))


def test_inspecting_finds_whole_shards_only(folder: Path) -> None:
    path = folder / "train" / "shard-000000.tar"
    note = inspect_shard(path)
    assert note is not None
    assert note["keys"] == ["000000", "000001"]
    path.write_bytes(b"no tar" * 1000)
    assert inspect_shard(path) is None
    assert inspect_shard(folder / "train" / "shard-000009.tar") is None


def test_a_full_disk_leaves_no_shard(tmp_path: Path) -> None:
    """A real limit on file size stands for the full disk: writing fails half way with an OSError."""
    program = (
        "import numpy as np, sys; from pathlib import Path; from phys4d.data.write import ShardWriter\n"
        "writer = ShardWriter(Path(sys.argv[1]), 0)\n"
        "writer._members.append(('0.npz', bytes(2_000_000)))\n"
        "try: writer.close()\n"
        "except OSError as error: print('refused', error.errno); sys.exit(3)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=60,
    )
    assert (done.returncode, done.stdout[:7]) == (3, "refused"), done.stderr
    assert list(tmp_path.iterdir()) == []
