"""Deformable objects: soft solids that drop, take weights, are thrown, squeezed or slide down."""

import math

import numpy as np

from phys4d.scenes import drawing, flex_bodies
from phys4d.scenes import flex_drawing as soft
from phys4d.scenes.category import Category, Drawn
from phys4d.scenes.drawing import Rng


def drop(rng: Rng, friction: float) -> Drawn:
    """A soft block or ball falls to the floor."""
    color = drawing.colors(rng, 1)[0]
    form, half = _form(rng, 0.2, 0.32)
    down, along = drawing.speed(rng, 0.0, 2.0), drawing.speed(rng, -1.0, 1.0)
    place = [rng.uniform(-0.3, 0.3), rng.uniform(-0.15, 0.2), half[2] + rng.uniform(0.3, 0.75)]
    velocity = [along, 0.0, -down]
    entry = soft.soft(rng, color, form, half, place, velocity_m_s=velocity)
    words = f"{entry['name']} {drawing.words_of_velocity(velocity)}"
    return Drawn(objects=[entry], fixtures=drawing.backdrop(rng, friction), words=words)


def pillow(rng: Rng, friction: float) -> Drawn:
    """A weight falls on a pillow."""
    names = drawing.colors(rng, 2)
    half = [rng.uniform(0.38, 0.5), rng.uniform(0.28, 0.36), rng.uniform(0.12, 0.17)]
    # Feathers are softer than the foam of blocks.
    place = [rng.uniform(-0.15, 0.15), rng.uniform(-0.05, 0.15), half[2] + 0.003]
    cushion = soft.soft(
        rng, names[0], "pillow", half, place, material="foam", counts=(11, 9, 5), cells=(4, 3, 1)
    )
    cushion["young_pa"] *= rng.uniform(0.5, 1.0)
    shape = str(rng.choice(["sphere", "box", "cylinder"]))
    size = drawing.random_size(rng, shape, 0.1, 0.16)
    down = drawing.speed(rng, 0.0, 2.0)
    spot = [place[0] + rng.uniform(-0.12, 0.12), place[1] + rng.uniform(-0.08, 0.08)]
    height = 2 * half[2] + drawing.reach(shape, size) + rng.uniform(0.12, 0.45)
    weight = soft.rigid(
        rng,
        names[1],
        shape,
        size,
        [*spot, height],
        quaternion_wxyz=drawing.quaternion(
            (rng.uniform(-1, 1), rng.uniform(-1, 1), 0.2), rng.uniform(0, 0.3)
        ),
        velocity_m_s=[0.0, 0.0, -down],
    )
    weight["mass_kg"] = min(weight["mass_kg"], 12.0)
    words = (
        f"{weight['mass_kg']:.1f} kg {drawing.words_of_object(weight)} "
        f"{drawing.words_of_velocity([0, 0, -down])} . {cushion['name']}"
    )
    return Drawn(objects=[cushion, weight], fixtures=drawing.backdrop(rng, friction), words=words)


def throw(rng: Rng, friction: float) -> Drawn:
    """A soft body is thrown against a wall."""
    sign = float(rng.choice([-1, 1]))
    color = drawing.colors(rng, 1)[0]
    form, half = _form(rng, 0.17, 0.26)
    along, lift = drawing.speed(rng, 2.0, 4.5), drawing.speed(rng, 0.0, 1.5)
    x = rng.uniform(0.4, 0.8)
    wall_half = [0.08, rng.uniform(0.5, 0.8), rng.uniform(0.5, 0.8)]
    wall = drawing.block(rng, "wall", wall_half, [sign * (x + wall_half[0]), 0.1, wall_half[2]], friction)
    start = [-sign * rng.uniform(0.4, 0.75), rng.uniform(-0.1, 0.1), half[2] + rng.uniform(0.2, 0.5)]
    velocity = [sign * along, 0.0, lift]
    entry = soft.soft(rng, color, form, half, start, velocity_m_s=velocity)
    words = f"{entry['name']} {drawing.words_of_velocity(velocity)} . wall"
    return Drawn(objects=[entry], fixtures=[*drawing.backdrop(rng, friction), wall], words=words)


def squeeze(rng: Rng, friction: float) -> Drawn:
    """A plate comes down on a soft block, or from the side, and squeezes it."""
    names = drawing.colors(rng, 2)
    form, half = _form(rng, 0.24, 0.34)
    place = [rng.uniform(-0.1, 0.1), rng.uniform(-0.05, 0.15), half[2] + 0.003]
    entry = soft.soft(rng, names[0], form, half, place)
    speed_m_s = drawing.speed(rng, 0.5, 1.0)
    gap = rng.uniform(0.03, 0.12)
    depth = rng.uniform(0.3, 0.6) * 2 * half[2]
    thick = rng.uniform(0.03, 0.05)
    plate = soft.rigid(
        rng,
        names[1],
        "box",
        [half[0] + rng.uniform(0.05, 0.15), half[1] + rng.uniform(0.05, 0.15), thick],
        [place[0], place[1], 2 * half[2] + gap + thick],
        material="steel",
    )
    plate = soft.driven(plate, [0.0, 0.0, -speed_m_s], (gap + depth) / speed_m_s)
    share = 100 * depth / (2 * half[2])
    words = f"{entry['name']} at rest . {names[1]} steel plate down {speed_m_s:.2f} by {share:.0f} percent"
    return Drawn(objects=[entry, plate], fixtures=drawing.backdrop(rng, friction), words=words)


def impact(rng: Rng, friction: float) -> Drawn:
    """A rigid ball rolls or flies into a soft body that stands on the floor."""
    sign = float(rng.choice([-1, 1]))
    names = drawing.colors(rng, 2)
    form, half = _form(rng, 0.2, 0.3)
    x = rng.uniform(0.1, 0.35)
    entry = soft.soft(rng, names[0], form, half, [sign * x, rng.uniform(-0.05, 0.1), half[2] + 0.003])
    radius, along = rng.uniform(0.1, 0.16), drawing.speed(rng, 2.0, 4.0)
    height = rng.uniform(radius, max(radius, 1.6 * half[2]))
    start = [sign * (x - half[0] - radius - rng.uniform(0.2, 0.5)), entry["position_m"][1], height]
    velocity = [sign * along, 0.0, drawing.speed(rng, 0.0, 0.75)]
    ball = soft.rigid(rng, names[1], "sphere", [radius], start, velocity_m_s=velocity)
    words = (
        f"{entry['name']} at rest . {ball['mass_kg']:.1f} kg {drawing.words_of_object(ball)} "
        f"{drawing.words_of_velocity(velocity)}"
    )
    return Drawn(objects=[entry, ball], fixtures=drawing.backdrop(rng, friction), words=words)


def slide(rng: Rng, friction: float) -> Drawn:
    """Jelly slides, or a soft ball rolls, down a ramp."""
    sign = float(rng.choice([-1, 1]))
    slope = math.radians(rng.uniform(20.0, 38.0))
    color = drawing.colors(rng, 1)[0]
    form = str(rng.choice(["ellipsoid", "ellipsoid", "box"]))
    radius = rng.uniform(0.16, 0.23)
    half = [radius] * 3 if form == "ellipsoid" else [radius, radius, rng.uniform(0.6, 1.0) * radius]
    foot = rng.uniform(-0.05, 0.3)
    down, normal = (
        np.array([math.cos(slope), 0, -math.sin(slope)]),
        np.array([math.sin(slope), 0, math.cos(slope)]),
    )
    length, thickness, width = rng.uniform(1.2, 1.4), 0.5, rng.uniform(0.35, 0.5)
    centre = np.array([foot, 0.0, 0.0]) - down * (0.5 * length - 0.15) - normal * thickness / 2
    ramp = drawing.block(
        rng,
        "ramp",
        (0.5 * length + 0.15, width, thickness / 2),
        [sign * centre[0], centre[1], centre[2]],
        friction,
        quaternion_wxyz=drawing.quaternion((0, 1, 0), sign * slope),
    )
    # Soft bodies start upright: an edge of a box touches first.
    lift = radius if form == "ellipsoid" else half[0] * math.sin(slope) + half[2] * math.cos(slope)
    place = np.array([foot, 0.0, 0.0]) - down * length * rng.uniform(0.5, 0.75) + normal * (lift + 0.01)
    along = drawing.speed(rng, 0.0, 1.5)
    entry = soft.soft(
        rng,
        color,
        form,
        half,
        [sign * place[0], rng.uniform(-0.08, 0.08), place[2]],
        velocity_m_s=[sign * along * down[0], 0.0, along * down[2]],
    )
    words = f"{entry['name']} downhill {along:.2f} on a ramp of {math.degrees(slope):.0f} degrees"
    return Drawn(objects=[entry], fixtures=[*drawing.backdrop(rng, friction), ramp], words=words)


def _form(rng: Rng, low: float, high: float) -> tuple[str, list[float]]:
    """A form and half extents whose largest is at most `high`."""
    form = str(rng.choice(["box", "ellipsoid"]))
    if form == "ellipsoid" and rng.random() < 0.5:
        return form, [rng.uniform(low, high)] * 3
    return form, [rng.uniform(low, high) for _ in range(3)]


CATEGORY = Category(
    name="deformable",
    engine=flex_bodies.engine,
    families={
        "drop": drop,
        "pillow": pillow,
        "throw": throw,
        "squeeze": squeeze,
        "impact": impact,
        "slide": slide,
    },
    build=flex_bodies.build,
    simulate=flex_bodies.simulate,
    physical={
        "friction": (0.02, 1.0),
        "object_friction": (0.02, 1.0),
        "mass_kg": (0.5, 100.0),
        "young_pa": (5e3, 2e5),
        "poisson": (0.1, 0.42),
        "damping_s": (0.002, 0.05),
    },
    min_travel_m=0.15,
    held_out=("slide",),
)
