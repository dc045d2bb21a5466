"""Garments: cloth as a MuJoCo flex, a sheet of triangles that stretches, shears and bends."""

import mujoco

from phys4d.scenes import drawing, rigid
from phys4d.scenes.category import Category, Drawn
from phys4d.scenes.drawing import Rng
from phys4d.scenes.model import BuiltScene, add_fixtures, finish, new_stage, number, vector
from phys4d.scenes.simulation import simulate
from phys4d.types import SceneSpec


def drape(rng: Rng, friction: float) -> Drawn:
    """A square cloth falls onto a fixed ball."""
    color = drawing.colors(rng, 1)[0]
    radius = rng.uniform(0.2, 0.3)
    side = rng.uniform(0.7, 0.9)
    top = radius * 2 + rng.uniform(0.1, 0.3)
    ball = drawing.block(rng, "ball", (radius,), (rng.uniform(-0.2, 0.2), 0.0, radius), friction)
    ball["shape"] = "sphere"
    cloth = {
        "name": f"{color} cloth",
        "shape": "cloth",
        "size_m": [side / 2, side / 2, 0.004],
        "position_m": [ball["position_m"][0] + rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1), top],
        "young_pa": float(10 ** rng.uniform(3.5, 4.5)),
        "mass_kg": rng.uniform(0.1, 0.3),
        "material": "cloth",
        "color": color,
        "rgb": drawing.hsv_to_rgb(drawing.HUES[color], 0.9, 0.9),
    }
    return Drawn(
        objects=[cloth],
        fixtures=[*drawing.backdrop(rng, friction), ball],
        words=f"{color} cloth above a ball at rest",
    )


def build(spec: SceneSpec) -> BuiltScene:
    """Compile a scene of one cloth."""
    mjspec = new_stage(spec)
    mjspec.option.integrator = mujoco.mjtIntegrator.mjINT_DISCRETE
    mjspec.option.solver = mujoco.mjtSolver.mjSOL_CG
    mjspec.option.tolerance = 1e-6
    cloth = spec.parameters["objects"][0]
    side = 2 * vector(cloth, "objects[0]", "size_m", 3)[0]
    x, y, z = vector(cloth, "objects[0]", "position_m", 3)
    count = 17
    child = mujoco.MjSpec.from_string(f"""
    <mujoco><worldbody><body name="object0" pos="{x} {y} {z}">
      <flexcomp name="object0" type="grid" dim="2" count="{count} {count} 1"
        spacing="{side / (count - 1)} {side / (count - 1)} 1" radius="0.008"
        mass="{number(cloth, "objects[0]", "mass_kg", 0.01, 5)}">
        <contact selfcollide="none" solref="0.01 1"/>
        <elasticity young="{number(cloth, "objects[0]", "young_pa", 1e3, 1e6)}" poisson=".2" thickness="1e-3"
          damping="1e-2" elastic2d="both"/>
      </flexcomp></body></worldbody></mujoco>""")
    frame = mjspec.worldbody.add_frame()
    mjspec.attach(child, frame=frame, prefix="")
    add_fixtures(mjspec, spec.parameters)
    for index in range(len(spec.parameters["fixtures"])):
        geom = mjspec.geom(f"fixture{index}")
        geom.contype, geom.conaffinity = 1, 1
    return finish(spec, mjspec)


CATEGORY = Category(
    name="garment",
    engine=rigid.engine,
    families={"drape": drape},
    build=build,
    simulate=simulate,
    physical={"young_pa": (3e3, 3e4), "friction": (0.02, 1.0)},
)
