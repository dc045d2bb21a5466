"""Published weights: find them, check them, load them part by part."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

HUB = "https://huggingface.co"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt"]
_STEMS = {"text_encoder": "model"}
_DEFAULT_STEM = "diffusion_pytorch_model"


def resolve(source: Path | str, part: str = "") -> Path:
    """The folder of a pipeline: a local folder as it is, a hub id through the hub's cache.

    Args:
        part: download this subfolder only; `.` is a repository that is one part.

    Raises:
        FileNotFoundError: neither a folder nor to be had from the hub; says which files are needed.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if not isinstance(source, str) or not _HUB_ID.fullmatch(source):
        raise FileNotFoundError(
            f"no transformer/ in {source}, which is no folder; train the base with `make base`"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        patterns = [f"{part}/{pattern}" for pattern in _FILES] if part not in ("", ".") else _FILES
        return Path(snapshot_download(source, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise FileNotFoundError(
            f"the weights of {source} are not on this machine and the hub did not give them "
            f"({type(error).__name__}): {_needed(source, part)} of {HUB}/{source} are needed; where there is "
            f"a network run `hf download {source} --local-dir FOLDER` and give FOLDER"
        ) from error


def _needed(source: str, part: str) -> str:
    """The files of a source, for people."""
    weights = "config.json and *.safetensors"
    if part == ".":
        return weights
    if part in ("tokenizer", "scheduler"):
        return f"the files of {part}/"
    if part:
        return f"{part}/ ({weights})"
    return f"transformer/, vae/, text_encoder/ ({weights}), tokenizer/ and scheduler/"


def load_index(folder: Path) -> dict[str, Any]:
    """What `model_index.json` says.

    Raises:
        FileNotFoundError: there is none.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise FileNotFoundError(f"no model_index.json in {folder}; train the base with `make base`")
    return json.loads(path.read_text(encoding="utf-8"))


def load_config(folder: Path, part: str) -> dict[str, Any]:
    """The configuration of a part.

    Raises:
        FileNotFoundError: the part is not there.
    """
    path = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    if not path.is_file():
        raise FileNotFoundError(
            f"no {part}/ in {folder} (its {path.name} is missing): train the base with `make base`, or "
            f"download all of a published model with `hf download ORG/NAME --local-dir {folder}`"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def check_class(part_class: type[Any], config: dict[str, Any], folder: Path) -> None:
    """Refuse the configuration of a part of another class."""
    declared = config.get("_class_name") or (config.get("architectures") or [part_class.__name__])[0]
    if declared != part_class.__name__:
        raise ValueError(f"{folder} must hold a {part_class.__name__}, got {declared}; another backbone?")


def load_part(part_class: type[Any], folder: Path, part: str, dtype: torch.dtype) -> Any:
    """One model of a pipeline, its files checked first.

    Raises:
        FileNotFoundError: names the missing files.
        ValueError: the part is of another class, a file is damaged, or weights do not fit.
    """
    config = load_config(folder, part)
    check_class(part_class, config, folder / part)
    for path in weight_files(folder, part):
        check_safetensors(path)
    is_diffusers = issubclass(part_class, ModelMixin)
    keywords = {"torch_dtype": dtype} if is_diffusers else {"dtype": dtype}
    return load_whole(part_class, folder / part, low_cpu_mem_usage=True, local_files_only=True, **keywords)


def load_whole(model_class: type[Any], source: Path | str, **keywords: Any) -> Any:
    """`from_pretrained` that takes safetensors only and refuses weights that are missing or too many.

    Raises:
        ValueError: weights do not fit the source's config.json.
    """
    try:
        model, info = model_class.from_pretrained(
            source, use_safetensors=True, output_loading_info=True, **keywords
        )
    except RuntimeError as error:
        raise ValueError(f"{source} does not fit its config.json: {str(error).splitlines()[0]}") from error
    for kind, names in (("missing", info["missing_keys"]), ("unexpected", info["unexpected_keys"])):
        names = sorted(names)
        if names:
            raise ValueError(
                f"{source} has {len(names)} {kind} weights for a {type(model).__name__} "
                f"of its config.json, first {names[0]}; the files are of another version or not all there"
            )
    return model


def weight_files(folder: Path, part: str) -> list[Path]:
    """The safetensors files of a part, shards in order.

    Raises:
        FileNotFoundError: names every file that is not there.
    """
    stem = "model" if has_plain_weights(folder, part) else _STEMS.get(part, _DEFAULT_STEM)
    index = folder / part / f"{stem}.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = [f"{stem}.safetensors"]
    missing = [name for name in names if not (folder / part / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"missing weights in {folder / part}: {', '.join(missing)} (safetensors only; other formats are "
            f"not read); download the model again with `hf download ORG/NAME --local-dir {folder}`"
        )
    return [folder / part / name for name in names]


def has_plain_weights(folder: Path, part: str) -> bool:
    """Whether a part's files are named as transformers names them, `model*.safetensors`."""
    return any((folder / part / f"model.safetensors{end}").is_file() for end in ("", ".index.json"))


def check_safetensors(path: Path) -> None:
    """Refuse a file that is cut short or is no safetensors, by its header and size alone."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > size - 8:
            raise ValueError(f"{path} is no whole safetensors file ({size} bytes); download it again")
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise ValueError(
                f"{path} is no safetensors file: its header is no JSON; download it again"
            ) from error
    try:
        ends = [int(entry["data_offsets"][1]) for name, entry in header.items() if name != "__metadata__"]
    except (AttributeError, LookupError, TypeError, ValueError):
        raise ValueError(
            f"{path} is no safetensors file: its header does not say where weights lie; download it again"
        ) from None
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise ValueError(f"{path} is cut short: {size} of {expected} bytes; download it again")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a pipeline."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer" / "tokenizer_config.json").is_file():
        raise FileNotFoundError(
            f"no tokenizer/ in {folder}; train the base with `make base`, or download it with the model"
        )
    return AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
