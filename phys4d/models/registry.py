"""Which backbones and presets there are; one line each. Importing this loads no torch."""

from __future__ import annotations

import importlib
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from phys4d.runtime.config import suggestion
from phys4d.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

    from phys4d.models.backbone import Backbone

BACKBONES = {
    "wan": "phys4d.models.wan:WanModel",
    "cogvideox": "phys4d.models.cogvideox:CogVideoXModel",
    "open-sora": "phys4d.models.open_sora.model:OpenSoraModel",
}
"""Name in `model_index.json`: module and class."""

TINY = {
    "tiny-wan": "phys4d.models.wan:tiny_wan",
    "tiny-cogvideox": "phys4d.models.cogvideox:tiny_cogvideox",
    "tiny-open-sora": "phys4d.models.open_sora.model:tiny_open_sora",
}
"""Preset of a model trained from scratch: module and the function that makes it untrained."""

FULL = {
    "wan2.2-5b": "wan",
    "wan2.1-1.3b": "wan",
    "cogvideox-2b": "cogvideox",
    "cogvideox-5b": "cogvideox",
    "cogvideox-5b-i2v": "cogvideox",
    "open-sora-1.2": "open-sora",
}
"""Preset of a published model, described in `presets/NAME.toml`: its backbone."""

_PIPELINES = {"Wan": "wan", "CogVideoX": "cogvideox"}
"""How the class of a published pipeline starts: its backbone."""


def check_preset(preset: str) -> str:
    """The preset, if there is one of that name.

    Raises:
        UserError: names the nearest one.
    """
    if preset not in TINY and preset not in FULL:
        raise UserError(f"unknown preset {preset!r}{suggestion(preset, [*TINY, *FULL])}")
    return preset


def tiny_model(preset: str, captions: list[str], **sizes: int) -> Backbone:
    """An untrained tiny model whose vocabulary is that of `captions`."""
    if preset not in TINY:
        raise UserError(f"preset {preset!r} is no tiny model to train from scratch{suggestion(preset, TINY)}")
    return _named(TINY[preset])(captions, **sizes)


def backbone_class(name: str) -> type[Backbone]:
    """The class of a backbone."""
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}{suggestion(name, BACKBONES)}")
    return _named(BACKBONES[name])


def published(preset: str) -> dict[str, Any]:
    """The configuration of a published model: source, video, transformer, vae, text_encoder, scheduler."""
    if preset not in FULL:
        raise UserError(f"preset {preset!r} is no published model{suggestion(preset, FULL)}")
    path = Path(__file__).parent / "presets" / f"{preset}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def meta_model(preset: str) -> Backbone:
    """A model of a preset without weights, on torch's meta device: shapes and counts only."""
    import torch

    check_preset(preset)
    if preset in TINY:
        with torch.device("meta"):
            return tiny_model(preset, ["meta"])
    from phys4d.models.autoencoders import CLASSES

    config, backbone = published(preset), backbone_class(FULL[preset])
    options = backbone.options_of(config["scheduler"], config.get("pipeline", {}))
    vae_class = CLASSES[config["vae"].pop("class")]
    with torch.device("meta"):
        transformer = backbone.transformer_class(**config["transformer"])
        vae = vae_class(**config["vae"])
        text_class = backbone.text_encoder_class
        text_encoder = text_class(text_class.config_class(**config["text_encoder"]))
        return backbone(transformer, vae, text_encoder, None, **options)


def load_model(
    source: Path | str, *, dtype: torch.dtype | str = "float32", gradient_checkpointing: bool = False
) -> Backbone:
    """A saved or published model, whichever backbone it is, frozen.

    Args:
        source: folder in diffusers' layout, or hub id.
        dtype: of transformer and text encoder, or its name.
        gradient_checkpointing: recompute blocks in the backward pass.

    Raises:
        FileNotFoundError: names the missing part or files and where they come from.
        ValueError: damaged files, or a pipeline that is none of ours.
    """
    import torch

    from phys4d.models.loading import load_index, resolve

    folder = resolve(source)
    index = load_index(folder)
    pipeline = str(index.get("_class_name", ""))
    name = index.get("model") or next((b for p, b in _PIPELINES.items() if pipeline.startswith(p)), pipeline)
    weights = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    model = backbone_class(name).load(folder, dtype=weights, gradient_checkpointing=gradient_checkpointing)
    return model.requires_grad_(False)


def _named(target: str) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)
