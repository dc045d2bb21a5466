"""Pendulums against closed formulas, and the articulated families."""

import copy

import mujoco
import numpy as np
import pytest
from scipy.special import ellipk

from phys4d.scenes import registry
from phys4d.scenes.model import BuiltScene
from phys4d.types import SceneSpec


def _of(family: str, num_frames: int, fps: float, **values: float) -> BuiltScene:
    spec = registry.sample_spec("articulated", family, 0)
    parameters = copy.deepcopy(spec.parameters)
    for entry in parameters["objects"]:
        entry["joint_damping"] = 0.0
        entry |= values
    return registry.build(
        SceneSpec(
            category="articulated",
            family=family,
            seed=0,
            parameters=parameters,
            num_frames=num_frames,
            fps=fps,
        )
    )


def test_a_pendulum_has_the_period_of_the_elliptic_integral() -> None:
    """T = 4 sqrt(I / m g d) K(sin^2(a / 2)) for a release at rest at angle a: 0.1 %."""
    scene = _of("pendulum", 2000, 500.0, start_speed=0.0)
    model = scene.model
    values = scene.spec.parameters["objects"][0]
    data = scene.initial_state()
    arm = data.xipos[1] - np.asarray(values["anchor_m"])
    angle = np.arctan2(np.hypot(arm[0], arm[1]), -arm[2])
    inertia = float(data.M[0])
    expected = (
        4
        * np.sqrt(inertia / (model.body_mass[1] * 9.81 * np.linalg.norm(arm)))
        * ellipk(np.sin(angle / 2) ** 2)
    )
    trajectory = registry.simulate(scene)
    speed = trajectory.qvel[:, 0]
    turns = np.flatnonzero(np.sign(speed[2:-1]) * np.sign(speed[3:]) < 0) + 2
    crossing = turns + speed[turns] / (speed[turns] - speed[turns + 1])
    assert len(crossing) >= 2
    assert np.isclose(2 * np.diff(crossing).mean() / 500.0, expected, rtol=1e-3)


def test_a_double_pendulum_keeps_its_energy() -> None:
    """RK4 at 2 ms over 4 s: 1e-3 of the largest kinetic energy."""
    scene = _of("double_pendulum", 200, 50.0)
    model = scene.model
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_ENERGY
    trajectory = registry.simulate(scene)
    data = mujoco.MjData(model)
    energy = []
    for qpos, qvel in zip(trajectory.qpos, trajectory.qvel, strict=True):
        data.qpos[:], data.qvel[:] = qpos, qvel
        mujoco.mj_forward(model, data)
        energy.append(data.energy.copy())
    energy = np.array(energy)
    assert energy[:, 1].max() > 0.1
    assert np.ptp(energy.sum(axis=1)) < 1e-3 * energy[:, 1].max()


def test_a_joint_stays_in_its_range() -> None:
    """Ranges are radians and metres about time 0; limits give way by less than 5 %."""
    scene = _of("drawer", 40, 20.0, start_speed=2.0)
    reach = scene.spec.parameters["objects"][0]["range"][1]
    travel = registry.simulate(scene).qpos[:, 0].max()
    assert 0.95 * reach < travel < 1.05 * reach


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"joint": "screw"}, r"objects\[0\].joint must be one of"),
        ({"joint": []}, r"objects\[0\].joint must be a word"),
        ({"parent": 0.0}, r"objects\[0\].parent must be in \[-1, -1\]"),
        ({"parts": []}, r"parts must be a list of 1 to 8"),
    ],
)
def test_a_malformed_link_is_refused(change: dict[str, object], message: str) -> None:
    spec = registry.sample_spec("articulated", "pendulum", 0)
    parameters = copy.deepcopy(spec.parameters)
    parameters["objects"][0] |= change
    with pytest.raises(ValueError, match=message):
        registry.build(
            SceneSpec(
                category="articulated", family="pendulum", seed=0, parameters=parameters, num_frames=2, fps=12
            )
        )
