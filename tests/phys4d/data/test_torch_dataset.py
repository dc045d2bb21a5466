"""Samples as torch tensors, through torch's own loader."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from phys4d.data import ShardWriter, open_dataset
from phys4d.data.format import ARRAYS
from phys4d.data.torch_dataset import StreamDataset, TensorDataset
from phys4d.data.write import write_index
from phys4d.scenes.render import render_split
from phys4d.scenes.render_config import RenderConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tensors")
    sizes = {"width": 16, "height": 16, "num_frames": 3, "supersampling": 1, "workers": 1}
    render_split(RenderConfig(out=out, num_samples=3, families="drop", annotations="full", **sizes))
    return out


def test_a_loader_batches_videos_and_words(folder: Path) -> None:
    tensors = TensorDataset(open_dataset(folder, "train"), ("rgb", "depth", "normal", "category_ids"))
    batches = list(DataLoader(tensors, batch_size=2))
    assert [len(batch["key"]) for batch in batches] == [2, 1]
    assert batches[0]["rgb"].shape == (2, 3, 16, 16, 3)
    assert batches[0]["rgb"].dtype == torch.uint8
    assert batches[0]["normal"].shape == (2, 3, 16, 16, 3)
    assert batches[0]["category"] == ["rigid", "rigid"]
    assert batches[0]["category_ids"].unique().tolist() == [0, 1]
    assert batches[0]["camera"]["camera_from_world"].shape == (2, 4, 4)
    stacked = open_dataset(folder, "train").stack("normal")
    assert stacked.shape == (3, 3, 16, 16, 3)
    assert torch.equal(batches[1]["normal"][0], torch.from_numpy(stacked[2]))


def test_a_stream_gives_each_sample_once_to_one_rank_and_worker(folder: Path, tmp_path: Path) -> None:
    """Seven shards of two, three ranks of two workers each; shuffled, and otherwise in each epoch."""
    given, notes = open_dataset(folder, "train")[0], []
    arrays = {name: getattr(given, name) for name in ARRAYS}
    metadata = {name: getattr(given, name) for name in ("caption", "objects", "engine")}
    metadata |= {"spec": json.loads(given.spec.to_json()), "camera": given.camera.to_dict()}
    for shard in range(7):
        writer = ShardWriter(tmp_path / "train", shard)
        for key in (f"{2 * shard:06d}", f"{2 * shard + 1:06d}"):
            writer.add(key, arrays, metadata)
        notes.append(writer.close())
    write_index(tmp_path / "train", notes, {"settings": {}})
    dataset = open_dataset(tmp_path, "train")
    plain = [sample["key"] for sample in StreamDataset(dataset, ("rgb",))]
    assert plain == dataset.keys

    def shuffled(epoch: int) -> list[str]:
        keys = []
        for rank in range(3):
            stream = StreamDataset(dataset, ("rgb",), shuffle_buffer=3, rank=rank, num_ranks=3)
            stream.set_epoch(epoch)
            keys += [sample["key"][0] for sample in DataLoader(stream, num_workers=2 if epoch == 0 else 0)]
        return keys

    first, second = shuffled(0), shuffled(1)
    assert sorted(first) == sorted(second) == plain
    assert first != plain and second != plain
    with pytest.raises(ValueError, match="rank 7 of 8 cannot share 7 shards"):
        StreamDataset(dataset, rank=7, num_ranks=8)


def test_unknown_and_absent_arrays_are_refused_by_name(folder: Path) -> None:
    dataset = open_dataset(folder, "train")
    with pytest.raises(ValueError, match=r"unknown arrays \['dept'\]"):
        TensorDataset(dataset, ("dept",))
    with pytest.raises(ValueError, match=r"sample 000000 in .* has no particles; it has rgb"):
        TensorDataset(dataset, ("particles",))[0]
