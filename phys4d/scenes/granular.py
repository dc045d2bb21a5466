"""Granular materials: sand as a Drucker-Prager continuum of material points.

Solver and equations: `solvers.mpm`. Real: weight, internal friction, dilation without cohesion, friction of
the floor, impact of balls. Not modelled: single grains, dust, moisture.
"""

import math
from typing import Any

from phys4d.scenes import continuum_drawing, drawing
from phys4d.scenes.category import Category, Drawn
from phys4d.scenes.continuum import build, engine, simulate
from phys4d.scenes.drawing import Entry, Rng

GRAINS = {
    "beach sand": (1600.0, 33.0, (42.0, 0.45, 0.9)),
    "dark gravel": (1700.0, 40.0, (25.0, 0.15, 0.45)),
    "glass beads": (1500.0, 23.0, (180.0, 0.5, 0.9)),
    "rice": (850.0, 28.0, (48.0, 0.12, 0.97)),
    "dyed sand": (1600.0, 33.0, None),
}
"""Bulk density in kg/m3, internal friction in degrees, colour (hue, saturation, value); None is any."""


def _grains(rng: Rng, form: str, size: list[float], place: list[float], **more: Any) -> Entry:
    material = str(rng.choice(list(GRAINS)))
    density, angle, look = GRAINS[material]
    color = drawing.colors(rng, 1)[0] if look is None else ""
    hue, saturation, value = look or (drawing.HUES[color], 0.8, 0.9)
    rgb = drawing.hsv_to_rgb(hue + rng.uniform(-5, 5), saturation, value * rng.uniform(0.9, 1.0))
    entry = continuum_drawing.stuff(
        color,
        material,
        "sand",
        form,
        size,
        place,
        rgb=rgb,
        density_kg_m3=density * rng.uniform(0.97, 1.03),
        friction_deg=angle + rng.uniform(-2, 2),
        **more,
    )
    return {**entry, "name": f"{color} {material}".strip()}


def _words(entry: Entry) -> str:
    return f"{entry['name']} of internal friction {entry['friction_deg']:.0f} degrees"


def _open_floor(rng: Rng) -> Entry:
    """A domain without visible sides, wide enough for what falls into it."""
    cell = rng.uniform(0.04, 0.045)
    size = [math.ceil(s / cell) * cell for s in (2.0, 1.3, 1.3)]
    return {"origin_m": [-size[0] / 2, -size[1] / 2, 0.0], "size_m": size, "cell_m": cell}


def _ground(friction: float) -> tuple[float, str | None]:
    """Friction under free sand and the word for it: on ice it would run off the domain."""
    return (friction, None) if friction > 0.1 else (drawing.SURFACES["normal"], "normal")


def collapse(rng: Rng, friction: float) -> Drawn:
    """A block of sand, a mould taken away, collapses on the open floor."""
    tank, (friction, surface) = _open_floor(rng), _ground(friction)
    half = [rng.uniform(0.13, 0.2), rng.uniform(0.13, 0.2), rng.uniform(0.18, 0.36)]
    sand = _grains(rng, "box", half, [rng.uniform(-0.25, 0.25), rng.uniform(-0.1, 0.1), half[2]])
    return Drawn(
        objects=[sand],
        fixtures=drawing.backdrop(rng, friction),
        surface=surface,
        words=f"block of {_words(sand)} {2 * half[2]:.2f} m high released",
        more={"tank": tank},
    )


def pile(rng: Rng, friction: float) -> Drawn:
    """Sand is poured from above onto the floor and makes a pile."""
    tank, (friction, surface) = _open_floor(rng), _ground(friction)
    half = [rng.uniform(0.09, 0.13), rng.uniform(0.09, 0.13), rng.uniform(0.3, 0.45)]
    lift = rng.uniform(0.05, 1.25 - 2 * half[2])
    down = drawing.speed(rng, 0.0, 1.0)
    sand = _grains(
        rng,
        "box",
        half,
        [rng.uniform(-0.25, 0.25), rng.uniform(-0.1, 0.1), lift + half[2]],
        velocity_m_s=(0.0, 0.0, -down),
    )
    return Drawn(
        objects=[sand],
        fixtures=drawing.backdrop(rng, friction),
        surface=surface,
        words=f"stream of {_words(sand)} {drawing.words_of_velocity([0.0, 0.0, -down])} from {lift:.2f} m "
        "makes a pile",
        more={"tank": tank},
    )


def _box(rng: Rng, friction: float, high: float) -> tuple[Entry, list[Entry]]:
    cell = rng.uniform(0.04, 0.045)
    width, depth = rng.uniform(0.8, 1.15), rng.uniform(0.24, 0.36)
    low = [-width / 2 + rng.uniform(-0.08, 0.08), -depth / 2, 0.0]
    tank, sides = continuum_drawing.glass_tank(rng, low, [width, depth, high], cell, friction)
    return tank, [*drawing.backdrop(rng, friction), *sides]


def hourglass(rng: Rng, friction: float) -> Drawn:
    """Sand runs through a neck from the upper chamber into the lower one."""
    friction = drawing.SURFACES["normal"]
    tank, fixtures = _box(rng, friction, 1.26)
    width, depth = tank["size_m"][:2]
    x = tank["origin_m"][0] + width / 2
    gap, slope, bottom = rng.uniform(0.18, 0.26), rng.uniform(1.0, 1.6), rng.uniform(0.35, 0.5)
    high = rng.uniform(0.3, 0.45)
    sand = _grains(
        rng, "hopper", [width / 2, depth / 2, high / 2], [x, 0.0, bottom + high / 2], gap_m=gap, slope=slope
    )
    return Drawn(
        objects=[sand],
        fixtures=[
            *fixtures,
            *continuum_drawing.hopper(rng, [x, 0.0, bottom], width, depth, gap, slope, friction),
        ],
        surface="normal",
        words=f"{_words(sand)} runs through a neck of {gap:.2f} m into the chamber below",
        more={"tank": tank},
    )


def impact(rng: Rng, friction: float) -> Drawn:
    """A ball falls into a bed of sand."""
    tank, fixtures = _box(rng, friction, 1.1)
    width, depth = tank["size_m"][:2]
    x = tank["origin_m"][0] + width / 2
    level = rng.uniform(0.18, 0.3)
    bed = _grains(rng, "box", [width / 2, depth / 2, level / 2], [x, 0.0, level / 2])
    radius, down = rng.uniform(0.09, 0.13), drawing.speed(rng, 0.5, 3.0)
    across = drawing.speed(rng, 0.0, 1.0) * float(rng.choice([-1, 1]))
    place = [x - 0.2 * across, 0.0, level + radius + rng.uniform(0.05, 0.4)]
    velocity = [across, 0.0, -down]
    color = drawing.colors(rng, 1)[0]
    ball = drawing.body(rng, color, "sphere", [radius], place, velocity_m_s=velocity)
    return Drawn(
        objects=[ball, bed],
        fixtures=fixtures,
        words=f"{drawing.words_of_object(ball)} {drawing.words_of_velocity(velocity)} into {_words(bed)}",
        more={"tank": tank},
    )


def slope(rng: Rng, friction: float) -> Drawn:
    """A heap of sand on an incline slides down it or stays."""
    tank, fixtures = _box(rng, friction, 1.05)
    width, depth = tank["size_m"][:2]
    left = tank["origin_m"][0]
    angle, sign = math.radians(rng.uniform(30, 45)), float(rng.choice([-1, 1]))
    x = left + width / 2
    foot = x - sign * rng.uniform(0.0, 0.1)
    thick, length = 0.06, 1.0
    along = (-sign * math.cos(angle), math.sin(angle))
    outward = (-sign * math.sin(angle), -math.cos(angle))
    centre = [foot + 0.5 * length * along[0] + thick * outward[0], 0.0]
    centre.append(0.5 * length * along[1] + thick * outward[1])
    turn = drawing.quaternion((0, 1, 0), sign * angle)
    ramp = drawing.block(
        rng, "incline", (length / 2 + 0.05, depth / 2, thick), centre, friction, quaternion_wxyz=turn
    )
    half = [rng.uniform(0.11, 0.16), depth / 2, rng.uniform(0.12, 0.2)]
    up = rng.uniform(0.28, 0.36)
    place = [foot + up * along[0], 0.0, up * along[1] + half[2]]
    sand = _grains(rng, "box", half, place)
    return Drawn(
        objects=[sand],
        fixtures=[*fixtures, {**ramp, "solid": 1}],
        words=f"{_words(sand)} released on an incline of {math.degrees(angle):.0f} degrees",
        more={"tank": tank},
    )


CATEGORY = Category(
    name="granular",
    engine=engine,
    families={"collapse": collapse, "pile": pile, "hourglass": hourglass, "impact": impact, "slope": slope},
    build=build,
    simulate=simulate,
    physical={"friction_deg": (15.0, 45.0), "friction": (0.02, 1.0)},
    timestep_s=0.0008,
    min_travel_m=0.1,
    held_out=("slope",),
)
