"""Read the published weights of Open-Sora v1.2 from a local folder, safetensors only.

They are in transformers' form: `config.json` beside `model.safetensors`, or beside its index and parts.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from phys4d.models.open_sora.stdit3 import STDiT3
from phys4d.models.open_sora.vae import OpenSoraVae

TRANSFORMER_SOURCE = "hpcai-tech/OpenSora-STDiT-v3"
VAE_SOURCE = "hpcai-tech/OpenSora-VAE-v1.2"
WEIGHTS = "model.safetensors"

Model = TypeVar("Model", bound=nn.Module)


def load_transformer(folder: Path, dtype: torch.dtype = torch.float32) -> STDiT3:
    """The transformer, in evaluation mode; the frequencies over frames stay float32.

    Raises:
        FileNotFoundError: names the missing file and where it is published.
        ValueError: a file that is cut off, or weights of another layout; names the first difference.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"no {path}; get config.json and {WEIGHTS} of {TRANSFORMER_SOURCE}")
    known = inspect.signature(STDiT3).parameters
    config = {name: value for name, value in json.loads(path.read_text()).items() if name in known}
    with torch.device("meta"):
        model = STDiT3(**config)
    weights = _read(folder, TRANSFORMER_SOURCE)
    return _fill(model, weights, folder, dtype, keep=("rope.",))


def load_vae(folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> OpenSoraVae:
    """The video autoencoder, in evaluation mode.

    Args:
        config: settings of `OpenSoraVae` that differ from the published ones.

    Raises:
        FileNotFoundError, ValueError: as `load_transformer`.
    """
    weights = _read(folder, VAE_SOURCE)
    with torch.device("meta"):
        model = OpenSoraVae(**config)
    for name, values in (("shift", model.config.latents_mean), ("scale", model.config.latents_std)):
        weights.setdefault(name, torch.tensor(values).view(1, -1, 1, 1, 1))
    return _fill(model, weights, folder, dtype)


def _read(folder: Path, source: str) -> dict[str, Tensor]:
    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = [WEIGHTS]
    weights: dict[str, Tensor] = {}
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"no {folder / name}; get it from {source}")
        try:
            weights |= load_file(folder / name)
        except SafetensorError as error:
            raise ValueError(
                f"{folder / name} is no whole safetensors file ({error}); get it again from {source}"
            ) from error
    return weights


def _fill(
    model: Model, weights: dict[str, Tensor], folder: Path, dtype: torch.dtype, keep: tuple[str, ...] = ()
) -> Model:
    """Put weights in place of a model's, which may be on the meta device."""
    ours = model.state_dict()
    for name in sorted(ours.keys() ^ weights.keys()):
        where = "missing from" if name in ours else "unknown in"
        raise ValueError(f"{name} is {where} the weights in {folder}; they are not of this model")
    for name, tensor in weights.items():
        if tensor.shape != ours[name].shape:
            raise ValueError(
                f"{name} in {folder} has shape {tuple(tensor.shape)}, expected {tuple(ours[name].shape)}"
            )
    weights = {name: t if keep and name.startswith(keep) else t.to(dtype) for name, t in weights.items()}
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval()
