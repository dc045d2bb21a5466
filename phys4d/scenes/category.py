"""What a physical category is: how its scenes are drawn, built and simulated.

A module of a category ends with

    CATEGORY = Category(name="garments", families={"drape": drape, ...}, build=build, simulate=simulate, ...)

and `registry` lists it. A family draws one scene:

    def drape(rng: Rng, friction: float) -> Drawn

from `rng` alone, with the friction of floor and walls given. `build` makes a `BuiltScene` from a spec with
`model.new_stage`, `model.add_fixtures` and `model.finish`; `simulate` makes its `Trajectory`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phys4d.scenes.drawing import Entry, Rng
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.trajectory import Trajectory
from phys4d.types import SceneSpec


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One drawn scene, before the registry adds caption, gravity, camera and light."""

    objects: list[Entry]
    """What moves, in the order of the instance ids; `objects` of the spec's parameters."""
    fixtures: list[Entry]
    """What does not: `drawing.backdrop(rng, friction)` and more `drawing.block`s."""
    words: str
    """Middle part of the caption: the facts that decide the outcome, ` . ` between sentences."""
    surface: str | None = None
    """Of `drawing.SURFACES`, where it is not the one whose friction was given."""
    more: dict[str, Any] = field(default_factory=dict)
    """Further parameters of the scene, JSON only; `camera` and `light` replace the drawn ones."""


Family = Callable[[Rng, float], Drawn]


@dataclass(frozen=True, kw_only=True)
class Category:
    """One of the nine physical categories."""

    name: str
    engine: Callable[[], str]
    """Name and version of what simulates; specs are rebuilt bit for bit within one."""
    families: Mapping[str, Family]
    """In a fixed order: a family's place is part of its seeds, so new ones come last."""
    build: Callable[[SceneSpec], BuiltScene]
    """Compile a scene, the same from the same spec; refuses malformed parameters with a ValueError."""
    simulate: Callable[[BuiltScene], Trajectory]
    """Raises UnstableSimulation rather than return a state that is not physical."""
    physical: Mapping[str, tuple[float, float]]
    """Parameters of objects, fixtures or the scene that decide the motion without showing in frame 0, and
    their ranges: redrawn within them under mixed physics, changed by about 1 % for a second take."""
    redraw: Callable[[Rng, dict[str, Any]], None] | None = None
    """Mixed physics in another way than `redraw_physics`."""
    timestep_s: float = 0.002
    """Integrator step at most: drawn scenes have a whole number of equal steps between frames."""
    min_travel_m: float = 0.2
    """A scene in which no material point gets as far from its start, times `brevity`, is refused: nothing
    moves."""
    max_speed_m_s: float = 15.0
    """A scene in which an object is faster is refused."""
    max_overlap_m: float = 0.002
    """Deepest contact at time 0."""
    held_out: tuple[str, ...] = ()
    """Families that the split `seen` leaves out: models meet them in evaluation only."""
    still: bool = False
    """Whether scenes may stand still, because heat flows in them instead."""


WHOLE_S = 8 / 12
"""Duration of the clips from which on the least that must happen is asked for in full."""


def brevity(spec: SceneSpec) -> float:
    """Factor on the least that must happen in a scene: what gathers speed gets as far as time squared."""
    return min(1.0, (spec.num_frames - 1) / spec.fps / WHOLE_S) ** 2


MIXED_GRAVITY = (0.5, 1.5)
"""Mixed physics multiplies gravity by a number of this range."""


def redraw_physics(rng: Rng, parameters: dict[str, Any], physical: Mapping[str, tuple[float, float]]) -> None:
    """Mixed physics: gravity times `MIXED_GRAVITY`, and every physical parameter anew within its range."""
    parameters["gravity_m_s2"] *= rng.uniform(*MIXED_GRAVITY)
    _change(parameters, physical, lambda low, high, _: _between(rng, low, high))


PERTURBATION = 0.01
"""Relative change of physics and speeds in a second take, one standard deviation; at most three."""
PUSH_M_S, JOINT_PUSH = 0.01, 0.05
"""Standard deviation of what a hand adds to a release: m/s along each axis, rad/s or m/s at a joint."""
SPEEDS = ("angular_velocity_rad_s", "drive_m_s", "linear_velocity_m_s", "start_speed", "wind_m_s")


def perturb(rng: Rng, parameters: dict[str, Any], physical: Mapping[str, tuple[float, float]]) -> None:
    """Second take: physical parameters and speeds times 1 +- 1 %, and releases with a push of 1 cm/s."""

    def near(value: float) -> float:
        return value * (1 + PERTURBATION * float(np.clip(rng.normal(), -3, 3)))

    _change(parameters, physical, lambda _low, _high, value: near(value))
    for table in (parameters, *parameters["objects"]):
        for name in SPEEDS:
            if name in table:
                value = table[name]
                table[name] = [near(v) for v in value] if isinstance(value, list) else near(value)
        if "linear_velocity_m_s" in table and "drive_m_s" not in table:
            pushed = np.add(table["linear_velocity_m_s"], PUSH_M_S * rng.normal(size=3))
            table["linear_velocity_m_s"] = pushed.tolist()
        if "start_speed" in table:
            table["start_speed"] += JOINT_PUSH * rng.normal()


def _change(
    parameters: dict[str, Any],
    physical: Mapping[str, tuple[float, float]],
    change: Callable[[float, float, float], float],
) -> None:
    for name, (low, high) in sorted(physical.items()):
        for table in (parameters, *parameters["objects"], *parameters["fixtures"]):
            if name in table:
                table[name] = change(low, high, table[name])


def _between(rng: Rng, low: float, high: float) -> float:
    """Uniform, or uniform in the logarithm where the range spans more than a factor 10."""
    if low > 0 and high > 10 * low:
        return float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return float(rng.uniform(low, high))
