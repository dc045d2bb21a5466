"""Building scenes: bitwise from JSON, physics as declared, refusal of malformed parameters."""

import math
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
import pytest

from phys4d.scenes import build, families, sample_spec, simulate
from phys4d.scenes.model import look_at
from phys4d.scenes.rigid_bodies import damping_of_restitution
from phys4d.types import SceneSpec


@pytest.mark.parametrize("family", families("rigid")["rigid"])
def test_a_spec_from_json_rebuilds_model_and_trajectory_bit_for_bit(family: str) -> None:
    spec = sample_spec("rigid", family, 3)
    again = SceneSpec.from_json(spec.to_json())
    first, second = build(spec), build(again)
    buffers = [np.empty(mujoco.mj_sizeModel(scene.model), np.uint8) for scene in (first, second)]
    for scene, buffer in zip((first, second), buffers, strict=True):
        mujoco.mj_saveModel(scene.model, None, buffer)
    assert np.array_equal(buffers[0], buffers[1])
    assert simulate(first).qpos.tobytes() == simulate(second).qpos.tobytes()


def test_a_falling_ball_follows_half_g_t_squared(make_scene: Any) -> None:
    scene = make_scene({"position_m": [0.0, 0.0, 3.0]})
    trajectory = simulate(scene)
    expected = 3.0 - 0.5 * 9.81 * trajectory.times_s**2
    # RK4 is exact for constant acceleration.
    assert np.allclose(trajectory.position_m[:, 0, 2], expected, atol=1e-12)


def test_a_thrown_ball_keeps_its_horizontal_speed(make_scene: Any) -> None:
    scene = make_scene({"position_m": [0.0, 0.0, 3.0], "linear_velocity_m_s": [1.5, -0.5, 0.0]})
    trajectory = simulate(scene)
    assert np.allclose(trajectory.position_m[:, 0, 0], 1.5 * trajectory.times_s, atol=1e-12)
    assert np.allclose(trajectory.position_m[:, 0, 1], -0.5 * trajectory.times_s, atol=1e-12)


@pytest.mark.parametrize("restitution", [0.1, 0.45, 0.6, 0.8, 0.9])
def test_a_dropped_ball_rebounds_to_e_squared_of_its_height(make_scene: Any, restitution: float) -> None:
    """Measured: height ratio within 0.03 of e^2 (the impact lasts 16 ms, in which gravity acts too)."""
    scene = make_scene({"position_m": [0.0, 0.0, 1.0], "restitution": restitution}, num_frames=600, fps=500.0)
    height = simulate(scene).position_m[:, 0, 2] - 0.2
    bounce = int(np.argmin(height[:300]))
    assert height[bounce:].max() / 0.8 == pytest.approx(restitution**2, abs=0.03)


def test_the_less_bouncy_of_two_bodies_decides(make_scene: Any) -> None:
    """Equal balls in free fall meet head on with e = 0.45: relative speed 2 becomes 0.9.

    An impact is 8 steps long, so e varies with the phase of the step: measured standard deviation 0.016.
    """
    scene = make_scene(
        {"position_m": [-0.5, 0.0, 9.0], "linear_velocity_m_s": [1.0, 0.0, 0.0], "restitution": 0.8},
        {"position_m": [0.5, 0.0, 9.0], "linear_velocity_m_s": [-1.0, 0.0, 0.0], "restitution": 0.45},
    )
    velocity = simulate(scene).velocity[-1, :, 0]
    assert velocity[1] - velocity[0] == pytest.approx(0.9, abs=0.08)
    assert velocity.sum() == pytest.approx(0.0, abs=1e-9)


def test_a_sliding_box_is_slowed_by_mu_g(make_scene: Any) -> None:
    """After 0.25 s at mu = 0.5 a box has lost 1.226 m/s of 3; soft contact lets it vary by 2 %."""
    scene = make_scene(
        {
            "shape": "box",
            "size_m": [0.2, 0.2, 0.1],
            "position_m": [0.0, 0.0, 0.1],
            "linear_velocity_m_s": [3.0, 0.0, 0.0],
            "restitution": 0.1,
        },
        num_frames=2,
        fps=4.0,
    )
    assert simulate(scene).velocity[-1, 0, 0] == pytest.approx(3 - 0.5 * 9.81 * 0.25, rel=0.02)


def test_damping_of_restitution_inverts_an_integrated_bounce() -> None:
    """x'' = -k x - c x' from x = 0 at speed 1 until the force stops pushing."""
    for restitution in (0.05, 0.1, 0.14, 0.5, 0.9):
        k, c = 40_000.0, damping_of_restitution(restitution)
        x, v, dt = 0.0, -1.0, 1e-6
        while -k * x - c * v > 0:
            v += (-k * x - c * v) * dt
            x += v * dt
        assert v == pytest.approx(restitution, abs=0.002)


def test_a_lossless_bounce_has_no_damping() -> None:
    assert damping_of_restitution(1.0) == pytest.approx(0.0, abs=1e-9)


def test_look_at_keeps_up_up() -> None:
    """From (0, -3, 1) towards +y: the camera's x is world x, its y is world -z."""
    pose = look_at([0.0, -3.0, 1.0], [0.0, 0.0, 1.0])
    assert np.allclose(pose, [[1, 0, 0, 0], [0, 0, -1, 1], [0, 1, 0, 3], [0, 0, 0, 1]])


def test_a_camera_that_looks_straight_down_is_refused() -> None:
    with pytest.raises(ValueError, match="straight up or down"):
        look_at([0.0, 0.0, 3.0], [0.0, 0.0, 0.0])


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (96, 96)])
def test_the_cameras_field_of_view_spans_the_longer_side(make_scene: Any, width: int, height: int) -> None:
    camera = make_scene({}).camera(width, height)
    assert math.degrees(2 * math.atan(48 / camera.fx)) == pytest.approx(45.0)
    assert (camera.fy, camera.cx, camera.cy) == (camera.fx, width / 2, height / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"restitution": 1.5}, r"restitution must be in \[0.05, 1\], got 1.5"),
        ({"restitution": "high"}, r"objects\[0\].restitution must be a number, got 'high'"),
        ({"position_m": [0.0, 1.0]}, r"objects\[0\].position_m must be 3 numbers"),
        ({"shape": "cone"}, r"objects\[0\].shape must be one of .*, got 'cone'"),
        ({"size_m": [-0.2]}, r"objects\[0\].size_m must be positive"),
        ({"density_kg_m3": 0.0}, r"objects\[0\].density_kg_m3 must be in \[1, 30000\], got 0.0"),
    ],
)
def test_malformed_parameters_are_refused_by_name(
    make_scene: Any, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_scene(change)


@pytest.mark.parametrize(
    "name", ["gravity_m_s2", "objects", "fixtures", "camera", "caption", "object_friction"]
)
def test_a_missing_parameter_is_named(name: str) -> None:
    spec = sample_spec("rigid", "drop", 0)
    parameters = {key: value for key, value in spec.parameters.items() if key != name}
    with pytest.raises(ValueError, match=name):
        build(replace(spec, parameters=parameters))


def test_a_spec_that_asks_for_too_many_steps_is_refused() -> None:
    spec = sample_spec("rigid", "drop", 0)
    for change in ({"num_frames": 10**9}, {"timestep_s": 1e-6}, {"fps": 0.001}):
        with pytest.raises(ValueError, match="at most 100000 steps"):
            build(replace(spec, **change))


def test_another_category_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown category 'magic'; known: rigid"):
        build(replace(sample_spec("rigid", "drop", 0), category="magic"))
