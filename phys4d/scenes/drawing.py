"""Building blocks that the families draw from: materials, colours, bodies, backdrop, camera, light, words.

Conventions: the camera looks along +y within 15 degrees, so right is +x, away is +y and up is +z. Speeds are
multiples of 0.25 m/s, so that a caption states them exactly in few words.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Rng = np.random.Generator
Entry = dict[str, Any]

MATERIALS = {
    "rubber": {"restitution": 0.8, "density_kg_m3": 1000.0},
    "wood": {"restitution": 0.45, "density_kg_m3": 600.0},
    "clay": {"restitution": 0.1, "density_kg_m3": 1800.0},
    "steel": {"restitution": 0.6, "density_kg_m3": 7800.0},
}
SURFACES = {"icy": 0.03, "normal": 0.35, "rough": 0.9}
"""Friction of floor, walls and ramp."""
HUES = {"red": 0.0, "yellow": 52.0, "green": 125.0, "cyan": 180.0, "blue": 225.0, "magenta": 305.0}
"""Degrees; at least 45 apart, so that a tracker by colour can tell objects apart."""
WORD_OF_SHAPE = {
    "sphere": "ball",
    "box": "box",
    "cylinder": "cylinder",
    "capsule": "capsule",
    "ellipsoid": "ellipsoid",
}
TEXTURES = ("checker", "noise", "tiles", "planks")
PATTERNS = ("plain", "bands", "dots")
OBJECT_FRICTION = 0.4
FLOOR_Z = 0.0


def speed(rng: Rng, low: float, high: float) -> float:
    """A multiple of 0.25 m/s in [low, high]."""
    return 0.25 * int(rng.integers(math.ceil(low / 0.25), math.floor(high / 0.25) + 1))


def words_of_velocity(velocity_m_s: Sequence[float]) -> str:
    """`right 1.25 up 0.50`, or `at rest`; directions as the camera sees them."""
    pairs = zip(velocity_m_s, (("right", "left"), ("away", "toward"), ("up", "down")), strict=True)
    words = [f"{positive if v > 0 else negative} {abs(v):.2f}" for v, (positive, negative) in pairs if v]
    return " ".join(words) or "at rest"


def words_of_object(entry: Entry) -> str:
    """`red rubber ball`."""
    return f"{entry['color']} {entry['material']} {WORD_OF_SHAPE[entry['shape']]}"


def quaternion(axis: Sequence[float], angle_rad: float) -> list[float]:
    """Rotation about an axis, (w, x, y, z)."""
    unit = np.asarray(axis, np.float64) / np.linalg.norm(axis)
    return [math.cos(angle_rad / 2), *(math.sin(angle_rad / 2) * unit).tolist()]


def random_quaternion(rng: Rng) -> list[float]:
    """A rotation uniform over all rotations."""
    q = rng.normal(size=4)
    return (q / np.linalg.norm(q)).tolist()


def hsv_to_rgb(hue_deg: float, saturation: float, value: float) -> list[float]:
    """Hue in degrees, the rest and the result in [0, 1]."""
    k = (np.array([5.0, 3.0, 1.0]) + hue_deg / 60.0) % 6.0
    return (value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)).tolist()


def colors(rng: Rng, count: int) -> list[str]:
    """Distinct colour names."""
    return [str(name) for name in rng.permutation(list(HUES))[:count]]


def body(
    rng: Rng,
    color: str,
    shape: str,
    size_m: Sequence[float],
    position_m: Sequence[float],
    *,
    material: str | None = None,
    quaternion_wxyz: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    velocity_m_s: Sequence[float] = (0.0, 0.0, 0.0),
    spin_rad_s: Sequence[float] = (0.0, 0.0, 0.0),
) -> Entry:
    """A moving object. `spin_rad_s` is in the body frame; colour and material decide the rest."""
    material = str(rng.choice(list(MATERIALS))) if material is None else material
    hue = HUES[color] + rng.uniform(-7.0, 7.0)
    return {
        "name": f"{color} {WORD_OF_SHAPE[shape]}",
        "shape": shape,
        "size_m": list(size_m),
        "position_m": list(position_m),
        "quaternion_wxyz": list(quaternion_wxyz),
        "linear_velocity_m_s": list(velocity_m_s),
        "angular_velocity_rad_s": list(spin_rad_s),
        "material": material,
        **MATERIALS[material],
        "color": color,
        "rgb": hsv_to_rgb(hue, rng.uniform(0.85, 1.0), rng.uniform(0.8, 1.0)),
        "pattern": str(rng.choice(PATTERNS)),
    }


def random_size(rng: Rng, shape: str, low: float = 0.2, high: float = 0.3) -> list[float]:
    """Half extents of a chunky body whose largest is at most `high` metres."""
    if shape == "sphere":
        return [rng.uniform(low, high)]
    if shape in ("cylinder", "capsule"):
        radius = rng.uniform(low, 0.85 * high)
        return [radius, rng.uniform(0.5, 1.0) * radius if shape == "capsule" else rng.uniform(low, high)]
    return [rng.uniform(low, high) for _ in range(3)]


def reach(shape: str, size_m: Sequence[float]) -> float:
    """Radius of the sphere about the centre that holds the body."""
    if shape == "capsule":
        return size_m[0] + size_m[1]
    return float(np.linalg.norm(size_m)) if shape in ("box", "cylinder") else max(size_m)


def lying(shape: str, size_m: Sequence[float], yaw_rad: float) -> tuple[float, list[float]]:
    """Height of the centre and rotation of a body on the floor that could roll along its yaw.

    Cylinders and capsules lie with the axis across the direction of travel; boxes and ellipsoids sit flat.
    """
    turn = quaternion((0, 0, 1), yaw_rad)
    if shape in ("cylinder", "capsule"):
        half = math.sqrt(0.5)
        w, x, y, z = turn[0] * half, turn[0] * half, turn[3] * half, turn[3] * half
        return size_m[0], [w, x, y, z]
    return size_m[-1], turn


def rolling_spin(
    shape: str, size_m: Sequence[float], quaternion_wxyz: Sequence[float], velocity_m_s: Sequence[float]
) -> list[float]:
    """Spin in the body frame at which a round body on the floor rolls without slip; 0 for other shapes."""
    if shape not in ("sphere", "cylinder", "capsule"):
        return [0.0, 0.0, 0.0]
    spin_world = np.array([-velocity_m_s[1], velocity_m_s[0], 0.0]) / size_m[0]
    w, v = quaternion_wxyz[0], np.asarray(quaternion_wxyz[1:])
    # Rotate by the conjugate: world to body.
    inner = np.cross(v, spin_world) - w * spin_world
    return (spin_world + 2 * np.cross(v, inner)).tolist()


def _tint(rng: Rng, low: float, high: float) -> list[float]:
    """A grey or beige."""
    return hsv_to_rgb(rng.uniform(20.0, 60.0), rng.uniform(0.0, 0.2), rng.uniform(low, high))


def block(
    rng: Rng,
    name: str,
    half_m: Sequence[float],
    position_m: Sequence[float],
    friction: float,
    *,
    quaternion_wxyz: Sequence[float] = (1.0, 0.0, 0.0, 0.0),
    rgb: Sequence[float] | None = None,
) -> Entry:
    """A fixed box, desaturated."""
    return {
        "name": name,
        "shape": "box",
        "size_m": list(half_m),
        "position_m": list(position_m),
        "quaternion_wxyz": list(quaternion_wxyz),
        "friction": friction,
        "rgb": _tint(rng, 0.55, 0.9) if rgb is None else list(rgb),
        "texture": str(rng.choice(TEXTURES)),
        "texture_repeat": [1.0, 1.0],
    }


def backdrop(rng: Rng, friction: float) -> list[Entry]:
    """Floor and back wall, desaturated and textured."""
    repeat = rng.uniform(0.5, 1.0)
    floor = {
        "name": "floor",
        "shape": "plane",
        "size_m": [0.0, 0.0, 1.0],
        "position_m": [0.0, 0.0, FLOOR_Z],
        "quaternion_wxyz": [1.0, 0.0, 0.0, 0.0],
        "friction": friction,
        "rgb": _tint(rng, 0.6, 1.0),
        "texture": str(rng.choice(TEXTURES)),
        "texture_repeat": [repeat, repeat],
    }
    wall = block(rng, "back wall", (6.0, 0.1, 3.0), (0.0, rng.uniform(1.6, 2.4), 3.0), friction)
    wall["rgb"] = _tint(rng, 0.6, 1.0)
    wall["texture_repeat"] = [rng.uniform(2.0, 4.0), rng.uniform(1.0, 2.0)]
    return [floor, wall]


def camera(rng: Rng) -> Entry:
    """A camera about 3 m before the action."""
    azimuth, elevation = np.radians(rng.uniform(-15.0, 15.0)), np.radians(rng.uniform(5.0, 20.0))
    distance = rng.uniform(2.9, 3.2)
    target = np.array([rng.uniform(-0.1, 0.1), 0.0, rng.uniform(0.5, 0.65)])
    offset = [
        math.sin(azimuth) * math.cos(elevation),
        -math.cos(azimuth) * math.cos(elevation),
        math.sin(elevation),
    ]
    return {
        "position_m": (target + distance * np.array(offset)).tolist(),
        "target_m": target.tolist(),
        "fov_deg": rng.uniform(38.0, 42.0),
    }


def widen(rng: Rng, parameters: Entry) -> None:
    """Vary a scene more: field of view with the distance that keeps the size of what the camera looks at,
    friction by 20 % and restitution by 0.05 about what the caption's words stand for."""
    view = parameters["camera"]
    fov, target = rng.uniform(30.0, 60.0), np.array(view["target_m"])
    closer = math.tan(math.radians(view["fov_deg"]) / 2) / math.tan(math.radians(fov) / 2)
    view["position_m"] = (target + closer * (np.array(view["position_m"]) - target)).tolist()
    view["fov_deg"] = fov
    for table, name in ((parameters, "object_friction"), *((f, "friction") for f in parameters["fixtures"])):
        table[name] *= rng.uniform(0.8, 1.2)
    for entry in parameters["objects"]:
        if "restitution" in entry:
            entry["restitution"] = max(0.05, entry["restitution"] + rng.uniform(-0.05, 0.05))


def light(rng: Rng) -> Entry:
    """A distant light from above and before the scene, with ambient light."""
    direction = np.array([rng.uniform(-0.7, 0.7), rng.uniform(0.2, 0.7), -1.0])
    return {
        "direction": (direction / np.linalg.norm(direction)).tolist(),
        "diffuse": rng.uniform(0.5, 0.7),
        "ambient": rng.uniform(0.35, 0.45),
        "fill": rng.uniform(0.12, 0.22),
    }


def mirrored(sign: float, *vectors: list[float]) -> list[list[float]]:
    """Vectors with x multiplied by `sign`."""
    return [[sign * v[0], v[1], v[2]] for v in vectors]
