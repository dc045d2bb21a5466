"""The base of a full-size run: a folder that points to published weights, checked, not copied."""

from __future__ import annotations

import json
import os
from pathlib import Path

from phys4d.models.loading import check_safetensors, load_config, resolve, weight_files
from phys4d.models.registry import FULL, backbone_class, published
from phys4d.runtime.files import atomic_directory

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


def link_published(preset: str, directory: Path, weights: str = "") -> Path:
    """Make `directory` a model folder whose parts lie where the weights were found or downloaded to.

    Every part must be there and every weight file whole, by header and size. Nothing is loaded.

    Args:
        weights: folder with the parts as subfolders, or a hub id in diffusers' layout; empty takes them from
            where they are published, part by part.

    Raises:
        FileNotFoundError: a part, or a file of it, that is not there; says which and where it is published.
        ValueError: a damaged file, or weights of another backbone.
    """
    config, backbone = published(preset), backbone_class(FULL[preset])
    sources: dict[str, str] = config.get("sources") or {part: f"{config['source']}/{part}" for part in PARTS}
    places = _places(preset, sources, weights)
    for part, place in places.items():
        if not place.is_dir():
            raise FileNotFoundError(f"no {part}/ in {place.parent}; get it from {sources[part]}")
    for part in ("transformer", "vae", "text_encoder"):
        place = places[part]
        load_config(place.parent, place.name)
        for path in weight_files(place.parent, place.name):
            check_safetensors(path)
    transformer = places["transformer"]
    backbone.check_transformer(load_config(transformer.parent, transformer.name), transformer)
    with atomic_directory(directory, replace=True) as link:
        for part, place in places.items():
            os.symlink(place.resolve(), link / part, target_is_directory=True)
        if "scheduler" not in places:
            (link / "scheduler").mkdir()
            settings = json.dumps(config["scheduler"], indent=2)
            (link / "scheduler" / "scheduler_config.json").write_text(settings)
        index = {
            "model": backbone.name,
            "preset": preset,
            "parts": [str(place) for place in places.values()],
            **config.get("pipeline", {}),
        }
        (link / "model_index.json").write_text(json.dumps(index, indent=2))
    return directory


def _places(preset: str, sources: dict[str, str], weights: str) -> dict[str, Path]:
    """The folder of each part."""
    listed = ", ".join(f"{part}/ from {source}" for part, source in sources.items())
    needed = f"{preset} needs {listed}; with these as subfolders, --weights FOLDER takes them"
    if weights and not Path(weights).is_dir() and weights.count("/") != 1:
        raise FileNotFoundError(f"weights {weights} is neither a folder nor a hub id; {needed}")
    try:
        if weights:
            folder = resolve(weights)
            return {part: folder / part for part in sources}
        return {part: _fetched(source) for part, source in sources.items()}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error}; {needed}") from error


def _fetched(source: str) -> Path:
    """The folder of `organisation/name` or `organisation/name/part`, through the hub's cache."""
    organisation, name, *part = source.split("/")
    if not part:
        return resolve(f"{organisation}/{name}", part=".")
    return resolve(f"{organisation}/{name}", part=part[0]) / part[0]
