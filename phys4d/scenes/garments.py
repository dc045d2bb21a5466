"""Garments: cloth that falls over things, hangs, blows in the wind, is let go or is struck."""

import math

import mujoco
import numpy as np

from phys4d.scenes import drawing, flex_bodies
from phys4d.scenes import flex_drawing as soft
from phys4d.scenes.category import Category, Drawn
from phys4d.scenes.drawing import Rng

FACING = drawing.quaternion((1, 0, 0), math.pi / 2)
"""Turns a level sheet upright: its x stays, its y points up."""


def drape(rng: Rng, friction: float) -> Drawn:
    """A level cloth falls over a ball, a box or a post."""
    color = drawing.colors(rng, 1)[0]
    kind = str(rng.choice(["sphere", "box", "cylinder"]))
    place = [rng.uniform(-0.12, 0.12), rng.uniform(-0.1, 0.15)]
    if kind == "sphere":
        radius = rng.uniform(0.22, 0.32)
        size, height = [radius], 2 * radius
    elif kind == "box":
        size = [rng.uniform(0.16, 0.26), rng.uniform(0.16, 0.26), rng.uniform(0.15, 0.32)]
        height = 2 * size[2]
    else:
        size = [rng.uniform(0.12, 0.22), rng.uniform(0.2, 0.35)]
        height = 2 * size[1]
    core = soft.solid(rng, "core", kind, size, [*place, height / 2], friction)
    if kind == "box":
        core["quaternion_wxyz"] = drawing.quaternion((0, 0, 1), rng.uniform(-0.6, 0.6))
    width, depth = rng.uniform(0.75, 1.05), rng.uniform(0.75, 1.0)
    down = drawing.speed(rng, 0.0, 1.5)
    entry = soft.cloth(
        rng,
        color,
        [width, depth],
        [13, 13],
        [
            place[0] + rng.uniform(-0.12, 0.12),
            place[1] + rng.uniform(-0.1, 0.1),
            height + rng.uniform(0.12, 0.4),
        ],
        quaternion_wxyz=_product(
            drawing.quaternion((0, 0, 1), rng.uniform(-0.7, 0.7)),
            drawing.quaternion((rng.uniform(-1, 1), rng.uniform(-1, 1), 0.01), rng.uniform(0.0, 0.25)),
        ),
        velocity_m_s=[0.0, 0.0, -down],
    )
    thing = {"sphere": "ball", "box": "box", "cylinder": "post"}[kind]
    words = f"{entry['name']} {drawing.words_of_velocity([0, 0, -down])} over a fixed {thing}"
    return Drawn(objects=[entry], fixtures=[*drawing.backdrop(rng, friction), core], words=words)


def wind(rng: Rng, friction: float) -> Drawn:
    """A cloth hangs from its upper corners, or like a flag from one side, and wind blows on it."""
    color = drawing.colors(rng, 1)[0]
    width, height = rng.uniform(0.7, 1.0), rng.uniform(0.6, 0.85)
    nx, ny = 13, 12
    flag = rng.random() < 0.4
    top = [n * ny + ny - 1 for n in range(nx)]
    held = list(range(ny)) if flag else ([top[0], top[-1]] if rng.random() < 0.6 else top)
    strength = drawing.speed(rng, 3.0, 7.0)
    sideways = drawing.speed(rng, -2.0, 2.0)
    toward = float(rng.choice([-1, 1]))
    blow = [strength, toward * 0.5 * strength, 0.0] if flag else [sideways, toward * strength, 0.0]
    entry = soft.cloth(
        rng,
        color,
        [width, height],
        [nx, ny],
        [rng.uniform(-0.15, 0.15), rng.uniform(-0.1, 0.2), height / 2 + rng.uniform(0.15, 0.4)],
        quaternion_wxyz=_product(drawing.quaternion((0, 0, 1), rng.uniform(-0.3, 0.3)), FACING),
        held=held,
    )
    how = (
        "held at its left side" if flag else f"held at {'2 corners' if len(held) == 2 else 'its upper side'}"
    )
    words = f"{entry['name']} {how} . wind {drawing.words_of_velocity(blow)}"
    return Drawn(
        objects=[entry], fixtures=drawing.backdrop(rng, friction), words=words, more={"wind_m_s": blow}
    )


def release(rng: Rng, friction: float) -> Drawn:
    """A cloth held level by corners of which some let go."""
    color = drawing.colors(rng, 1)[0]
    width, depth = rng.uniform(0.7, 0.95), rng.uniform(0.6, 0.9)
    n = 12
    corners = {"left front": 0, "left back": n - 1, "right front": n * (n - 1), "right back": n * n - 1}
    pick = str(rng.choice(["left", "right", "back", "one corner"]))
    kept = [i for name, i in corners.items() if pick in name]
    if pick == "one corner":
        kept = [corners[str(rng.choice(list(corners)))]]
    entry = soft.cloth(
        rng,
        color,
        [width, depth],
        [n, n],
        [rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.15), rng.uniform(0.85, 1.05)],
        quaternion_wxyz=drawing.quaternion((1, 0.2, 0), rng.uniform(0.1, 0.3)),
        held=kept,
    )
    words = f"{entry['name']} at rest held at {pick if len(kept) == 1 else f'its {pick} corners'}"
    return Drawn(objects=[entry], fixtures=drawing.backdrop(rng, friction), words=words)


def skirt(rng: Rng, friction: float) -> Drawn:
    """A skirt or a shirt's body, a tube of cloth, falls around a post or a ball that may hold it."""
    color = drawing.colors(rng, 1)[0]
    around = 20
    height = rng.uniform(0.35, 0.55)
    waist, hem = rng.uniform(0.15, 0.22), rng.uniform(0.26, 0.38)
    rings = 8
    rise = np.linspace(0.0, height, rings)
    radii = (hem + (waist - hem) * rise / height).tolist()
    place = [rng.uniform(-0.15, 0.15), rng.uniform(-0.1, 0.15)]
    narrow = rng.random() < 0.5
    if narrow:
        radius = rng.uniform(0.07, waist - 0.05)
        stand = soft.solid(rng, "post", "capsule", [radius, 0.3], [*place, 0.3], friction)
        top, thing = 0.6 + radius, "a fixed post that fits through"
    else:
        radius = rng.uniform(waist + 0.03, hem - 0.02)
        centre = rng.uniform(radius, 0.45)
        stand = soft.solid(rng, "dummy", "sphere", [radius], [*place, centre], friction)
        top, thing = centre + radius, "a fixed ball wider than its waist"
    down = drawing.speed(rng, 0.0, 1.0)
    entry = soft.tube(
        rng,
        color,
        radii,
        rise.tolist(),
        around,
        [place[0] + rng.uniform(-0.02, 0.02), place[1], top - 0.3 * height * rng.random() + 0.06],
        word="skirt",
        velocity_m_s=[0.0, 0.0, -down],
    )
    words = f"{entry['name']} {drawing.words_of_velocity([0, 0, -down])} around {thing}"
    return Drawn(objects=[entry], fixtures=[*drawing.backdrop(rng, friction), stand], words=words)


def struck(rng: Rng, friction: float) -> Drawn:
    """A ball flies into a hanging cloth."""
    names = drawing.colors(rng, 2)
    width, height = rng.uniform(0.75, 1.0), rng.uniform(0.7, 0.9)
    nx, ny = 13, 13
    top = [n * ny + ny - 1 for n in range(nx)]
    ends = rng.random() < 0.5
    centre = [rng.uniform(-0.1, 0.1), rng.uniform(0.1, 0.3), height / 2 + rng.uniform(0.15, 0.3)]
    yaw = rng.uniform(-0.9, 0.9)
    entry = soft.cloth(
        rng,
        names[0],
        [width, height],
        [nx, ny],
        centre,
        quaternion_wxyz=_product(drawing.quaternion((0, 0, 1), yaw), FACING),
        held=[top[0], top[-1]] if ends else top,
    )
    radius, along = rng.uniform(0.1, 0.16), drawing.speed(rng, 2.0, 4.0)
    # Toward the cloth's middle, along its normal, from the camera's side.
    normal = np.array([-math.sin(yaw), math.cos(yaw), 0.0])
    start = np.array(centre) - normal * rng.uniform(0.45, 0.7) + [0.0, 0.0, rng.uniform(-0.15, 0.15)]
    velocity = (along * normal).tolist()
    ball = soft.rigid(
        rng,
        names[1],
        "sphere",
        [radius],
        start.tolist(),
        material=str(rng.choice(["rubber", "wood"])),
        velocity_m_s=velocity,
    )
    ball["mass_kg"] *= 0.3
    how = "2 corners" if ends else "its upper side"
    words = f"{entry['name']} held at {how} . {drawing.words_of_object(ball)} toward it {along:.2f}"
    return Drawn(objects=[entry, ball], fixtures=drawing.backdrop(rng, friction), words=words)


def _product(a: list[float], b: list[float]) -> list[float]:
    """Quaternion of rotation `b` followed by `a`."""
    result = np.empty(4)
    mujoco.mju_mulQuat(result, np.asarray(a), np.asarray(b))
    return result.tolist()


CATEGORY = Category(
    name="garments",
    engine=flex_bodies.engine,
    families={"drape": drape, "wind": wind, "release": release, "skirt": skirt, "struck": struck},
    build=flex_bodies.build,
    simulate=flex_bodies.simulate,
    physical={
        "friction": (0.02, 1.0),
        "object_friction": (0.02, 1.0),
        "mass_kg": (0.03, 5.0),
        "young_pa": (1e4, 1e5),
        "damping_s": (0.002, 0.05),
    },
    timestep_s=0.004,
    min_travel_m=0.15,
    held_out=("struck",),
)
