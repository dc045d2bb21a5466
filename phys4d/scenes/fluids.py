"""Fluids: weakly compressible liquids as material points, in tanks with a clear front.

Solver and equations: `solvers.mpm`. Real: weight, pressure, viscosity, impact on walls, solids and balls. Not
modelled: surface tension, air, and (at about 4 cm cells) thin sheets and spray.
"""

import math
from typing import Any

from phys4d.scenes import continuum_drawing, drawing
from phys4d.scenes.category import Category, Drawn
from phys4d.scenes.continuum import build, engine, simulate
from phys4d.scenes.drawing import Entry, Rng

LIQUIDS = {
    "water": (1000.0, 0.001, (205.0, 0.75, 0.9)),
    "milk": (1030.0, 0.003, (45.0, 0.08, 0.97)),
    "oil": (915.0, 0.08, (50.0, 0.85, 0.85)),
    "syrup": (1330.0, 2.5, (22.0, 0.9, 0.6)),
    "honey": (1420.0, 8.0, (36.0, 0.95, 0.9)),
    "paint": (1250.0, 0.5, None),
}
"""Density in kg/m3, viscosity in Pa s at room temperature, colour (hue, saturation, value); None is any."""


def _liquid(rng: Rng) -> tuple[str, str, list[float], float, float]:
    """Colour word, material, rgb, density, viscosity; the last two within 10 % of the book's."""
    material = str(rng.choice(list(LIQUIDS)))
    density, viscosity, look = LIQUIDS[material]
    color = (
        drawing.colors(rng, 1)[0]
        if look is None
        else {"milk": "white", "water": "blue"}.get(material, "amber")
    )
    hue, saturation, value = look or (drawing.HUES[color], 0.9, 0.9)
    rgb = drawing.hsv_to_rgb(hue + rng.uniform(-5, 5), saturation, value * rng.uniform(0.9, 1.0))
    return color, material, rgb, density * rng.uniform(0.98, 1.02), viscosity * rng.uniform(0.9, 1.1)


def _pour_in(rng: Rng, form: str, size: list[float], place: list[float], **more: Any) -> Entry:
    color, material, rgb, density, viscosity = _liquid(rng)
    return continuum_drawing.stuff(
        color,
        material,
        "liquid",
        form,
        size,
        place,
        rgb=rgb,
        density_kg_m3=density,
        viscosity_pa_s=viscosity,
        **more,
    )


def _tank(rng: Rng, friction: float, high: float = 0.9) -> tuple[Entry, list[Entry], float, float]:
    """Tank, its fixtures, width and depth."""
    cell = rng.uniform(0.043, 0.048)
    width, depth = rng.uniform(0.9, 1.3), rng.uniform(0.24, 0.4)
    low = [-width / 2 + rng.uniform(-0.08, 0.08), -depth / 2, 0.0]
    tank, sides = continuum_drawing.glass_tank(rng, low, [width, depth, high], cell, friction)
    return tank, [*drawing.backdrop(rng, friction), *sides], tank["size_m"][0], tank["size_m"][1]


def _middle(tank: Entry) -> tuple[float, float]:
    return tuple(tank["origin_m"][i] + tank["size_m"][i] / 2 for i in (0, 1))


def _column(rng: Rng, tank: Entry, width: float, depth: float) -> tuple[Entry, float]:
    """Liquid that stands against one side, and which side: -1 is left."""
    sign = float(rng.choice([-1, 1]))
    x, y = _middle(tank)
    wide, high = rng.uniform(0.25, 0.38) * width, rng.uniform(0.35, 0.75)
    place = [x + sign * (width - wide) / 2, y, high / 2]
    return _pour_in(rng, "box", [wide / 2, depth / 2, high / 2], place), sign


def _words(entry: Entry) -> str:
    return f"{entry['color']} {entry['material']} of {entry['viscosity_pa_s']:.2g} pascal seconds"


def dam_break(rng: Rng, friction: float) -> Drawn:
    """A column of liquid that a gate held collapses and runs to the other side."""
    tank, fixtures, width, depth = _tank(rng, friction)
    liquid, sign = _column(rng, tank, width, depth)
    high, side = 2 * liquid["size_m"][2], "left" if sign < 0 else "right"
    return Drawn(
        objects=[liquid],
        fixtures=fixtures,
        words=f"column of {_words(liquid)} {high:.2f} m high on the {side} released",
        more={"tank": tank},
    )


def obstacle(rng: Rng, friction: float) -> Drawn:
    """A released column meets a block or a post on its way."""
    tank, fixtures, width, depth = _tank(rng, friction)
    liquid, sign = _column(rng, tank, width, depth)
    x, y = _middle(tank)
    place = x - sign * rng.uniform(0.0, 0.2) * width
    high = rng.uniform(0.1, 0.3)
    if rng.random() < 0.5:
        half = [rng.uniform(0.06, 0.1), rng.uniform(0.25, 0.5) * depth, high / 2]
        block = drawing.block(rng, "block", half, [place, y, high / 2], friction)
    else:
        block = drawing.block(rng, "post", [1.0, 1.0, 1.0], [place, y, high / 2], friction)
        block |= {"shape": "cylinder", "size_m": [rng.uniform(0.07, 0.11), high / 2]}
    return Drawn(
        objects=[liquid],
        fixtures=[*fixtures, {**block, "solid": 1}],
        words=f"column of {_words(liquid)} released against a {block['name']} {high:.2f} m high",
        more={"tank": tank},
    )


def pour(rng: Rng, friction: float) -> Drawn:
    """Liquid pours through the gap of a hopper into the box below."""
    tank, fixtures, width, depth = _tank(rng, friction, high=1.26)
    x, y = _middle(tank)
    gap, slope, bottom = rng.uniform(0.17, 0.26), rng.uniform(0.9, 1.4), rng.uniform(0.4, 0.55)
    plates = continuum_drawing.hopper(rng, [x, y, bottom], width, depth, gap, slope, friction)
    high = rng.uniform(0.3, 0.45)
    liquid = _pour_in(
        rng, "hopper", [width / 2, depth / 2, high / 2], [x, y, bottom + high / 2], gap_m=gap, slope=slope
    )
    return Drawn(
        objects=[liquid],
        fixtures=[*fixtures, *plates],
        words=f"{_words(liquid)} pours through a gap of {gap:.2f} m from {bottom:.2f} m into a box",
        more={"tank": tank},
    )


def droplet(rng: Rng, friction: float) -> Drawn:
    """A large drop falls into a pool of the same liquid, in another colour."""
    tank, fixtures, width, depth = _tank(rng, friction, high=1.1)
    x, y = _middle(tank)
    level = rng.uniform(0.12, 0.25)
    pool = _pour_in(rng, "box", [width / 2, depth / 2, level / 2], [x, y, level / 2])
    radius = rng.uniform(0.09, min(0.14, 0.42 * depth))
    down = drawing.speed(rng, 0.0, 2.0)
    place = [
        x + rng.uniform(-0.3, 0.3) * width,
        y,
        rng.uniform(level + 1.5 * radius, 1.0 - radius),
    ]
    drop = {**pool, "form": "sphere", "size_m": [radius], "position_m": place}
    color = str(rng.choice([c for c in drawing.HUES if c != pool["color"]]))
    drop |= {
        "name": f"{color} drop",
        "color": color,
        "rgb": drawing.hsv_to_rgb(drawing.HUES[color], 0.9, 0.9),
        "linear_velocity_m_s": [0.0, 0.0, -down],
    }
    speed = drawing.words_of_velocity([0.0, 0.0, -down])
    return Drawn(
        objects=[drop, pool],
        fixtures=fixtures,
        words=f"{color} drop of radius {radius:.2f} m {speed} into {_words(pool)} {level:.2f} m deep",
        more={"tank": tank},
    )


def slosh(rng: Rng, friction: float) -> Drawn:
    """Liquid with a tilted surface, as after a push of its tank, sloshes."""
    tank, fixtures, width, depth = _tank(rng, friction)
    x, y = _middle(tank)
    tilt = rng.uniform(0.25, 0.6) * float(rng.choice([-1, 1]))
    top = rng.uniform(0.16, 0.3) + abs(tilt) * width / 2
    liquid = _pour_in(rng, "box", [width / 2, depth / 2, top / 2], [x, y, top / 2], tilt=tilt)
    level = top - abs(tilt) * width / 2
    k = math.pi / width
    period = 2 * math.pi / math.sqrt(9.81 * k * math.tanh(k * level))
    return Drawn(
        objects=[liquid],
        fixtures=fixtures,
        words=f"{_words(liquid)} {level:.2f} m deep with a tilted surface sloshes with period {period:.2f} s",
        more={"tank": tank},
    )


def splash(rng: Rng, friction: float) -> Drawn:
    """A ball falls into liquid, and floats or sinks."""
    tank, fixtures, width, depth = _tank(rng, friction, high=1.1)
    x, y = _middle(tank)
    level = rng.uniform(0.2, 0.35)
    pool = _pour_in(rng, "box", [width / 2, depth / 2, level / 2], [x, y, level / 2])
    radius = rng.uniform(0.1, min(0.15, 0.45 * depth))
    down = drawing.speed(rng, 0.0, 1.0)
    place = [x + rng.uniform(-0.3, 0.3) * width, y, level + radius + rng.uniform(0.05, 0.4)]
    color = drawing.colors(rng, 1)[0]
    ball = drawing.body(rng, color, "sphere", [radius], place, velocity_m_s=[0.0, 0.0, -down])
    fate = "floats" if ball["density_kg_m3"] < pool["density_kg_m3"] else "sinks"
    return Drawn(
        objects=[ball, pool],
        fixtures=fixtures,
        words=f"{drawing.words_of_object(ball)} {drawing.words_of_velocity([0.0, 0.0, -down])} into "
        f"{_words(pool)} {level:.2f} m deep and {fate}",
        more={"tank": tank},
    )


CATEGORY = Category(
    name="fluids",
    engine=engine,
    families={
        "dam_break": dam_break,
        "pour": pour,
        "droplet": droplet,
        "slosh": slosh,
        "obstacle": obstacle,
        "splash": splash,
    },
    build=build,
    simulate=simulate,
    physical={"viscosity_pa_s": (0.001, 20.0), "friction": (0.02, 1.0)},
    timestep_s=0.0008,
    min_travel_m=0.1,
    held_out=("splash",),
)
