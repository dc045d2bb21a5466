"""What to render: sizes, families, physics, annotations. Read without loading a simulator."""

from dataclasses import asdict, dataclass
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
    """`plain` leaves textures and patterns away, for tiny models."""
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
        for name, least in {"num_samples": 1, "width": 16, "height": 16, "num_frames": 2}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 1 <= self.supersampling <= 8:
            raise ValueError(f"supersampling must be in 1 to 8, got {self.supersampling}")
        if self.workers < 0:
            raise ValueError(f"workers must be 0 (one per core) or more, got {self.workers}")
        if self.seed_start < 0:
            raise ValueError(f"seed_start must not be negative, got {self.seed_start}")
        if self.fps <= 0:
            raise ValueError(f"fps must be positive, got {self.fps}")
        if not 1 <= self.points_per_object <= 4096:
            raise ValueError(f"points_per_object must be in 1 to 4096, got {self.points_per_object}")
        if not self.split or "/" in self.split or self.split.startswith("."):
            raise ValueError(f"split must be a plain folder name, got {self.split!r}")

    @property
    def folder(self) -> Path:
        """Where the split lies."""
        return self.out / self.split


NOT_SETTINGS = ("out", "num_samples", "workers", "families", "ray_address")
"""What may differ between runs that fill the same split."""


def family_names(config: RenderConfig) -> list[str]:
    """The families to draw from, each known; `category/family` where there are several categories."""
    from phys4d.scenes.registry import CATEGORIES, category_of, check_family

    categories = [name.strip() for name in config.category.split(",") if name.strip()]
    if categories == ["all"]:
        categories = list(CATEGORIES)
    if not categories:
        raise ValueError(f"category must name one at least, got {config.category!r}")
    asked = [name.strip() for name in config.families.split(",") if name.strip()]
    pairs = [(each, family) for each in categories for family in category_of(each).families]
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
            raise ValueError(f"none of the families of {config.category} is {config.family_split}")
    if len(categories) == 1:
        return [family for _, family in pairs]
    return [f"{category}/{family}" for category, family in pairs]


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
