"""Which scenes there are, and how one is drawn from a seed."""

import difflib
from collections import Counter
from typing import Literal

import mujoco
import numpy as np

from phys4d.scenes import drawing, rigid
from phys4d.scenes.model import BuiltScene, build
from phys4d.scenes.simulation import Trajectory, UnstableSimulation, raycast, simulate
from phys4d.types import SceneSpec

Physics = Literal["true", "mixed"]
Look = Literal["textured", "plain"]

_FAMILIES = {"rigid": rigid.FAMILIES}
MAX_ATTEMPTS = 200
PROBE_PIXELS = 64
MIN_PIXELS = 20
"""An object must show at least this many pixels of a 64 x 64 image in frame 0."""
MIN_TRAVEL_M = 0.2
MIN_FRACTION_IN_VIEW = 0.75
MAX_SPEED_M_S = 15.0
MAX_OVERLAP_M = 0.002


def engine() -> str:
    """Name and version of the engine that simulates here."""
    return f"mujoco {mujoco.mj_versionString()}"


def families(category: str | None = None) -> dict[str, list[str]]:
    """Families by category; all categories or one."""
    if category is not None:
        _known(category, list(_FAMILIES), "category")
    return {c: list(f) for c, f in _FAMILIES.items() if category in (None, c)}


def check_family(category: str, family: str) -> None:
    """Refuse an unknown category or family, with a suggestion."""
    _known(category, list(_FAMILIES), "category")
    _known(family, list(_FAMILIES[category]), "family")


def sample_spec(
    category: str,
    family: str,
    seed: int,
    *,
    num_frames: int = 9,
    fps: float = 12.0,
    physics: Physics = "true",
    look: Look = "textured",
) -> SceneSpec:
    """Draw a scene. The same arguments give the same spec.

    Args:
        physics: `true` is g = 9.81 with the friction and restitution that the caption's words stand for.
            `mixed` redraws gravity (0.5 to 1.5 times), friction and restitution and keeps the caption: what
            looks alike then moves differently.
        look: `plain` leaves textures and patterns away, so that a tiny model has less to copy.

    Raises:
        ValueError: unknown category or family, or no acceptable draw in 200 attempts.
    """
    return sample_scene(category, family, seed, num_frames=num_frames, fps=fps, physics=physics, look=look)[
        0
    ].spec


def sample_scene(
    category: str,
    family: str,
    seed: int,
    *,
    num_frames: int = 9,
    fps: float = 12.0,
    physics: Physics = "true",
    look: Look = "textured",
    rejected: Counter[str] | None = None,
) -> tuple[BuiltScene, Trajectory]:
    """`sample_spec` with the built scene and its trajectory; counts the reasons of refused draws."""
    check_family(category, family)
    _known(physics, ["true", "mixed"], "physics")
    _known(look, ["textured", "plain"], "look")
    reasons: Counter[str] = Counter()
    for attempt in range(MAX_ATTEMPTS):
        spec = _draw(category, family, seed, attempt, num_frames, fps, physics, look)
        scene = build(spec)
        reason, trajectory = examine(scene)
        if trajectory is not None and reason is None:
            if rejected is not None:
                rejected.update(reasons)
            return scene, trajectory
        reasons[str(reason)] += 1
    raise ValueError(f"{family} seed {seed}: no acceptable draw in {MAX_ATTEMPTS} attempts: {dict(reasons)}")


def examine(scene: BuiltScene) -> tuple[str | None, Trajectory | None]:
    """Why a scene is degenerate (or None), and its trajectory where there is one."""
    if _initial_overlap(scene) > MAX_OVERLAP_M:
        return "overlap at start", None
    try:
        trajectory = simulate(scene)
    except UnstableSimulation:
        return "unstable", None
    if np.abs(trajectory.velocity[..., :3]).max() > MAX_SPEED_M_S:
        return "too fast", None
    position = trajectory.position_m
    if np.linalg.norm(position - position[:1], axis=-1).max() < MIN_TRAVEL_M:
        return "nothing moves", trajectory
    camera = scene.camera(PROBE_PIXELS, PROBE_PIXELS)
    point = position @ camera.camera_from_world[:3, :3].T + camera.camera_from_world[:3, 3]
    u = camera.fx * point[..., 0] / point[..., 2] + camera.cx
    v = camera.fy * point[..., 1] / point[..., 2] + camera.cy
    inside = (u > 0) & (u < camera.width) & (v > 0) & (v < camera.height) & (point[..., 2] > 0.5)
    if inside.mean(axis=0).min() < MIN_FRACTION_IN_VIEW or not inside[0].all():
        return "leaves view", trajectory
    _, ids = raycast(scene, trajectory, 0, camera)
    if min(np.bincount(ids.ravel(), minlength=len(scene.objects) + 1)[1:]) < MIN_PIXELS:
        return "hidden at start", trajectory
    return None, trajectory


def _draw(
    category: str,
    family: str,
    seed: int,
    attempt: int,
    num_frames: int,
    fps: float,
    physics: Physics,
    look: Look,
) -> SceneSpec:
    index = list(_FAMILIES[category]).index(family)
    rng = np.random.default_rng([seed, index, attempt])
    surface = str(rng.choice(list(drawing.SURFACES)))
    objects, fixtures, words = _FAMILIES[category][family](rng, drawing.SURFACES[surface])
    parameters = {
        "caption": f"{family} : {words} . {surface} floor",
        "physics": physics,
        "attempt": attempt,
        "gravity_m_s2": 9.81,
        "object_friction": drawing.OBJECT_FRICTION,
        "surface": surface,
        "objects": objects,
        "fixtures": fixtures,
        "camera": drawing.camera(rng),
        "light": drawing.light(rng),
    }
    if physics == "mixed":
        # Drawn last, so that the first frame is distributed as under true physics.
        parameters["gravity_m_s2"] = 9.81 * rng.uniform(0.5, 1.5)
        parameters["object_friction"] = rng.uniform(0.02, 1.0)
        friction = rng.uniform(0.02, 1.0)
        for fixture in fixtures:
            fixture["friction"] = friction
        for entry in objects:
            entry["restitution"] = rng.uniform(0.05, 0.9)
    if look == "plain":
        for fixture in fixtures:
            fixture["texture"] = "plain"
        for entry in objects:
            entry["pattern"] = "plain"
    return SceneSpec(
        category=category,
        family=family,
        seed=seed,
        parameters=parameters,
        num_frames=num_frames,
        fps=fps,
        engine=engine(),
    )


def _initial_overlap(scene: BuiltScene) -> float:
    """Deepest penetration at time 0 in metres."""
    data = scene.initial_state()
    return max(0.0, *(-contact.dist for contact in data.contact)) if data.ncon else 0.0


def _known(name: str, known: list[str], what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"unknown {what} {name!r}{hint}; known: {', '.join(known)}")
