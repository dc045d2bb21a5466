"""Prompts from a dataset: what a video is generated from, and what its reward needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from phys4d.data import Dataset, open_dataset
from phys4d.models.cache import EncodingCache
from phys4d.models.protocol import Conditioning, VideoModel
from phys4d.types import Camera, Rollout, SceneSpec


@dataclass(frozen=True, eq=False)
class Prompt:
    """One scene to generate."""

    key: str
    """The sample's key in its dataset."""
    text: str
    scene: SceneSpec
    camera: Camera
    object_ids: UInt8[np.ndarray, "height width"]
    """Instances in frame 0."""
    first_frame: UInt8[np.ndarray, "height width 3"]

    def rollout(
        self, sample_id: str, depth: np.ndarray, motion: np.ndarray, rgb: np.ndarray | None = None
    ) -> Rollout:
        """What the reward service is sent for one generated video."""
        return Rollout(
            sample_id=sample_id,
            scene=self.scene,
            camera=self.camera,
            depth=depth,
            motion=motion,
            object_ids=self.object_ids,
            rgb=rgb,
            text=self.text,
        )


def open_scenes(data: Path, split: str, num_scenes: int) -> Dataset:
    """A split with at least that many scenes.

    Raises:
        ValueError: it has fewer.
    """
    dataset = open_dataset(data, split)
    if len(dataset) < num_scenes:
        raise ValueError(f"num_scenes is {num_scenes}, but {data} {split} has {len(dataset)}; render more")
    return dataset


def load_prompts(dataset: Dataset, indices: Sequence[int]) -> list[Prompt]:
    """Read prompts; annotations beyond frame 0 are not looked at."""
    prompts = []
    for index in indices:
        sample = dataset[index]
        prompts.append(
            Prompt(
                sample.key, sample.caption, sample.spec, sample.camera, sample.object_ids[0], sample.rgb[0]
            )
        )
    return prompts


def num_latent_frames(model: VideoModel, prompts: Sequence[Prompt]) -> int:
    """Latent frames of the videos to generate, which are as long and as large as the simulator's."""
    return model.latent_shape(prompts[0].scene.num_frames, *prompts[0].first_frame.shape[:2])[1]


def encode_prompts(cache: EncodingCache, prompts: Sequence[Prompt]) -> Conditioning:
    """Text embeddings and first-frame latents, on the model's device."""
    return encode(cache, [p.text for p in prompts], np.stack([p.first_frame for p in prompts]))


def encode(
    cache: EncodingCache, texts: Sequence[str], first_frames: UInt8[np.ndarray, "prompts height width 3"]
) -> Conditioning:
    """The same of texts and pictures that belong to no dataset."""
    device = cache.model.transformer.device
    latents = cache.videos(torch.from_numpy(first_frames).unsqueeze(1))
    return Conditioning(cache.texts(texts).to(device), latents[:, :, 0].to(device))
