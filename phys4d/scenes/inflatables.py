"""Inflatables: balloons that are squeezed, dropped, struck, warmed and blown up."""

import numpy as np

from phys4d.scenes import drawing, flex_bodies
from phys4d.scenes import flex_drawing as soft
from phys4d.scenes.category import Category, Drawn
from phys4d.scenes.drawing import Rng

GAP_M = 0.01
"""Between a balloon's points and what it rests on; a little more than its wall's radius."""


def squeeze(rng: Rng, friction: float) -> Drawn:
    """A plate comes down on a balloon."""
    names = drawing.colors(rng, 2)
    half = _half(rng)
    place = [rng.uniform(-0.1, 0.1), rng.uniform(-0.05, 0.15), half[2] + GAP_M]
    entry = soft.balloon(rng, names[0], half, place, overpressure_pa=rng.uniform(50.0, 150.0))
    speed_m_s = drawing.speed(rng, 0.5, 1.0)
    gap, depth, thick = rng.uniform(0.03, 0.1), rng.uniform(0.3, 0.55) * 2 * half[2], rng.uniform(0.03, 0.05)
    plate = soft.rigid(
        rng,
        names[1],
        "box",
        [1.25 * half[0], 1.25 * half[1], thick],
        [place[0], place[1], place[2] + half[2] + gap + thick],
        material=str(rng.choice(["wood", "steel"])),
    )
    plate = soft.driven(plate, [0.0, 0.0, -speed_m_s], (gap + depth) / speed_m_s)
    share = 100 * depth / (2 * half[2])
    words = f"{entry['name']} at rest . plate down {speed_m_s:.2f} by {share:.0f} percent"
    return Drawn(objects=[entry, plate], fixtures=drawing.backdrop(rng, friction), words=words)


def bounce(rng: Rng, friction: float) -> Drawn:
    """A balloon falls to the floor and bounces."""
    color = drawing.colors(rng, 1)[0]
    half = _half(rng)
    down, along = drawing.speed(rng, 0.0, 3.0), drawing.speed(rng, -1.0, 1.0)
    place = [rng.uniform(-0.3, 0.3), rng.uniform(-0.15, 0.2), half[2] + rng.uniform(0.2, 0.7)]
    velocity = [along, 0.0, -down]
    entry = soft.balloon(
        rng,
        color,
        half,
        place,
        overpressure_pa=rng.uniform(50.0, 150.0),
        velocity_m_s=velocity,
        quaternion_wxyz=drawing.quaternion((0, 1, 0), rng.uniform(-0.5, 0.5)),
    )
    words = f"{entry['name']} {1000 * entry['mass_kg']:.0f} g {drawing.words_of_velocity(velocity)}"
    return Drawn(objects=[entry], fixtures=drawing.backdrop(rng, friction), words=words)


def struck(rng: Rng, friction: float) -> Drawn:
    """A ball flies into a balloon."""
    sign = float(rng.choice([-1, 1]))
    names = drawing.colors(rng, 2)
    half = _half(rng)
    x, height = rng.uniform(0.0, 0.3), half[2] + rng.choice([GAP_M, rng.uniform(0.15, 0.4)])
    entry = soft.balloon(
        rng,
        names[0],
        half,
        [sign * x, rng.uniform(-0.05, 0.1), height],
        overpressure_pa=rng.uniform(50.0, 150.0),
    )
    radius, along = rng.uniform(0.08, 0.14), drawing.speed(rng, 2.0, 4.5)
    start = [
        sign * (x - half[0] - radius - rng.uniform(0.2, 0.5)),
        entry["position_m"][1] + rng.uniform(-0.05, 0.05),
        max(radius + 0.01, height + rng.uniform(-0.08, 0.08)),
    ]
    velocity = [sign * along, 0.0, drawing.speed(rng, 0.0, 0.75)]
    ball = soft.rigid(
        rng,
        names[1],
        "sphere",
        [radius],
        start,
        material=str(rng.choice(["rubber", "wood"])),
        velocity_m_s=velocity,
    )
    ball["mass_kg"] *= 0.25
    words = (
        f"{entry['name']} {1000 * entry['mass_kg']:.0f} g at rest . {1000 * ball['mass_kg']:.0f} g "
        f"{drawing.words_of_object(ball)} {drawing.words_of_velocity(velocity)}"
    )
    return Drawn(objects=[entry, ball], fixtures=drawing.backdrop(rng, friction), words=words)


def warm(rng: Rng, friction: float) -> Drawn:
    """The air in a limp balloon is heated: V grows with T, and it lifts what lies on it."""
    names = drawing.colors(rng, 2)
    half = [rng.uniform(0.19, 0.25) for _ in range(3)]
    place = [rng.uniform(-0.15, 0.15), rng.uniform(-0.05, 0.15), half[2] + GAP_M]
    rate = 25.0 * int(rng.integers(12, 25))
    entry = soft.balloon(
        rng,
        names[0],
        half,
        place,
        overpressure_pa=rng.uniform(20.0, 60.0),
        wall="latex",
        heating_k_s=rate,
        stretch=0.5,
    )
    objects, load = [entry], ""
    if rng.random() < 0.6:
        thick = rng.uniform(0.02, 0.04)
        size = [rng.uniform(0.7, 1.0) * half[0], rng.uniform(0.7, 1.0) * half[1], thick]
        plate = soft.rigid(
            rng,
            names[1],
            "box",
            size,
            [place[0], place[1], place[2] + half[2] + GAP_M + thick],
            material="wood",
        )
        plate["mass_kg"] *= 0.1
        objects.append(plate)
        load = f" . {names[1]} plate on it"
    words = f"{entry['name']} heated by {rate:.0f} K per second{load}"
    return Drawn(objects=objects, fixtures=drawing.backdrop(rng, friction), words=words)


def inflate(rng: Rng, friction: float) -> Drawn:
    """Air at a constant pressure blows up a balloon, which may push a box aside."""
    sign = float(rng.choice([-1, 1]))
    names = drawing.colors(rng, 2)
    radius = rng.uniform(0.16, 0.22)
    half = [radius * rng.uniform(0.9, 1.1), radius * rng.uniform(0.9, 1.1), radius]
    place = [-sign * rng.uniform(0.0, 0.2), rng.uniform(-0.05, 0.15), half[2] + GAP_M]
    entry = soft.balloon(
        rng,
        names[0],
        half,
        place,
        overpressure_pa=1.0,
        wall="latex",
        gas="supply",
        stretch=rng.uniform(0.5, 1.0),
    )
    # Thin-wall strain p R (1 - nu) / (2 Y t), from a fifth to a bit more than a third.
    stiffness = entry["young_pa"] * entry["thickness_m"]
    entry["overpressure_pa"] = rng.uniform(0.2, 0.36) * 2 * stiffness / (radius * (1 - entry["poisson"]))
    objects, words = [entry], f"{entry['name']} blown up with {entry['overpressure_pa']:.0f} Pa"
    if rng.random() < 0.6:
        size = [rng.uniform(0.06, 0.1), rng.uniform(0.08, 0.14), rng.uniform(0.1, 0.2)]
        x = place[0] + sign * (half[0] + size[0] + rng.uniform(0.02, 0.05))
        box = soft.rigid(rng, names[1], "box", size, [x, place[1], size[2]], material="wood")
        box["mass_kg"] *= 0.2
        objects.append(box)
        words += f" . {drawing.words_of_object(box)} beside it"
    return Drawn(objects=objects, fixtures=drawing.backdrop(rng, friction), words=words)


def _half(rng: Rng) -> list[float]:
    """Half axes of a round or a somewhat long balloon."""
    radius = rng.uniform(0.2, 0.28)
    if rng.random() < 0.5:
        return [radius] * 3
    return (
        radius * np.array([rng.uniform(0.8, 1.25), rng.uniform(0.8, 1.1), rng.uniform(0.8, 1.1)])
    ).tolist()


CATEGORY = Category(
    name="inflatables",
    engine=flex_bodies.engine,
    families={"squeeze": squeeze, "bounce": bounce, "struck": struck, "warm": warm, "inflate": inflate},
    build=flex_bodies.build,
    simulate=flex_bodies.simulate,
    physical={
        "friction": (0.02, 1.0),
        "object_friction": (0.02, 1.0),
        "mass_kg": (0.05, 4.0),
        "young_pa": (2e5, 2e6),
        "overpressure_pa": (10.0, 400.0),
        "damping_s": (0.002, 0.02),
    },
    timestep_s=0.004,
    min_travel_m=0.05,
    held_out=("inflate",),
)
