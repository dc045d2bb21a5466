"""Initial velocities estimated from a motion: right on the simulator's own, whatever they were."""

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from phys4d import scenes
from phys4d.reward.plugin import DataError
from phys4d.scenes import simulation
from phys4d.scenes.registry import draw_spec
from phys4d.types import Rollout, SceneSpec
from reward_service.config import ChamferSettings
from reward_service.nearest import nearest_trajectory, roll_out
from reward_service.scoring import score
from reward_service.truth import follow, rebuild, resimulate

SETTINGS = ChamferSettings()


def nearest_of(spec: SceneSpec, qvel: np.ndarray, **options):
    """What is estimated from points that move as if the scene had started with those velocities."""
    first, _ = rebuild(spec, 64, 64, 192)
    points = follow(first, resimulate(replace(first.scene, qvel=qvel))).points_m
    present = np.ones(points.shape[:2], bool)
    return first, nearest_trajectory(first, points, present, num_frames=3, **options)


@pytest.mark.parametrize(
    ("category", "family", "seed"),
    [("rigid", "drop", 0), ("rigid", "projectile", 0), ("rigid", "ramp", 2), ("articulated", "pendulum", 0)],
)
def test_velocities_other_than_the_scenes_are_found(category: str, family: str, seed: int) -> None:
    """From exact points to a centimetre per second, through impacts and friction."""
    spec = scenes.sample_spec(category, family, seed)
    scene = scenes.build(spec)
    change = np.random.default_rng(0).uniform(0.2, 0.5, scene.model.nv)
    if category == "rigid":
        # Up and to the side, so that contact does not swallow it; and no spin of what lies on the floor.
        change = np.tile([0.5, 0.3, 0.6, 0.0, 0.0, 0.0], len(scene.objects))
    qvel = scene.qvel + change
    _, nearest = nearest_of(spec, qvel)
    assert nearest.residual_m < 5e-4
    assert np.abs(nearest.qvel - qvel).max() < 0.01


def test_threads_change_nothing_and_simulations_are_those_of_the_scene() -> None:
    scene = scenes.build(scenes.sample_spec("rigid", "collision", 1))
    steps = simulation.frame_steps(scene)[:4]
    qvels = scene.qvel * np.array([[1.0], [0.5], [-1.0], [0.0]])
    one, two = (
        roll_out(scene, qvels, steps, [mujoco.MjData(scene.model) for _ in range(count)]) for count in (1, 2)
    )
    assert np.array_equal(one, two)
    for row, qvel in zip(one, qvels, strict=True):
        assert np.array_equal(row, scenes.simulate(replace(scene, qvel=qvel)).qpos[1:4])


def thrown_otherwise(make_truth) -> tuple[Rollout, Rollout]:
    """Videos of a drawn scene, and of the same scene thrown 1 m/s steeper."""
    drawn = scenes.sample_spec("rigid", "projectile", 1)
    parameters = SceneSpec.from_json(drawn.to_json()).parameters
    velocity = parameters["objects"][0]["linear_velocity_m_s"]
    parameters["objects"][0]["linear_velocity_m_s"] = [0.6 * velocity[0], velocity[1], velocity[2] + 1.0]
    return make_truth("projectile", 1), make_truth("projectile", spec=replace(drawn, parameters=parameters))


def test_physics_that_the_prompt_did_not_ask_for_is_still_physics(make_truth) -> None:
    """Mode `scene` wants the drawn throw; mode `rollout` takes any throw that then flies as things do."""
    drawn, other = thrown_otherwise(make_truth)
    sold = replace(other, scene=drawn.scene)
    honest = {mode: score(drawn, SETTINGS, mode=mode).value for mode in ("scene", "rollout")}
    faster = {mode: score(sold, SETTINGS, mode=mode) for mode in ("scene", "rollout")}
    assert min(honest.values()) > 0.85
    assert faster["scene"].value < 0.6 and faster["rollout"].value > 0.85
    assert faster["rollout"].components["velocity_change"] > 0.9
    assert faster["rollout"].components["fit_residual_m"] < 0.03
    # It hovers after its first three frames: no throw does that.
    depth, motion = np.array(drawn.depth), np.array(drawn.motion)
    depth[4:], motion[3:] = depth[3], 0
    hovers = score(replace(drawn, depth=depth, motion=motion), SETTINGS, mode="rollout")
    assert hovers.value < honest["rollout"] - 0.2


def test_a_scene_whose_state_is_more_than_velocities_is_refused() -> None:
    spec = draw_spec("deformable", "drop", 0, num_frames=2)
    scene = scenes.build(spec)
    with pytest.raises(DataError, match="use scene_chamfer") as info:
        nearest_of(spec, scene.qvel)
    assert info.value.reason == "NO_ROLLOUT_MODE"


def test_frames_too_far_apart_are_refused() -> None:
    spec = replace(scenes.sample_spec("rigid", "drop", 0), fps=1.0)
    with pytest.raises(DataError) as info:
        nearest_of(spec, scenes.build(spec).qvel)
    assert info.value.reason == "FRAMES_TOO_FAR_APART"
