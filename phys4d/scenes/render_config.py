"""What to render: sizes, families, physics, annotations. Read without loading a simulator."""

from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class RenderConfig:
    """What to render and where to."""

    out: Path = Path("data/rigid")
    """Folder of the dataset; the split becomes a folder in it."""
    split: str = "train"
    """Name of the split, e.g. `train` or `val`."""
    num_samples: int = 1024
    """Videos in the split. A larger number later adds videos to the same split."""
    category: str = "rigid"
    """Physical categories of the scenes, with commas between them; `all` is every one."""
    families: str = ""
    """Families to draw from, with commas between them; empty is all. Of several categories: `rope/swing`."""
    family_split: Literal["all", "seen", "held-out"] = "all"
    """`held-out` families are those that training on `seen` ones never meets."""
    look: Literal["textured", "plain"] = "textured"
    """`plain`, for tiny models, has no textures and patterns, and varies focal length and materials less."""
    physics: Literal["true", "mixed"] = "true"
    """`mixed` redraws gravity, friction and restitution per video and does not tell in the caption."""
    seed_start: int = 0
    """Seed of the first sample. Splits must not share seeds."""
    width: int = 64
    """Pixels."""
    height: int = 64
    """Pixels."""
    num_frames: int = 9
    """Frames of a video, the first at time 0."""
    fps: float = 12.0
    """Frames per second."""
    supersampling: int = 2
    """Rays per pixel along each axis for RGB; depth, ids and motion are exact at the pixel centres."""
    annotations: Literal["basic", "full"] = "basic"
    """`full` adds normals, velocities, point tracks, contacts, particles, meshes and fields."""
    points_per_object: int = 64
    """Point tracks on each object at most."""
    second_take: bool = False
    """Add a second video of each scene, with physics changed by about 1 %."""
    workers: int = 0
    """Processes; 0 is one per core."""
    ray_address: str = ""
    """Ray cluster to render on, `host:port` or `auto`; empty renders here."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} must be in {low} to {high}, got {getattr(self, name)}")
        if not self.split or "/" in self.split or self.split.startswith(".") or self.split == "README.md":
            raise ValueError(
                f"split must be a plain folder name, and not that of the card README.md, got {self.split!r}"
            )
        object.__setattr__(self, "category", ",".join(_names(self.category)))

    @property
    def folder(self) -> Path:
        """Where the split lies."""
        return self.out / self.split


RANGES = {
    "num_samples": (1, 10**8),
    "width": (16, 7680),
    "height": (16, 7680),
    "num_frames": (2, 10_000),
    "fps": (0.1, 1000),
    "supersampling": (1, 8),
    "seed_start": (0, 2**62),
    "points_per_object": (1, 4096),
    "workers": (0, 1024),
}
NOT_SETTINGS = ("out", "num_samples", "workers", "families", "ray_address")
"""What may differ between runs that fill the same split."""


def family_names(config: RenderConfig) -> list[str]:
    """The families to draw from, each known; `category/family` where there are several categories.

    Categories take turns, so that the first samples of a split show each.
    """
    from phys4d.scenes.registry import CATEGORIES, category_of, check_family

    categories = _names(config.category)
    if "all" in categories:
        categories = list(CATEGORIES)
    if not categories:
        raise ValueError(f"category must name one at least, got {config.category!r}")
    asked = _names(config.families)
    turns = zip_longest(*([(each, family) for family in category_of(each).families] for each in categories))
    pairs = [pair for turn in turns for pair in turn if pair is not None]
    if asked:
        pairs = [tuple(name.split("/", 1)) if "/" in name else (categories[0], name) for name in asked]
        if len(categories) > 1 and any("/" not in name for name in asked):
            raise ValueError(
                f"families of several categories are named category/family, got {config.families!r}"
            )
        for category, family in pairs:
            if category not in categories:
                raise ValueError(
                    f"families must be of the categories {', '.join(categories)}, got "
                    f"{category}/{family}; add {category} to --category"
                )
    for category, family in pairs:
        check_family(category, family)
    if config.family_split != "all":
        held_out = config.family_split == "held-out"
        pairs = [(c, f) for c, f in pairs if (f in CATEGORIES[c].held_out) == held_out]
        if not pairs:
            given = ", ".join(asked) or f"the families of {config.category}"
            raise ValueError(f"families must be {config.family_split} ones, got {given}; see --family-split")
    if len(categories) == 1:
        return [family for _, family in pairs]
    return [f"{category}/{family}" for category, family in pairs]


def _names(text: str) -> list[str]:
    """Names with commas between them, each once."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def settings_of(config: RenderConfig, names: list[str]) -> dict[str, Any]:
    """What all samples of a split share."""
    from phys4d.scenes.registry import category_of

    values = {k: v for k, v in asdict(config).items() if k not in NOT_SETTINGS}
    engines = {category_of(split_name(config, name)[0]).engine() for name in names}
    return {**values, "families": names, "engine": ", ".join(sorted(engines))}


def split_name(config: RenderConfig, name: str) -> tuple[str, str]:
    """Category and family of a name."""
    category, slash, family = name.rpartition("/")
    return (category, family) if slash else (config.category, name)
