"""Rigid scenes as MuJoCo models: free bodies whose contacts are declared pair by pair.

Objects have a density, a restitution and initial velocities, fixtures a friction, the scene the friction
between objects (`object_friction`). Restitution is that of the less bouncy object of a pair, friction with a
fixture is the fixture's.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import mujoco

from phys4d.scenes.model import (
    MAX_FIXTURES,
    MAX_OBJECTS,
    BuiltScene,
    add_fixtures,
    add_geom,
    entries,
    finish,
    new_stage,
    number,
    vector,
)
from phys4d.types import SceneSpec

CONTACT_STIFFNESS = 40_000.0
"""Contact spring in 1/s^2 (force over mass and depth): an impact lasts about pi / 200 s, 8 steps of 2 ms."""
FRICTION_DAMPING = 250.0
"""Rate in 1/s at which friction stops slip below its Coulomb limit."""


def build(spec: SceneSpec) -> BuiltScene:
    """Compile a scene. The same spec gives bitwise the same model.

    Raises:
        ValueError: a parameter is missing, of the wrong length or out of range.
    """
    mjspec = new_stage(spec)
    option = mjspec.option
    option.integrator = mujoco.mjtIntegrator.mjINT_RK4
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.solver = mujoco.mjtSolver.mjSOL_NEWTON
    option.iterations, option.tolerance = 50, 1e-10
    objects = entries(spec.parameters, "objects", MAX_OBJECTS)
    fixtures = entries(spec.parameters, "fixtures", MAX_FIXTURES)
    for index, values in enumerate(objects):
        where = f"objects[{index}]"
        body = mjspec.worldbody.add_body(
            name=f"object{index}",
            pos=vector(values, where, "position_m", 3),
            quat=vector(values, where, "quaternion_wxyz", 4),
        )
        body.add_freejoint()
        vector(values, where, "linear_velocity_m_s", 3)
        vector(values, where, "angular_velocity_rad_s", 3)
        density = number(values, where, "density_kg_m3", 1, 30_000)
        add_geom(body, f"object{index}", values, where, density)
    add_fixtures(mjspec, spec.parameters)
    _add_contacts(mjspec, spec.parameters, objects, fixtures)
    return finish(spec, mjspec, velocities=True)


@lru_cache(maxsize=256)
def damping_of_restitution(restitution: float, stiffness: float = CONTACT_STIFFNESS) -> float:
    """Damping in 1/s of a contact spring that only pushes and returns `restitution` of the speed.

    With b half the damping: below critical damping, w^2 = stiffness - b^2 and
    e = exp(-b / w (pi - atan2(2 b w, w^2 - b^2))); above it, w^2 = b^2 - stiffness and
    e = exp(-b / w ln((b + w) / (b - w))).

    Source: Schwager and Poeschel, Granular Matter 9 (2007), equation 21.
    """
    if not 0.05 <= restitution <= 1:
        raise ValueError(f"restitution must be in [0.05, 1], got {restitution}")
    low, high = 0.0, 2.5 * math.sqrt(stiffness)
    for _ in range(60):
        b = 0.5 * (low + high)
        w = math.sqrt(abs(stiffness - b * b)) or 1e-12
        if b * b < stiffness:
            exponent = b / w * (math.pi - math.atan2(2 * b * w, w * w - b * b))
        else:
            exponent = b / w * math.log((b + w) / (b - w))
        low, high = (b, high) if math.exp(-exponent) > restitution else (low, b)
    return low + high


def _add_contacts(
    mjspec: mujoco.MjSpec,
    parameters: Mapping[str, Any],
    objects: Sequence[Mapping[str, Any]],
    fixtures: Sequence[Mapping[str, Any]],
) -> None:
    bounce = [number(values, f"objects[{i}]", "restitution") for i, values in enumerate(objects)]
    slide = number(parameters, "parameters", "object_friction")
    for i in range(len(objects)):
        others = [(f"object{j}", min(bounce[i], bounce[j]), slide) for j in range(i + 1, len(objects))]
        others += [
            (f"fixture{j}", bounce[i], number(values, f"fixtures[{j}]", "friction"))
            for j, values in enumerate(fixtures)
        ]
        for name, restitution, friction in others:
            if not 0 <= friction <= 5:
                raise ValueError(f"friction of {name} must be in [0, 5], got {friction}")
            mjspec.add_pair(
                geomname1=f"object{i}",
                geomname2=name,
                condim=3,
                friction=[max(friction, 1e-5)] * 2 + [0.005, 0.0001, 0.0001],
                # Negative values are stiffness and damping themselves, not a time constant and a ratio.
                solref=[-CONTACT_STIFFNESS, -damping_of_restitution(restitution)],
                solreffriction=[-1.0, -FRICTION_DAMPING],
                solimp=[0.99, 0.99, 0.001, 0.5, 2.0],
            )
