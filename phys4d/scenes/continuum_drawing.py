"""What families of material points share when they are drawn: tanks, hoppers, and what fills them."""

import math
from typing import Any

import numpy as np

from phys4d.scenes import drawing
from phys4d.scenes.drawing import Entry, Rng


def glass_tank(rng: Rng, low: list[float], size: list[float], cell: float, friction: float) -> tuple:
    """A tank of whole cells on the floor, and the fixtures of its sides; the front is clear.

    Returns:
        The `tank` parameters and the fixtures.
    """
    size = [math.ceil(s / cell - 1e-9) * cell for s in size]
    x, y = low[0] + size[0] / 2, low[1] + size[1] / 2
    half, thick = size[2] / 2, 0.02
    tint = drawing.block(rng, "side", (1, 1, 1), (0, 0, 0), friction)
    sides = (
        ("left side", (thick, size[1] / 2, half), (low[0] - thick, y, half)),
        ("right side", (thick, size[1] / 2, half), (low[0] + size[0] + thick, y, half)),
        ("back side", (size[0] / 2 + 2 * thick, thick, half), (x, low[1] + size[1] + thick, half)),
    )
    fixtures = [
        {**tint, "name": name, "size_m": list(extent), "position_m": list(place)}
        for name, extent, place in sides
    ]
    return {"origin_m": low, "size_m": size, "cell_m": cell}, fixtures


def hopper(
    rng: Rng, centre: list[float], width: float, depth: float, gap: float, slope: float, friction: float
) -> list[Entry]:
    """Two plates as wide as their tank that leave a gap below; `slope` is the tangent of their tilt."""
    angle = math.atan(slope)
    length = (width - gap) / 2 / math.cos(angle) + 0.1
    thick = 0.055
    plates = []
    for sign, name in ((-1.0, "left plate"), (1.0, "right plate")):
        along = np.array([sign * math.cos(angle), 0.0, math.sin(angle)])
        below = np.array([sign * math.sin(angle), 0.0, -math.cos(angle)])
        end = np.array([centre[0] + sign * gap / 2, centre[1], centre[2]])
        place = end + 0.5 * length * along + thick * below
        turn = drawing.quaternion((0, 1, 0), -sign * angle)
        plate = drawing.block(
            rng, name, (length / 2, depth / 2, thick), place.tolist(), friction, quaternion_wxyz=turn
        )
        plates.append({**plate, "solid": 1})
    return plates


def stuff(
    color: str,
    material: str,
    shape: str,
    form: str,
    size_m: list[float],
    position_m: list[float],
    *,
    rgb: list[float],
    density_kg_m3: float,
    velocity_m_s: tuple[float, float, float] = (0.0, 0.0, 0.0),
    **more: Any,
) -> Entry:
    """An entry of `objects` that is liquid, sand or meltable."""
    return {
        "name": f"{color} {material}",
        "shape": shape,
        "form": form,
        "size_m": list(size_m),
        "position_m": list(position_m),
        "linear_velocity_m_s": list(velocity_m_s),
        "density_kg_m3": density_kg_m3,
        "material": material,
        "color": color,
        "rgb": rgb,
        "pattern": "plain",
        **more,
    }
