"""Articulated structures: pendulums, doors, drawers, seesaws and Newton's cradles."""

import math
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np

from phys4d.scenes import drawing, linkages, simulation
from phys4d.scenes.category import Category, Drawn
from phys4d.scenes.drawing import Entry, Rng

LEVEL = [1.0, 0.0, 0.0, 0.0]


def pendulum(rng: Rng, friction: float) -> Drawn:
    """A rod with a bob on a hinge swings in the plane that faces the camera."""
    color = drawing.colors(rng, 1)[0]
    length, top = rng.uniform(0.55, 0.8), rng.uniform(1.1, 1.25)
    angle = math.radians(rng.uniform(20.0, 110.0)) * rng.choice([-1, 1])
    pivot = [rng.uniform(-0.2, 0.2), rng.uniform(-0.1, 0.2), top]
    speed = drawing.speed(rng, -1.5, 1.5)
    link = _rod(rng, color, pivot, angle, length, bob=True)
    link["start_speed"] = -speed / length
    words = (
        f"{link['material']} pendulum of {length:.2f} m at {math.degrees(abs(angle)):.0f} degrees "
        f"{'right' if angle > 0 else 'left'} with {abs(speed):.2f} {'right' if speed > 0 else 'left'}"
    )
    return Drawn(objects=[link], fixtures=drawing.backdrop(rng, friction), words=words)


def double_pendulum(rng: Rng, friction: float) -> Drawn:
    """A pendulum that hangs on a pendulum, let go at rest."""
    names = drawing.colors(rng, 2)
    lengths = [rng.uniform(0.3, 0.42), rng.uniform(0.25, 0.38)]
    angles = np.radians(rng.uniform(30.0, 150.0, 2)) * rng.choice([-1, 1], 2)
    pivot = [rng.uniform(-0.15, 0.15), rng.uniform(-0.1, 0.2), rng.uniform(0.85, 1.0)]
    first = _rod(rng, names[0], pivot, angles[0], lengths[0], bob=False)
    elbow = (np.array(pivot) + lengths[0] * _down(angles[0])).tolist()
    elbow[1] -= 0.08
    second = _rod(rng, names[1], elbow, angles[1], lengths[1], bob=True)
    second["parent"] = 0
    words = (
        f"double pendulum of {lengths[0]:.2f} m {first['material']} at "
        f"{math.degrees(angles[0]):.0f} degrees and "
        f"{lengths[1]:.2f} m {second['material']} at {math.degrees(angles[1]):.0f} degrees at rest"
    )
    for link in (first, second):
        link["touches"] = False
    return Drawn(objects=[first, second], fixtures=drawing.backdrop(rng, friction), words=words)


def door(rng: Rng, friction: float) -> Drawn:
    """A ball rolls or flies into a door on a hinge."""
    sign = float(rng.choice([-1, 1]))
    names = drawing.colors(rng, 2)
    width, height, thick = rng.uniform(0.5, 0.75), rng.uniform(0.7, 0.95), rng.uniform(0.02, 0.035)
    yaw = rng.uniform(0.5, 1.1)
    hinge = np.array([sign * rng.uniform(0.05, 0.2), rng.uniform(0.25, 0.4), 0.0])
    # From the hinge the door points toward the camera, so that it is seen aslant.
    along = np.array([sign * math.cos(yaw), -math.sin(yaw), 0.0])
    middle = hinge + along * (width / 2) + [0.0, 0.0, height / 2 + 0.01]
    turn = drawing.quaternion((0, 0, 1), math.atan2(along[1], along[0]))
    leaf = _link(
        rng,
        names[0],
        "door",
        [_part("box", [width / 2, thick, height / 2])],
        middle.tolist(),
        turn,
        material=str(rng.choice(["wood", "steel"])),
        joint="hinge",
        axis=[0.0, 0.0, 1.0],
        anchor_m=hinge.tolist(),
    )
    leaf["density_kg_m3"] *= 0.3
    leaf["joint_damping"] = rng.uniform(0.0, 0.2)
    leaf["range"] = [-1.4, 1.4]
    post = drawing.block(rng, "post", (0.03, 0.03, height / 2 + 0.03), [0, 0, 0], friction)
    post["position_m"] = [hinge[0] - sign * 0.05, hinge[1] + 0.05, height / 2 + 0.03]
    radius, speed = rng.uniform(0.1, 0.16), drawing.speed(rng, 2.0, 4.0)
    aim = hinge + along * width * rng.uniform(0.45, 0.85)
    start = [aim[0] - sign * rng.uniform(0.6, 0.85), aim[1], rng.uniform(radius, 0.6 * height)]
    velocity = [sign * speed, 0.0, drawing.speed(rng, 0.0, 1.0)]
    ball = _ball(rng, names[1], radius, start, velocity)
    words = f"{leaf['material']} door at rest . " + (
        f"{drawing.words_of_object(ball)} {drawing.words_of_velocity(velocity)}"
    )
    ball["shape"] = "link"
    return Drawn(objects=[leaf, ball], fixtures=[*drawing.backdrop(rng, friction), post], words=words)


def drawer(rng: Rng, friction: float) -> Drawn:
    """A drawer slides out of a chest, brakes or hits its stop, and what lies in it slides on."""
    sign = float(rng.choice([-1, 1]))
    names = drawing.colors(rng, 2)
    half = [rng.uniform(0.22, 0.3), rng.uniform(0.16, 0.22), rng.uniform(0.07, 0.1)]
    wall = 0.012
    bottom = rng.uniform(0.2, 0.4)
    y = rng.uniform(-0.05, 0.15)
    start = np.array([-sign * rng.uniform(0.25, 0.4), y, bottom + half[2]])
    parts = [
        _part("box", [half[0], half[1], wall], [0.0, 0.0, -half[2]]),
        _part("box", [wall, half[1], half[2]], [half[0], 0.0, 0.0]),
        _part("box", [wall, half[1], half[2]], [-half[0], 0.0, 0.0]),
        _part("box", [half[0], wall, half[2]], [0.0, half[1], 0.0]),
        _part("box", [half[0], wall, 0.3 * half[2]], [0.0, -half[1], -0.7 * half[2]]),
    ]
    speed = drawing.speed(rng, 1.0, 2.5)
    reach = rng.uniform(0.35, 0.55)
    tray = _link(
        rng,
        names[0],
        "drawer",
        parts,
        start.tolist(),
        LEVEL,
        material=str(rng.choice(["wood", "steel"])),
        joint="slide",
        axis=[sign, 0.0, 0.0],
        anchor_m=start.tolist(),
    )
    tray["start_speed"], tray["range"] = speed, [-0.05, reach]
    tray["joint_damping"] = rng.uniform(0.2, 3.0)
    # The chest: below and behind the drawer, open to the camera.
    deep = half[0] + 0.03
    stand = drawing.block(
        rng,
        "chest",
        (deep, half[1] + 0.03, (bottom - 0.02) / 2),
        [start[0], y, (bottom - 0.02) / 2],
        friction,
    )
    back = drawing.block(
        rng,
        "chest back",
        (deep, 0.02, bottom / 2 + half[2] + 0.05),
        [start[0], y + half[1] + 0.06, bottom / 2 + half[2] + 0.05],
        friction,
    )
    radius = rng.uniform(0.085, 0.11)
    spot = [start[0] + rng.uniform(-0.1, 0.1), y + rng.uniform(-0.04, 0.04), bottom + wall + radius + 0.001]
    ball = _ball(rng, names[1], radius, spot, [0.0, 0.0, 0.0])
    ball["shape"] = "link"
    words = (
        f"{tray['material']} drawer {drawing.words_of_velocity([sign * speed, 0, 0])} to a stop "
        f"at {reach:.2f} . "
        f"{drawing.words_of_object({**ball, 'shape': 'sphere'})} in it at rest"
    )
    return Drawn(objects=[tray, ball], fixtures=[*drawing.backdrop(rng, friction), stand, back], words=words)


def seesaw(rng: Rng, friction: float) -> Drawn:
    """A weight falls on one end of a seesaw with another weight on its other end."""
    sign = float(rng.choice([-1, 1]))
    names = drawing.colors(rng, 3)
    arm, wide, thick = rng.uniform(0.55, 0.75), rng.uniform(0.12, 0.18), rng.uniform(0.02, 0.03)
    height = rng.uniform(0.2, 0.3)
    tilt = 0.9 * math.asin(height / arm)
    pivot = [rng.uniform(-0.08, 0.08), rng.uniform(-0.05, 0.15), height + 0.02]
    plank = _link(
        rng,
        names[0],
        "plank",
        [_part("box", [arm, wide, thick])],
        pivot,
        drawing.quaternion((0, 1, 0), -sign * tilt),
        material="wood",
        joint="hinge",
        axis=[0.0, 1.0, 0.0],
        anchor_m=pivot,
    )
    plank["joint_damping"] = rng.uniform(0.0, 0.05)
    plank["range"] = [-0.05, 2.05 * tilt] if sign > 0 else [-2.05 * tilt, 0.05]
    # The right end is up where `sign` is 1: the falling weight lands there, the other lies on the lower end.
    normal = np.array([-sign * math.sin(tilt), 0.0, math.cos(tilt)])
    axis = np.array([sign * math.cos(tilt), 0.0, math.sin(tilt)])
    size = rng.uniform(0.07, 0.11)
    low = np.array(pivot) - axis * (arm - size - rng.uniform(0.02, 0.1)) + normal * (thick + size + 0.001)
    kind = str(rng.choice(list(drawing.MATERIALS)))
    load = _link(
        rng,
        names[1],
        "box",
        [_part("box", [size] * 3)],
        low.tolist(),
        drawing.quaternion((0, 1, 0), -sign * tilt),
        material=kind,
        joint="free",
    )
    radius = rng.uniform(0.1, 0.15)
    high = np.array(pivot) + axis * (arm - rng.uniform(0.08, 0.2))
    down = drawing.speed(rng, 0.0, 2.5)
    spot = [high[0], high[1], high[2] + radius + thick + rng.uniform(0.15, 0.45)]
    ball = _ball(
        rng, names[2], radius, spot, [0.0, 0.0, -down], material=str(rng.choice(["steel", "clay", "rubber"]))
    )
    words = (
        f"seesaw . {drawing.words_of_object(ball)} {drawing.words_of_velocity([0, 0, -down])} onto its "
        f"{'right' if sign > 0 else 'left'} end . {names[1]} {kind} box on the other"
    )
    ball["shape"] = "link"
    base = drawing.block(rng, "base", (0.04, wide, (height - thick) / 2), [0, 0, 0], friction)
    base["position_m"] = [pivot[0], pivot[1], (height - thick) / 2]
    return Drawn(objects=[plank, load, ball], fixtures=[*drawing.backdrop(rng, friction), base], words=words)


def cradle(rng: Rng, friction: float) -> Drawn:
    """Newton's cradle: one or two balls of a row swing into the others."""
    sign = float(rng.choice([-1, 1]))
    count = int(rng.integers(3, 6))
    raised = int(rng.integers(1, min(3, count)))
    names = drawing.colors(rng, count)
    radius, length, top = rng.uniform(0.09, 0.115), rng.uniform(0.5, 0.7), rng.uniform(1.0, 1.15)
    material = str(rng.choice(["steel", "rubber", "wood", "clay"]))
    angle = math.radians(rng.uniform(25.0, 55.0))
    y = rng.uniform(-0.1, 0.15)
    links = []
    for index, name in enumerate(names):
        x = sign * (index - (count - 1) / 2) * (2 * radius + 0.002)
        swing = -sign * angle if index < raised else 0.0
        link = _rod(
            rng, name, [x, y, top], swing, length, bob=True, radius=radius, material=material, thin=True
        )
        if material == "steel":
            link["restitution"] = 0.95
        links.append(link)
    words = (
        f"cradle of {count} {material} balls . {raised} raised {math.degrees(angle):.0f} degrees to the "
        f"{'left' if sign > 0 else 'right'}"
    )
    return Drawn(objects=links, fixtures=drawing.backdrop(rng, friction), words=words)


def _down(angle_rad: float) -> np.ndarray:
    """Unit vector that hangs down at angle 0 and points right at a quarter turn."""
    return np.array([math.sin(angle_rad), 0.0, -math.cos(angle_rad)])


def _part(shape: str, size_m: Sequence[float], position_m: Sequence[float] = (0.0, 0.0, 0.0)) -> Entry:
    return {
        "shape": shape,
        "size_m": list(size_m),
        "position_m": list(position_m),
        "quaternion_wxyz": list(LEVEL),
    }


def _link(
    rng: Rng,
    color: str,
    word: str,
    parts: list[Entry],
    position_m: Sequence[float],
    quaternion_wxyz: Sequence[float],
    *,
    material: str,
    joint: str,
    **values: Any,
) -> Entry:
    """A link; looks and material as of a rigid body."""
    entry = drawing.body(
        rng, color, "box", (1.0, 1.0, 1.0), position_m, material=material, quaternion_wxyz=quaternion_wxyz
    )
    del entry["size_m"]
    if joint != "free":
        del entry["linear_velocity_m_s"], entry["angular_velocity_rad_s"]
        values = {"start_speed": 0.0, "joint_damping": 0.0, **values}
    return {
        **entry,
        "name": f"{color} {word}",
        "shape": "link",
        "parts": parts,
        "parent": -1,
        "joint": joint,
        **values,
    }


def _rod(
    rng: Rng,
    color: str,
    pivot_m: Sequence[float],
    angle_rad: float,
    length_m: float,
    *,
    bob: bool,
    radius: float | None = None,
    material: str | None = None,
    thin: bool = False,
) -> Entry:
    """A rod that hangs on a hinge at `pivot_m`; a bob's centre is at `length_m`."""
    width = 0.016 if thin else rng.uniform(0.04, 0.055)
    parts = [_part("capsule", [width, length_m / 2], [0.0, 0.0, length_m / 2])]
    radius = rng.uniform(0.08, 0.13) if radius is None else radius
    if bob:
        shape = "sphere" if thin else str(rng.choice(["sphere", "box"]))
        size = [radius] if shape == "sphere" else [radius, rng.uniform(0.03, 0.06), radius]
        parts.append(_part(shape, size))
    end = np.array(pivot_m) + length_m * _down(angle_rad)
    link = _link(
        rng,
        color,
        "pendulum" if bob else "rod",
        parts,
        end.tolist(),
        drawing.quaternion((0, 1, 0), -angle_rad),
        material=str(rng.choice(list(drawing.MATERIALS))) if material is None else material,
        joint="hinge",
        axis=[0.0, 1.0, 0.0],
        anchor_m=list(pivot_m),
    )
    link["joint_damping"] = rng.uniform(0.0, 0.01)
    return link


def _ball(
    rng: Rng,
    color: str,
    radius: float,
    position_m: Sequence[float],
    velocity_m_s: Sequence[float],
    material: str | None = None,
) -> Entry:
    """A free ball as a link."""
    entry = drawing.body(
        rng, color, "sphere", [radius], position_m, velocity_m_s=velocity_m_s, material=material
    )
    return {**entry, "parts": [_part("sphere", [radius])], "parent": -1, "joint": "free"}


def engine() -> str:
    """Name and version of what simulates here."""
    return f"mujoco {mujoco.mj_versionString()}"


CATEGORY = Category(
    name="articulated",
    engine=engine,
    families={
        "pendulum": pendulum,
        "double_pendulum": double_pendulum,
        "door": door,
        "drawer": drawer,
        "seesaw": seesaw,
        "cradle": cradle,
    },
    build=linkages.build,
    simulate=simulation.simulate,
    physical={
        "friction": (0.02, 1.0),
        "object_friction": (0.02, 1.0),
        "restitution": (0.05, 0.95),
        "joint_damping": (0.0, 3.0),
    },
    held_out=("cradle",),
)
