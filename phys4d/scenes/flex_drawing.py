"""Entries for cloth, balloons, soft bodies and ropes that the families draw from; see `flex_bodies`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from phys4d.scenes import drawing, meshes
from phys4d.scenes.drawing import Entry, Rng

FABRICS = {
    "silk": {"kg_m2": 0.1, "stretch_n_m": 25.0, "thickness_m": 0.0005},
    "cotton": {"kg_m2": 0.2, "stretch_n_m": 60.0, "thickness_m": 0.001},
    "denim": {"kg_m2": 0.45, "stretch_n_m": 150.0, "thickness_m": 0.002},
}
"""Mass per area, force per width and strain, thickness. Real fabrics stretch less: see docs/simulation.md."""
SOLIDS = {
    "foam": {"kg_m3": 80.0, "young_pa": 12_000.0, "poisson": 0.15},
    "jelly": {"kg_m3": 1000.0, "young_pa": 30_000.0, "poisson": 0.4},
    "soft rubber": {"kg_m3": 1100.0, "young_pa": 150_000.0, "poisson": 0.4},
}
WALLS = {
    "latex": {"kg_m2": 0.15, "stretch_n_m": 250.0, "thickness_m": 0.0005},
    "vinyl": {"kg_m2": 0.4, "stretch_n_m": 1500.0, "thickness_m": 0.001},
}
CORDS = {
    "cotton rope": {"kg_m": 0.25, "young_pa": 0.0},
    "nylon rope": {"kg_m": 0.4, "young_pa": 2e5},
    "rubber hose": {"kg_m": 0.8, "young_pa": 1e6},
}
LEVEL = (1.0, 0.0, 0.0, 0.0)


def rigid(
    rng: Rng,
    color: str,
    shape: str,
    size_m: Sequence[float],
    position_m: Sequence[float],
    **values: Any,
) -> Entry:
    """A rigid body; `drawing.body` with a mass in place of density and restitution."""
    entry = drawing.body(rng, color, shape, size_m, position_m, **values)
    density = entry.pop("density_kg_m3")
    entry.pop("restitution")
    entry["mass_kg"] = density * _volume(shape, size_m)
    return entry


def driven(entry: Entry, velocity_m_s: Sequence[float], until_s: float) -> Entry:
    """A rigid body moved on rails."""
    return {**entry, "drive_m_s": list(velocity_m_s), "drive_s": until_s}


def cloth(
    rng: Rng,
    color: str,
    size_m: Sequence[float],
    counts: Sequence[int],
    position_m: Sequence[float],
    *,
    quaternion_wxyz: Sequence[float] = LEVEL,
    velocity_m_s: Sequence[float] = (0.0, 0.0, 0.0),
    held: Sequence[int] = (),
    release_s: float = 0.0,
) -> Entry:
    """A rectangle of fabric."""
    fabric = str(rng.choice(list(FABRICS)))
    area = size_m[0] * size_m[1]
    return {
        **_fabric(rng, color, fabric, area, "cloth", position_m, quaternion_wxyz, velocity_m_s),
        "size_m": list(size_m),
        "counts": list(counts),
        "held": list(held),
        "release_s": release_s,
    }


def tube(
    rng: Rng,
    color: str,
    radii_m: Sequence[float],
    heights_m: Sequence[float],
    around: int,
    position_m: Sequence[float],
    *,
    word: str,
    velocity_m_s: Sequence[float] = (0.0, 0.0, 0.0),
) -> Entry:
    """A tube of fabric, such as a skirt."""
    fabric = str(rng.choice(list(FABRICS)))
    area = float(meshes.areas(*meshes.tube(radii_m, heights_m, around)).sum())
    return {
        **_fabric(rng, color, fabric, area, word, position_m, LEVEL, velocity_m_s),
        "radii_m": list(radii_m),
        "heights_m": list(heights_m),
        "around": around,
    }


def balloon(
    rng: Rng,
    color: str,
    half_m: Sequence[float],
    position_m: Sequence[float],
    *,
    overpressure_pa: float,
    wall: str | None = None,
    gas: str = "sealed",
    heating_k_s: float = 0.0,
    quaternion_wxyz: Sequence[float] = LEVEL,
    velocity_m_s: Sequence[float] = (0.0, 0.0, 0.0),
    stretch: float = 1.0,
) -> Entry:
    """A closed shell with gas.

    Args:
        stretch: factor on the wall's stiffness.
    """
    wall = str(rng.choice(list(WALLS))) if wall is None else wall
    values = WALLS[wall]
    points, triangles = meshes.icosphere(2)
    area = float(meshes.areas(points * np.asarray(half_m), triangles).sum())
    return {
        **_looks(rng, color, wall, f"{wall} balloon", "balloon"),
        "position_m": list(position_m),
        "quaternion_wxyz": list(quaternion_wxyz),
        "linear_velocity_m_s": list(velocity_m_s),
        "size_m": list(half_m),
        "subdivisions": 2,
        "mass_kg": values["kg_m2"] * area * rng.uniform(0.8, 1.2),
        "young_pa": stretch * values["stretch_n_m"] / values["thickness_m"] * rng.uniform(0.8, 1.2),
        "poisson": 0.4,
        "thickness_m": values["thickness_m"],
        "damping_s": 0.005,
        "radius_m": 0.006,
        "overpressure_pa": overpressure_pa,
        "gas": gas,
        "heating_k_s": heating_k_s,
        "release_s": 0.0,
    }


def soft(
    rng: Rng,
    color: str,
    form: str,
    half_m: Sequence[float],
    position_m: Sequence[float],
    *,
    material: str | None = None,
    velocity_m_s: Sequence[float] = (0.0, 0.0, 0.0),
    counts: Sequence[int] = (7, 7, 7),
    cells: Sequence[int] = (2, 2, 2),
) -> Entry:
    """A soft solid."""
    material = str(rng.choice(list(SOLIDS))) if material is None else material
    values = SOLIDS[material]
    points, tetrahedra = meshes.block(half_m, counts)
    if form == "ellipsoid":
        points = meshes.rounded(points, half_m)
    if form == "pillow":
        points = meshes.pillowed(points, half_m)
    word = {"box": "block", "ellipsoid": "ball", "pillow": "pillow"}[form]
    volume = float(meshes.volumes(points, tetrahedra).sum())
    return {
        **_looks(rng, color, material, f"{material} {word}", "soft"),
        "form": form,
        "size_m": list(half_m),
        "position_m": list(position_m),
        "linear_velocity_m_s": list(velocity_m_s),
        "counts": list(counts),
        "cells": list(cells),
        "mass_kg": values["kg_m3"] * volume * rng.uniform(0.85, 1.15),
        "young_pa": values["young_pa"] * rng.uniform(0.7, 1.4),
        "poisson": values["poisson"],
        "damping_s": rng.uniform(0.005, 0.02),
    }


def rope(
    rng: Rng,
    color: str,
    points_m: np.ndarray,
    *,
    radius_m: float,
    cord: str | None = None,
    held: Sequence[int] = (),
    release_s: float = 0.0,
    tied: Sequence[tuple[int, int]] = (),
    velocity_m_s: Sequence[float] = (0.0, 0.0, 0.0),
) -> Entry:
    """A rope through points."""
    cord = str(rng.choice(list(CORDS))) if cord is None else cord
    values = CORDS[cord]
    length = float(np.linalg.norm(np.diff(points_m, axis=0), axis=1).sum())
    return {
        **_looks(rng, color, cord, cord, "rope"),
        "points_m": points_m.tolist(),
        "radius_m": radius_m,
        "linear_velocity_m_s": list(velocity_m_s),
        "mass_kg": values["kg_m"] * length * rng.uniform(0.8, 1.2),
        "young_pa": values["young_pa"],
        "damping_s": 0.02,
        "held": list(held),
        "release_s": release_s,
        "tied": [list(pair) for pair in tied],
    }


def solid(
    rng: Rng, name: str, shape: str, size_m: Sequence[float], position_m: Sequence[float], friction: float
) -> Entry:
    """A fixed body of any shape, desaturated."""
    return {**drawing.block(rng, name, size_m, position_m, friction), "shape": shape}


def hanging_line(start_m: np.ndarray, end_m: np.ndarray, length_m: float, count: int) -> np.ndarray:
    """Points of a line of a given length that hangs between two places, at nearly equal distances.

    The line is a parabola: near a catenary where it is not steep.
    """
    share = np.linspace(0.0, 1.0, 400)
    chord = start_m + share[:, None] * (end_m - start_m)
    curve, walked = chord, np.zeros(len(share))
    low, high = 0.0, 2.0 * length_m
    curve, walked = chord, share
    for _ in range(60):
        sag = 0.5 * (low + high)
        curve = chord - np.array([0.0, 0.0, 1.0]) * (4 * sag * share * (1 - share))[:, None]
        walked = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(curve, axis=0), axis=1))])
        low, high = (sag, high) if walked[-1] < length_m else (low, sag)
    place = np.linspace(0.0, walked[-1], count)
    return np.stack([np.interp(place, walked, curve[:, k]) for k in range(3)], axis=1)


def _fabric(
    rng: Rng,
    color: str,
    fabric: str,
    area_m2: float,
    word: str,
    position_m: Sequence[float],
    quaternion_wxyz: Sequence[float],
    velocity_m_s: Sequence[float],
) -> Entry:
    values = FABRICS[fabric]
    return {
        **_looks(rng, color, fabric, f"{fabric} {word}", "cloth"),
        "position_m": list(position_m),
        "quaternion_wxyz": list(quaternion_wxyz),
        "linear_velocity_m_s": list(velocity_m_s),
        "mass_kg": values["kg_m2"] * area_m2 * rng.uniform(0.8, 1.2),
        "young_pa": values["stretch_n_m"] / values["thickness_m"] * rng.uniform(0.7, 1.4),
        "poisson": 0.2,
        "thickness_m": values["thickness_m"],
        "damping_s": rng.uniform(0.005, 0.02),
        "radius_m": 0.01,
        "release_s": 0.0,
    }


def _looks(rng: Rng, color: str, material: str, word: str, shape: str) -> Entry:
    hue = drawing.HUES[color] + rng.uniform(-7.0, 7.0)
    return {
        "name": f"{color} {word}",
        "shape": shape,
        "material": material,
        "color": color,
        "rgb": drawing.hsv_to_rgb(hue, rng.uniform(0.85, 1.0), rng.uniform(0.8, 1.0)),
        "pattern": "plain",
    }


def _volume(shape: str, size_m: Sequence[float]) -> float:
    if shape == "box":
        return 8 * float(np.prod(size_m))
    if shape == "cylinder":
        return 2 * np.pi * size_m[0] ** 2 * size_m[1]
    if shape == "capsule":
        return 2 * np.pi * size_m[0] ** 2 * size_m[1] + 4 / 3 * np.pi * size_m[0] ** 3
    return 4 / 3 * np.pi * float(np.prod(size_m if shape == "ellipsoid" else [size_m[0]] * 3))
