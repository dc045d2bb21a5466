"""LoRA adapters on a transformer: add, train, switch, merge, save and load in diffusers' file format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from diffusers import ModelMixin, WanPipeline
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from torch import Tensor, nn

from phys4d.models.float8 import Float8Linear
from phys4d.models.loading import check_safetensors
from phys4d.models.lora_scope import least_level, limit_to_levels, load_scope, save_scope
from phys4d.runtime.files import atomic_directory

FILE_NAME = "pytorch_lora_weights.safetensors"
_PREFIX = "transformer."


def add_lora(transformer: ModelMixin, name: str, *, rank: int, targets: Sequence[str]) -> list[nn.Parameter]:
    """Attach a fresh adapter (its output is zero at first), freeze the rest, return what trains, in float32.

    Adapters attached before are switched off; `use_adapters` switches several on. `lora_alpha` equals the
    rank, so that the file needs no metadata to reload exactly.
    """
    if rank < 1:
        raise ValueError(f"lora rank must be at least 1, got {rank}")
    transformer.requires_grad_(False)
    cast(Any, transformer).add_adapter(
        LoraConfig(r=rank, lora_alpha=rank, target_modules=list(targets), init_lora_weights=True),
        adapter_name=name,
    )
    trained = [p for p in transformer.parameters() if p.requires_grad]
    for parameter in trained:
        # Small steps would be lost in half precision.
        parameter.data = parameter.data.float()
    return trained


def store_base(transformer: ModelMixin, storage: Literal["same", "float8"]) -> None:
    """Store the frozen weights under the adapters as `LoadConfig.base_storage` says.

    To be called after adapters are attached, and after earlier ones are merged. With `float8` each linear
    layer that has an adapter keeps its weights in e4m3. All other layers, and the adapters, stay as they are.
    """
    if storage == "same":
        return
    adapted = [module for module in transformer.modules() if isinstance(module, BaseTunerLayer)]
    if not adapted:
        raise ValueError("float8 is for the weights under adapters, and there is none; attach one first")
    for module in adapted:
        module.base_layer = Float8Linear(cast(nn.Linear, module.get_base_layer()))


def use_adapters(transformer: ModelMixin, names: Sequence[str]) -> None:
    """Switch these adapters on, their outputs added, and all others off.

    Raises:
        ValueError: an adapter that is not attached.
    """
    attached = list(getattr(transformer, "peft_config", {}))
    for name in names:
        if name not in attached:
            raise ValueError(f"no adapter {name!r} is attached; there are: {', '.join(attached) or 'none'}")
    cast(Any, transformer).set_adapters(list(names))


def save_lora(transformer: ModelMixin, name: str, directory: Path) -> Path:
    """Write one adapter as `directory/pytorch_lora_weights.safetensors`, readable by `load_lora_weights`.

    The file is the same for every pipeline class: weight names under `transformer.`.
    """
    with atomic_directory(directory, replace=True) as folder:
        weights: dict[str, nn.Module | Tensor] = {**get_peft_model_state_dict(transformer, adapter_name=name)}
        WanPipeline.save_lora_weights(str(folder), transformer_lora_layers=weights)
        if least_level(transformer, name):
            save_scope(folder, least_level(transformer, name))
    return directory / FILE_NAME


def load_lora(transformer: ModelMixin, name: str, directory: Path) -> None:
    """Attach a saved adapter.

    Raises:
        FileNotFoundError: where there is no adapter file.
        ValueError: where the file is damaged or the adapter belongs to another backbone.
    """
    path = directory / FILE_NAME
    if not path.is_file():
        raise FileNotFoundError(f"no adapter at {path}; train it with `make sft`")
    check_safetensors(path)
    _check_fits(transformer, path)
    cast(Any, transformer).load_lora_adapter(
        str(directory), weight_name=FILE_NAME, adapter_name=name, prefix="transformer"
    )
    limit_to_levels(transformer, name, load_scope(directory))


def _check_fits(transformer: ModelMixin, path: Path) -> None:
    """Refuse an adapter of layers that the transformer does not have, or has in another size."""
    kind = type(transformer).__name__
    with safe_open(path, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if not shapes:
        raise ValueError(f"{path} holds no adapter weights; train it again, or name another folder")
    layers = dict(transformer.named_modules())
    foreign = next((name for name in shapes if not name.startswith(_PREFIX)), None)
    if foreign is not None:
        raise ValueError(
            f"{path} is in another key format: {foreign} does not start with {_PREFIX!r}, as "
            "`save_lora_weights` of diffusers writes it; load it into a stock pipeline and save it from there"
        )
    for name, shape in shapes.items():
        stem = name.removesuffix(".weight")
        layer, _, factor = stem.removeprefix(_PREFIX).rpartition(".")
        other = stem.removesuffix(factor) + ("lora_B" if factor == "lora_A" else "lora_A") + ".weight"
        rank = 0 if factor == "lora_A" else 1
        if (
            factor not in ("lora_A", "lora_B")
            or len(shape) != 2
            or len(shapes.get(other, ())) != 2
            or shape[rank] != shapes[other][1 - rank]
        ):
            raise ValueError(
                f"{path} is no plain LoRA: {name} of shape {shape} is no lora_A or lora_B with the other, of "
                "the same rank, beside it; save it from a stock pipeline by `save_lora_weights`"
            )
        module = layers.get(layer)
        module = getattr(module, "base_layer", module)
        if not isinstance(module, nn.Linear):
            raise ValueError(
                f"{path} does not fit this transformer, it is an adapter of another backbone: {kind} has no "
                f"linear layer {layer or name!r}"
            )
        given = shape[1] if factor == "lora_A" else shape[0]
        needed = module.in_features if factor == "lora_A" else module.out_features
        if given != needed:
            raise ValueError(
                f"{path} does not fit this transformer, it is an adapter of another size: {layer} has "
                f"{needed} features, the adapter {given}"
            )


@torch.no_grad()
def merge_lora(transformer: ModelMixin, name: str) -> None:
    """Add an adapter to the weights it adapts and drop it: the merged model is the next stage's reference.

    Raises:
        ValueError: the adapter works at some noise levels only.
    """
    if least_level(transformer, name):
        raise ValueError(
            f"adapter {name!r} works from noise level {least_level(transformer, name)} only and cannot be "
            "merged into weights that serve all levels; train stage 2 with --lora-min-level 0"
        )
    cast(Any, transformer).fuse_lora(adapter_names=[name])
    cast(Any, transformer).unload_lora()
    transformer.requires_grad_(False)
