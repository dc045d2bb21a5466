"""LoRA adapters on a transformer: add, train, merge, save and load in diffusers' file format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from phys4d.runtime.files import atomic_directory

FILE_NAME = "pytorch_lora_weights.safetensors"


def add_lora(
    transformer: WanTransformer3DModel, name: str, *, rank: int, targets: Sequence[str]
) -> list[nn.Parameter]:
    """Attach a fresh adapter (its output is zero at first), freeze the rest, return what trains.

    `lora_alpha` equals the rank, so that the file needs no metadata to reload exactly.
    """
    if rank < 1:
        raise ValueError(f"lora rank must be at least 1, got {rank}")
    transformer.requires_grad_(False)
    transformer.add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights=True),
        adapter_name=name,
    )
    return [p for p in transformer.parameters() if p.requires_grad]


def save_lora(transformer: WanTransformer3DModel, name: str, directory: Path) -> Path:
    """Write one adapter as `directory/pytorch_lora_weights.safetensors`, readable by `load_lora_weights`."""
    with atomic_directory(directory, replace=True) as folder:
        weights: dict[str, nn.Module | Tensor] = {**get_peft_model_state_dict(transformer, adapter_name=name)}
        WanPipeline.save_lora_weights(str(folder), transformer_lora_layers=weights)
    return directory / FILE_NAME


def load_lora(transformer: WanTransformer3DModel, name: str, directory: Path) -> None:
    """Attach a saved adapter.

    Raises:
        FileNotFoundError: where there is no adapter file.
        ValueError: where the adapter belongs to another architecture.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no adapter at {path}; train it with `make sft`")
    try:
        transformer.load_lora_adapter(
            str(directory), weight_name=FILE_NAME, adapter_name=name, prefix="transformer"
        )
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{path} does not fit this transformer: {str(error).splitlines()[0]}") from error


@torch.no_grad()
def merge_lora(transformer: WanTransformer3DModel, name: str) -> None:
    """Add an adapter to the weights it adapts and drop it: the merged model is the next stage's reference."""
    transformer.fuse_lora(adapter_names=[name])
    transformer.unload_lora()
    transformer.requires_grad_(False)
