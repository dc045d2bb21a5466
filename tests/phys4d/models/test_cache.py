"""Encodings on disk: the same as fresh ones, found again by content only."""

from pathlib import Path

import pytest
import torch

from phys4d.models.backbone import Backbone
from phys4d.models.cache import EncodingCache
from phys4d.models.registry import TINY, tiny_model

CAPTIONS = ["a red ball falls", "a blue box slides", "a red ball falls"]


def make(preset: str = "tiny-wan") -> Backbone:
    torch.manual_seed(0)
    return tiny_model(preset, CAPTIONS, width=32, num_layers=2).eval()


def videos(count: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 2, 16, 16, 3), dtype=torch.uint8, generator=generator)


def entries(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("preset", TINY)
def test_what_was_kept_is_what_would_be_encoded(preset: str, tmp_path: Path) -> None:
    model = make(preset)
    fresh, first, second = (EncodingCache(model, folder) for folder in (None, tmp_path, tmp_path))
    assert torch.equal(first.videos(videos()), fresh.videos(videos()))
    assert torch.equal(first.texts(CAPTIONS), fresh.texts(CAPTIONS))
    # A model that answers otherwise would be noticed: nothing is encoded a second time.
    model.encode_video = model.encode_text = None  # type: ignore[method-assign, assignment]
    assert torch.equal(second.videos(videos()), first.videos(videos()))
    assert torch.equal(second.texts(CAPTIONS), first.texts(CAPTIONS))


def test_only_what_is_new_is_encoded_and_equal_inputs_share_an_entry(tmp_path: Path) -> None:
    model = make()
    EncodingCache(model, tmp_path).videos(videos(2))
    assert len(entries(tmp_path)) == 2
    EncodingCache(model, tmp_path).videos(torch.cat([videos(2), 255 - videos(1)]))
    assert len(entries(tmp_path)) == 3
    EncodingCache(model, tmp_path).texts(CAPTIONS)
    assert len(entries(tmp_path)) == 3 + 2


def test_a_changed_pixel_weight_or_statistic_is_another_entry(tmp_path: Path) -> None:
    model, clip = make(), videos(1)
    EncodingCache(model, tmp_path).videos(clip)
    clip[0, 1, 3, 3, 0] ^= 1
    EncodingCache(model, tmp_path).videos(clip)
    model.latents_mean[0, 0] += 1.0
    changed = EncodingCache(model, tmp_path).videos(clip)
    next(model.vae.parameters()).data[0] += 0.1
    moved = EncodingCache(model, tmp_path).videos(clip)
    assert len(entries(tmp_path)) == 4
    assert not torch.equal(changed, moved)


def test_a_damaged_entry_is_named(tmp_path: Path) -> None:
    model = make()
    EncodingCache(model, tmp_path).texts(CAPTIONS[:1])
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match=f"damaged cache entry, delete it .*{path.name} is cut short"):
        EncodingCache(model, tmp_path).texts(CAPTIONS[:1])
