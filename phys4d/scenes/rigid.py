"""The families of rigid scenes. Each draws the parameters of one scene; see `rigid_bodies` for their meaning.

Speeds stated in a caption are exact.
"""

import math
from typing import Any

import mujoco
import numpy as np

from phys4d.scenes import drawing
from phys4d.scenes.category import MIXED_GRAVITY, Category, Drawn
from phys4d.scenes.drawing import Entry, Rng
from phys4d.scenes.rigid_bodies import build
from phys4d.scenes.simulation import simulate

ROUND = ("sphere", "cylinder", "capsule")
SHAPES = ("sphere", "box", "cylinder", "capsule", "ellipsoid")


def drop(rng: Rng, friction: float) -> Drawn:
    """One or two objects fall from rest or with a push, and bounce."""
    count = int(rng.integers(1, 3))
    names = drawing.colors(rng, count)
    objects, words = [], []
    for index, color in enumerate(names):
        shape = str(rng.choice(SHAPES))
        size = drawing.random_size(rng, shape)
        x = rng.uniform(-0.55, 0.55) if count == 1 else (-1) ** index * rng.uniform(0.15, 0.7)
        velocity = [0.0, 0.0, 0.0]
        if rng.random() < 0.5:
            velocity[0] = drawing.speed(rng, 0.25, 1.0) * (-1 if x > 0 else 1)
        if rng.random() < 0.3:
            velocity[1] = drawing.speed(rng, 0.25, 0.5) * rng.choice([-1, 1])
        position = [x, rng.uniform(-0.25, 0.25), drawing.reach(shape, size) + rng.uniform(0.35, 1.0)]
        turn = drawing.random_quaternion(rng)
        entry = drawing.body(rng, color, shape, size, position, quaternion_wxyz=turn, velocity_m_s=velocity)
        objects.append(entry)
        words.append(f"{drawing.words_of_object(entry)} {drawing.words_of_velocity(velocity)}")
    return Drawn(objects=objects, fixtures=drawing.backdrop(rng, friction), words=" . ".join(words))


def collision(rng: Rng, friction: float) -> Drawn:
    """Two bodies on the floor roll or slide into each other."""
    sign = float(rng.choice([-1, 1]))
    names = drawing.colors(rng, 2)
    speeds = (drawing.speed(rng, 1.5, 3.0), -drawing.speed(rng, 0.5, 2.0) if rng.random() < 0.5 else 0.0)
    places = (rng.uniform(-0.9, -0.55), rng.uniform(0.15, 0.5))
    objects, words = [], []
    for color, along, x in zip(names, speeds, places, strict=True):
        shape = str(rng.choice(("sphere", "sphere", "box", "cylinder", "capsule")))
        size = drawing.random_size(rng, shape)
        height, turn = drawing.lying(shape, size, rng.uniform(-0.2, 0.2))
        velocity = [sign * along, 0.0, 0.0]
        entry = drawing.body(
            rng,
            color,
            shape,
            size,
            [sign * x, rng.uniform(-0.1, 0.1), height],
            quaternion_wxyz=turn,
            velocity_m_s=velocity,
            spin_rad_s=drawing.rolling_spin(shape, size, turn, velocity),
        )
        objects.append(entry)
        words.append(f"{drawing.words_of_object(entry)} {drawing.words_of_velocity(velocity)}")
    return Drawn(objects=objects, fixtures=drawing.backdrop(rng, friction), words=" . ".join(words))


def ramp(rng: Rng, friction: float) -> Drawn:
    """An object released on a ramp rolls or slides down and on, perhaps into a second one."""
    sign = float(rng.choice([-1, 1]))
    slope = math.radians(rng.uniform(20.0, 40.0))
    names = drawing.colors(rng, 2)
    # Drawn for a ramp that falls to the right; `sign` mirrors it.
    foot = rng.uniform(-0.05, 0.3)
    down, normal = (
        np.array([math.cos(slope), 0, -math.sin(slope)]),
        np.array([math.sin(slope), 0, math.cos(slope)]),
    )
    length, thickness, width = rng.uniform(1.2, 1.4), 0.5, rng.uniform(0.35, 0.5)
    centre = np.array([foot, 0.0, 0.0]) - down * 0.5 * length - normal * thickness / 2
    # The block reaches below the floor so that its foot meets the floor without a step.
    centre += down * 0.15
    ramp_block = drawing.block(
        rng,
        "ramp",
        (0.5 * length + 0.15, width, thickness / 2),
        drawing.mirrored(sign, centre.tolist())[0],
        friction,
        quaternion_wxyz=drawing.quaternion((0, 1, 0), sign * slope),
    )
    shape = str(rng.choice(("sphere", "sphere", "box", "cylinder", "capsule")))
    size = drawing.random_size(rng, shape, high=0.26)
    height, level = drawing.lying(shape, size, 0.0)
    place = np.array([foot, 0.0, 0.0]) - down * length * rng.uniform(0.55, 0.85) + normal * (height + 1e-4)
    place[1] = rng.uniform(-0.1, 0.1)
    along = drawing.speed(rng, 0.0, 1.5)
    velocity = [sign * along * down[0], 0.0, along * down[2]]
    tilt = drawing.quaternion((0, 1, 0), sign * slope)
    turn = _product(tilt, level)
    spin = drawing.rolling_spin(shape, size, level, [sign * along, 0.0, 0.0])
    first = drawing.body(
        rng,
        names[0],
        shape,
        size,
        drawing.mirrored(sign, place.tolist())[0],
        quaternion_wxyz=turn,
        velocity_m_s=velocity,
        spin_rad_s=spin,
    )
    objects = [first]
    words = [f"{drawing.words_of_object(first)} " + (f"downhill {along:.2f}" if along else "at rest")]
    if rng.random() < 0.5:
        shape = str(rng.choice(("sphere", "box", "cylinder")))
        size = drawing.random_size(rng, shape, high=0.25)
        height, level = drawing.lying(shape, size, rng.uniform(-0.2, 0.2))
        spot = [sign * (foot + rng.uniform(0.3, 0.6)), rng.uniform(-0.1, 0.1), height]
        objects.append(drawing.body(rng, names[1], shape, size, spot, quaternion_wxyz=level))
        words.append(f"{drawing.words_of_object(objects[1])} at rest")
    fixtures = [*drawing.backdrop(rng, friction), ramp_block]
    return Drawn(objects=objects, fixtures=fixtures, words=" . ".join(words))


def tower(rng: Rng, friction: float) -> Drawn:
    """A ball hits a tower of three boxes or a row of dominoes."""
    sign = float(rng.choice([-1, 1]))
    material = str(rng.choice(["wood", "rubber"]))
    objects: list[Entry] = []
    if rng.random() < 0.5:
        names = drawing.colors(rng, 4)
        x, y, top = rng.uniform(0.1, 0.4), rng.uniform(-0.1, 0.1), 0.0
        for color in names[1:]:
            half = [rng.uniform(0.15, 0.21), rng.uniform(0.15, 0.21), rng.uniform(0.13, 0.17)]
            spot = [sign * (x + rng.uniform(-0.03, 0.03)), y, top + half[2]]
            turn = drawing.quaternion((0, 0, 1), rng.uniform(-0.15, 0.15))
            objects.append(
                drawing.body(rng, color, "box", half, spot, material=material, quaternion_wxyz=turn)
            )
            top += 2 * half[2]
        words, aim, front = f"tower of 3 {material} boxes", rng.uniform(0.0, 0.8) * top, x - 0.3
    else:
        count = int(rng.integers(3, 5))
        names = drawing.colors(rng, count + 1)
        half = [rng.uniform(0.05, 0.07), rng.uniform(0.13, 0.2), rng.uniform(0.24, 0.3)]
        gap, x, y = rng.uniform(0.26, 0.32), rng.uniform(-0.25, -0.1), rng.uniform(-0.1, 0.1)
        for index, color in enumerate(names[1:]):
            spot = [sign * (x + index * gap), y, half[2]]
            objects.append(drawing.body(rng, color, "box", half, spot, material=material))
        words, aim, front = f"row of {count} {material} dominoes", rng.uniform(0.0, 0.5), x - half[0]
    radius = rng.uniform(0.17, 0.24)
    along, lift = drawing.speed(rng, 2.0, 4.0), 0.0
    height = max(radius, aim)
    if height > radius:
        lift = drawing.speed(rng, 0.0, 1.0)
    start = sign * max(-1.1, front - radius - rng.uniform(0.2, 0.5))
    velocity = [sign * along, 0.0, lift]
    spin = [0.0, 0.0, 0.0]
    if height == radius:
        spin = drawing.rolling_spin("sphere", [radius], [1.0, 0.0, 0.0, 0.0], velocity)
    ball = drawing.body(
        rng, names[0], "sphere", [radius], [start, y, height], velocity_m_s=velocity, spin_rad_s=spin
    )
    caption = f"{drawing.words_of_object(ball)} {drawing.words_of_velocity(velocity)} . {words} at rest"
    return Drawn(objects=[ball, *objects], fixtures=drawing.backdrop(rng, friction), words=caption)


def projectile(rng: Rng, friction: float) -> Drawn:
    """An object is thrown against a wall or into an open box."""
    sign = float(rng.choice([-1, 1]))
    color = drawing.colors(rng, 1)[0]
    shape = str(rng.choice(("sphere", "sphere", "box", "capsule", "ellipsoid")))
    size = drawing.random_size(rng, shape, high=0.25)
    start = [rng.uniform(-1.0, -0.75), rng.uniform(-0.1, 0.1), rng.uniform(0.4, 0.9)]
    fixtures = drawing.backdrop(rng, friction)
    if rng.random() < 0.5:
        along, lift = drawing.speed(rng, 2.0, 3.5), drawing.speed(rng, 0.0, 1.5)
        x = rng.uniform(0.35, 0.75)
        half = [0.08, rng.uniform(0.5, 0.8), rng.uniform(0.5, 0.8)]
        fixtures.append(drawing.block(rng, "wall", half, [sign * (x + half[0]), 0.1, half[2]], friction))
        target = "wall"
    else:
        along, lift = drawing.speed(rng, 1.75, 3.0), drawing.speed(rng, 0.5, 1.5)
        rim = rng.uniform(0.25, 0.35)
        # Where it comes down to the rim under normal gravity, give or take.
        time = (lift + math.sqrt(max(lift**2 + 2 * 9.81 * (start[2] - rim), 0.0))) / 9.81
        x = min(start[0] + along * time + rng.uniform(-0.1, 0.15), 0.75)
        fixtures += _open_box(rng, sign * x, rim, friction)
        target = "open box"
    velocity = [sign * along, 0.0, lift]
    turn = drawing.random_quaternion(rng)
    entry = drawing.body(
        rng,
        color,
        shape,
        size,
        drawing.mirrored(sign, start)[0],
        quaternion_wxyz=turn,
        velocity_m_s=velocity,
    )
    words = f"{drawing.words_of_object(entry)} {drawing.words_of_velocity(velocity)} . {target}"
    return Drawn(objects=[entry], fixtures=fixtures, words=words)


def _open_box(rng: Rng, x: float, rim: float, friction: float) -> list[Entry]:
    """Four walls about (x, 0) with the front one lower, so that the camera sees inside."""
    half, thick = rng.uniform(0.38, 0.46), 0.04
    shade = drawing.block(rng, "box", (1, 1, 1), (0, 0, 0), friction)
    low = 0.5 * rim
    sides = (
        ("box left", (thick, half, rim / 2), (x - half, 0.0, rim / 2)),
        ("box right", (thick, half, rim / 2), (x + half, 0.0, rim / 2)),
        ("box back", (half + thick, thick, rim / 2), (x, half, rim / 2)),
        ("box front", (half + thick, thick, low / 2), (x, -half, low / 2)),
    )
    return [
        {**shade, "name": name, "size_m": list(size), "position_m": list(place)}
        for name, size, place in sides
    ]


def _product(a: list[float], b: list[float]) -> list[float]:
    """Quaternion of rotation `b` followed by `a`."""
    v, w = np.asarray(a[1:]), np.asarray(b[1:])
    return [float(a[0] * b[0] - v @ w), *(a[0] * w + b[0] * v + np.cross(v, w)).tolist()]


def billiard(rng: Rng, friction: float) -> Drawn:
    """A ball rolls into a row or a triangle of balls at rest."""
    sign = float(rng.choice([-1, 1]))
    material = str(rng.choice(["wood", "rubber", "steel"]))
    radius = rng.uniform(0.13, 0.17)
    gap = 2 * radius + 0.004
    if rng.random() < 0.5:
        count = int(rng.integers(2, 5))
        spots = np.array([[index * gap, 0.0] for index in range(count)])
        words = f"row of {count} {material} balls"
    else:
        spots = np.array([[0.0, 0.0], [gap * math.sqrt(0.75), gap / 2], [gap * math.sqrt(0.75), -gap / 2]])
        words = f"triangle of 3 {material} balls"
    yaw = rng.uniform(-0.5, 0.5)
    spots = spots @ np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]])
    x, y = rng.uniform(-0.1, 0.15), rng.uniform(-0.1, 0.2)
    names = drawing.colors(rng, len(spots) + 1)
    along = drawing.speed(rng, 1.5, 3.5)
    velocity = [sign * along, 0.0, 0.0]
    spin = drawing.rolling_spin("sphere", [radius], [1.0, 0.0, 0.0, 0.0], velocity)
    start = [sign * (x - rng.uniform(0.6, 0.85)), y + rng.uniform(-0.5, 0.5) * radius, radius]
    ball = drawing.body(
        rng,
        names[0],
        "sphere",
        [radius],
        start,
        material=material,
        velocity_m_s=velocity,
        spin_rad_s=spin,
    )
    others = [
        drawing.body(rng, color, "sphere", [radius], [sign * (x + dx), y + dy, radius], material=material)
        for color, (dx, dy) in zip(names[1:], spots, strict=True)
    ]
    caption = f"{drawing.words_of_object(ball)} {drawing.words_of_velocity(velocity)} . {words} at rest"
    return Drawn(objects=[ball, *others], fixtures=drawing.backdrop(rng, friction), words=caption)


def domino_curve(rng: Rng, friction: float) -> Drawn:
    """A ball topples the first of five dominoes that stand along a curve."""
    sign = float(rng.choice([-1, 1]))
    material = str(rng.choice(["wood", "rubber"]))
    names = drawing.colors(rng, 6)
    half = [rng.uniform(0.04, 0.055), rng.uniform(0.1, 0.15), rng.uniform(0.22, 0.28)]
    step, bend = rng.uniform(0.22, 0.28), float(rng.choice([-1, 1])) * rng.uniform(0.12, 0.3)
    first = np.array([rng.uniform(-0.5, -0.35), rng.uniform(-0.1, 0.1)])
    place, heading, dominoes = first.copy(), 0.0, []
    for color in names[1:]:
        spot = [sign * place[0], place[1], half[2]]
        turn = drawing.quaternion((0, 0, 1), sign * heading)
        dominoes.append(drawing.body(rng, color, "box", half, spot, material=material, quaternion_wxyz=turn))
        heading += bend
        place += step * np.array([math.cos(heading), math.sin(heading)])
    radius = rng.uniform(0.14, 0.18)
    along = drawing.speed(rng, 1.5, 3.0)
    velocity = [sign * along, 0.0, 0.0]
    x = first[0] - half[0] - radius - rng.uniform(0.1, 0.25)
    start = [sign * x, first[1], rng.uniform(radius, half[2] + 0.1)]
    ball = drawing.body(rng, names[0], "sphere", [radius], start, velocity_m_s=velocity)
    side = "away" if bend > 0 else "toward"
    caption = (
        f"{drawing.words_of_object(ball)} {drawing.words_of_velocity(velocity)} . "
        f"curve {side} of 5 {material} dominoes at rest"
    )
    return Drawn(objects=[ball, *dominoes], fixtures=drawing.backdrop(rng, friction), words=caption)


def table(rng: Rng, friction: float) -> Drawn:
    """An object slides or rolls over the edge of a table, perhaps into one that stands at the edge."""
    sign = float(rng.choice([-1, 1]))
    names = drawing.colors(rng, 2)
    top, edge = rng.uniform(0.4, 0.65), rng.uniform(-0.1, 0.2)
    length, width = rng.uniform(0.5, 0.6), rng.uniform(0.3, 0.45)
    desk = drawing.block(
        rng, "table", (length, width, top / 2), [sign * (edge - length), 0.0, top / 2], friction
    )
    shape = str(rng.choice(("sphere", "box", "cylinder", "capsule")))
    size = drawing.random_size(rng, shape, low=0.16, high=0.2)
    height, turn = drawing.lying(shape, size, rng.uniform(-0.1, 0.1))
    along = drawing.speed(rng, 1.0, 2.5)
    velocity = [sign * along, 0.0, 0.0]
    place = [sign * (edge - rng.uniform(0.45, 0.8)), rng.uniform(-0.08, 0.08), top + height + 1e-4]
    first = drawing.body(
        rng,
        names[0],
        shape,
        size,
        place,
        quaternion_wxyz=turn,
        velocity_m_s=velocity,
        spin_rad_s=drawing.rolling_spin(shape, size, turn, velocity),
    )
    objects = [first]
    words = [f"{drawing.words_of_object(first)} {drawing.words_of_velocity(velocity)} on a table"]
    if rng.random() < 0.5:
        shape = str(rng.choice(("box", "cylinder")))
        size = [rng.uniform(0.1, 0.13), rng.uniform(0.1, 0.13), rng.uniform(0.15, 0.2)]
        size = size if shape == "box" else [size[0], size[2]]
        spot = [sign * (edge - rng.uniform(0.02, 0.1)), rng.uniform(-0.08, 0.08), top + size[-1] + 1e-4]
        objects.append(drawing.body(rng, names[1], shape, size, spot))
        words.append(f"{drawing.words_of_object(objects[1])} at rest at the edge")
    fixtures = [*drawing.backdrop(rng, friction), desk]
    return Drawn(objects=objects, fixtures=fixtures, words=" . ".join(words))


def redraw(rng: Rng, parameters: dict[str, Any]) -> None:
    """Mixed physics: gravity, both frictions and the restitution of each object."""
    parameters["gravity_m_s2"] = 9.81 * rng.uniform(*MIXED_GRAVITY)
    parameters["object_friction"] = rng.uniform(0.02, 1.0)
    friction = rng.uniform(0.02, 1.0)
    for fixture in parameters["fixtures"]:
        fixture["friction"] = friction
    for entry in parameters["objects"]:
        entry["restitution"] = rng.uniform(0.05, 0.9)


def engine() -> str:
    """Name and version of MuJoCo."""
    return f"mujoco {mujoco.mj_versionString()}"


CATEGORY = Category(
    name="rigid",
    engine=engine,
    families={
        "drop": drop,
        "collision": collision,
        "ramp": ramp,
        "tower": tower,
        "projectile": projectile,
        "billiard": billiard,
        "domino_curve": domino_curve,
        "table": table,
    },
    build=build,
    simulate=simulate,
    physical={"friction": (0.02, 1.0), "object_friction": (0.02, 1.0), "restitution": (0.05, 0.9)},
    redraw=redraw,
    held_out=("table",),
)
