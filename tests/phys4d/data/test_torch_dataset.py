"""Samples as torch tensors, through torch's own loader."""

from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from phys4d.data import open_dataset
from phys4d.data.torch_dataset import TensorDataset
from phys4d.scenes.render import render_split
from phys4d.scenes.render_config import RenderConfig


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tensors")
    sizes = {"width": 16, "height": 16, "num_frames": 3, "supersampling": 1, "workers": 1}
    render_split(RenderConfig(out=out, num_samples=3, families="drop", annotations="full", **sizes))
    return out


def test_a_loader_batches_videos_and_words(folder: Path) -> None:
    tensors = TensorDataset(open_dataset(folder, "train"), ("rgb", "depth", "normal"))
    batches = list(DataLoader(tensors, batch_size=2))
    assert [len(batch["key"]) for batch in batches] == [2, 1]
    assert batches[0]["rgb"].shape == (2, 3, 16, 16, 3)
    assert batches[0]["rgb"].dtype == torch.uint8
    assert batches[0]["normal"].shape == (2, 3, 16, 16, 3)
    assert batches[0]["category"] == ["rigid", "rigid"]


def test_unknown_and_absent_arrays_are_refused_by_name(folder: Path) -> None:
    dataset = open_dataset(folder, "train")
    with pytest.raises(ValueError, match=r"unknown arrays \['dept'\]"):
        TensorDataset(dataset, ("dept",))
    with pytest.raises(ValueError, match=r"sample 000000 in .* has no particles; it has rgb"):
        TensorDataset(dataset, ("particles",))[0]
