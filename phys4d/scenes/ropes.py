"""Ropes: weights that swing, ropes that fall, are let go and wreck."""

import math

import numpy as np

from phys4d.scenes import drawing, flex_bodies, meshes
from phys4d.scenes import flex_drawing as soft
from phys4d.scenes.category import Category, Drawn
from phys4d.scenes.drawing import Rng


def swing(rng: Rng, friction: float) -> Drawn:
    """A weight on a rope is let go from the side, or swings with a push."""
    sign = float(rng.choice([-1, 1]))
    names = drawing.colors(rng, 2)
    length, top = rng.uniform(0.6, 0.85), rng.uniform(1.15, 1.25)
    angle = math.radians(rng.uniform(25.0, 75.0))
    pivot = np.array([sign * rng.uniform(-0.1, 0.25), rng.uniform(-0.05, 0.15), top])
    away = np.array([-sign * math.sin(angle), 0.0, -math.cos(angle)])
    shape = str(rng.choice(["sphere", "sphere", "box", "cylinder"]))
    size = drawing.random_size(rng, shape, 0.09, 0.15)
    reach = size[0]
    turn = drawing.quaternion((0, 1, 0), sign * angle)
    end = pivot + away * length
    along = drawing.speed(rng, 0.0, 1.5)
    across = np.array([sign * math.cos(angle), 0.0, -math.sin(angle)])
    if shape != "sphere":
        reach = size[-1]
    centre = end + away * reach
    velocity = (along * across).tolist()
    weight = soft.rigid(
        rng, names[1], shape, size, centre.tolist(), quaternion_wxyz=turn, velocity_m_s=velocity
    )
    weight["mass_kg"] = min(weight["mass_kg"], 9.0)
    spin = along / (length + reach)
    weight["angular_velocity_rad_s"] = [0.0, -sign * spin, 0.0]
    count = 14
    line = soft.rope(
        rng,
        names[0],
        meshes.line(pivot, end, count),
        radius_m=rng.uniform(0.018, 0.028),
        held=[0],
        tied=[(count - 1, 1)],
    )
    line["young_pa"] = 0.0
    words = (
        f"{weight['mass_kg']:.1f} kg {drawing.words_of_object(weight)} on a {length:.2f} m "
        f"{line['material']} "
        f"let go at {math.degrees(angle):.0f} degrees with {along:.2f}"
    )
    return Drawn(objects=[line, weight], fixtures=drawing.backdrop(rng, friction), words=words)


def fall(rng: Rng, friction: float) -> Drawn:
    """A rope falls over a bar, a ball or a box."""
    color = drawing.colors(rng, 1)[0]
    kind = str(rng.choice(["bar", "ball", "box"]))
    place = [rng.uniform(-0.15, 0.15), rng.uniform(-0.05, 0.2)]
    if kind == "bar":
        radius, height = rng.uniform(0.04, 0.08), rng.uniform(0.45, 0.7)
        thing = soft.solid(rng, "bar", "capsule", [radius, rng.uniform(0.4, 0.6)], [*place, height], friction)
        thing["quaternion_wxyz"] = drawing.quaternion((1, rng.uniform(-0.4, 0.4), 0), math.pi / 2)
        top = height + radius
    elif kind == "ball":
        radius = rng.uniform(0.18, 0.28)
        thing, top = soft.solid(rng, "ball", "sphere", [radius], [*place, radius], friction), 2 * radius
    else:
        half = [rng.uniform(0.12, 0.22), rng.uniform(0.15, 0.25), rng.uniform(0.15, 0.25)]
        thing, top = soft.solid(rng, "box", "box", half, [*place, half[2]], friction), 2 * half[2]
    length, radius_m = rng.uniform(0.8, 1.2), rng.uniform(0.02, 0.03)
    yaw, tilt = rng.uniform(-0.7, 0.7), rng.uniform(-0.25, 0.25)
    along = np.array([math.cos(yaw) * math.cos(tilt), math.sin(yaw) * math.cos(tilt), math.sin(tilt)]) * (
        length / 2
    )
    centre = np.array([place[0] + rng.uniform(-0.2, 0.2), place[1], 0.0])
    centre[2] = top + radius_m + abs(along[2]) + rng.uniform(0.05, 0.25)
    down = drawing.speed(rng, 0.0, 1.0)
    line = soft.rope(
        rng,
        color,
        meshes.line(centre - along, centre + along, 24),
        radius_m=radius_m,
        velocity_m_s=[0.0, 0.0, -down],
    )
    words = f"{length:.2f} m {line['name']} {drawing.words_of_velocity([0, 0, -down])} over a fixed {kind}"
    return Drawn(objects=[line], fixtures=[*drawing.backdrop(rng, friction), thing], words=words)


def release(rng: Rng, friction: float) -> Drawn:
    """A rope hangs from two places and one end is let go."""
    sign = float(rng.choice([-1, 1]))
    color = drawing.colors(rng, 1)[0]
    span, height = rng.uniform(0.7, 1.05), rng.uniform(0.95, 1.15)
    length = span * rng.uniform(1.04, 1.4)
    depth = rng.uniform(-0.1, 0.2)
    start = np.array([sign * span / 2, depth, height])
    end = np.array([-sign * span / 2, depth + rng.uniform(-0.15, 0.15), height + rng.uniform(-0.15, 0.1)])
    count = 24
    line = soft.rope(
        rng,
        color,
        soft.hanging_line(start, end, length, count),
        radius_m=rng.uniform(0.018, 0.028),
        held=[0],
    )
    side = "left" if sign > 0 else "right"
    words = f"{length:.2f} m {line['name']} over a span of {span:.2f} m . {side} end let go"
    return Drawn(objects=[line], fixtures=drawing.backdrop(rng, friction), words=words)


def wreck(rng: Rng, friction: float) -> Drawn:
    """A ball on a rope swings into a stack or a row of boxes."""
    sign = float(rng.choice([-1, 1]))
    count = int(rng.integers(1, 4))
    names = drawing.colors(rng, 2 + count)
    radius = rng.uniform(0.12, 0.16)
    length, low = rng.uniform(0.6, 0.75), rng.uniform(0.05, 0.15)
    pivot = np.array([rng.uniform(-0.1, 0.1), rng.uniform(-0.05, 0.1), low + 2 * radius + length])
    angle = math.radians(rng.uniform(35.0, 70.0))
    away = np.array([-sign * math.sin(angle), 0.0, -math.cos(angle)])
    end = pivot + away * length
    along = drawing.speed(rng, 0.0, 1.5)
    velocity = (along * np.array([sign * math.cos(angle), 0.0, -math.sin(angle)])).tolist()
    ball = soft.rigid(
        rng,
        names[1],
        "sphere",
        [radius],
        (end + away * radius).tolist(),
        material="steel",
        velocity_m_s=velocity,
    )
    # Beyond some 10 kg the segments of a rope of half a kilogram stretch visibly in 2 ms steps.
    ball["mass_kg"] = rng.uniform(4.0, 9.0)
    ball["angular_velocity_rad_s"] = [0.0, -sign * along / (length + radius), 0.0]
    points = 13
    line = soft.rope(
        rng,
        names[0],
        meshes.line(pivot, end, points),
        radius_m=rng.uniform(0.018, 0.026),
        held=[0],
        tied=[(points - 1, 1)],
    )
    line["young_pa"] = 0.0
    boxes, top = [], 0.0
    x = pivot[0] + sign * rng.uniform(0.05, 0.2)
    for name in names[2:]:
        half = [rng.uniform(0.1, 0.15), rng.uniform(0.1, 0.16), rng.uniform(0.09, 0.13)]
        spot = [x + sign * (radius + half[0]), pivot[1] + rng.uniform(-0.04, 0.04), top + half[2]]
        box = soft.rigid(rng, name, "box", half, spot, material="wood")
        box["mass_kg"] *= 0.3
        boxes.append(box)
        top += 2 * half[2]
    words = (
        f"{ball['mass_kg']:.0f} kg steel ball on a {length:.2f} m {line['material']} let go at "
        f"{math.degrees(angle):.0f} degrees with {along:.2f} . {count} wood box{'es' if count > 1 else ''}"
    )
    return Drawn(objects=[line, ball, *boxes], fixtures=drawing.backdrop(rng, friction), words=words)


CATEGORY = Category(
    name="ropes",
    engine=flex_bodies.engine,
    families={"swing": swing, "fall": fall, "release": release, "wreck": wreck},
    build=flex_bodies.build,
    simulate=flex_bodies.simulate,
    physical={
        "friction": (0.02, 1.0),
        "object_friction": (0.02, 1.0),
        "mass_kg": (0.1, 10.0),
    },
    # At 2 ms a heavy load stretches a rope by 10 %, at 1 ms by 0.2 %.
    timestep_s=0.001,
    held_out=("wreck",),
)
