"""Scenes with flexes: every family is drawn, moves, keeps its invariants, and refuses bad parameters."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from phys4d.scenes import flex_simulation, meshes, registry
from phys4d.scenes.annotations import contacts
from phys4d.scenes.model import BuiltScene
from phys4d.scenes.trajectory import UnstableSimulation
from phys4d.types import SceneSpec

FAMILIES = [
    (category, family)
    for category in ("garments", "deformable", "inflatables", "ropes")
    for family in registry.families(category)[category]
]


def _rebuilt(spec: SceneSpec, **values: Any) -> BuiltScene:
    """The scene with its first object changed."""
    parameters = copy.deepcopy(spec.parameters)
    parameters["objects"][0] |= values
    return registry.build(
        SceneSpec(
            category=spec.category,
            family=spec.family,
            seed=0,
            parameters=parameters,
            num_frames=spec.num_frames,
            fps=spec.fps,
            timestep_s=spec.timestep_s,
        )
    )


@pytest.mark.parametrize(("category", "family"), FAMILIES)
def test_a_family_is_drawn_and_deforms_within_bounds(category: str, family: str) -> None:
    scene, trajectory = registry.sample_scene(category, family, 1, num_frames=5)
    assert scene.caption.startswith(f"{family} : ")
    for mesh in trajectory.meshes:
        assert np.isfinite(mesh.vertices_m).all()
        assert mesh.vertices_m[..., 2].min() > -0.05
        first = mesh.vertices_m[0]
        assert np.linalg.norm(np.diff(first[mesh.faces], axis=1), axis=2).min() > 0
    assert trajectory.meshes
    for index, entry in enumerate(scene.spec.parameters["objects"]):
        free = not entry.get("held") and not entry.get("tied") and "drive_m_s" not in entry
        if free and scene.objects[index].body_id < 0:
            # The mean of the points' velocities, not of their way until the next frame.
            assert trajectory.velocity[0, index, :3] == pytest.approx(entry["linear_velocity_m_s"], abs=1e-9)
    assert max(np.ptp(mesh.vertices_m, axis=0).max() for mesh in trajectory.meshes) > 0.01


@pytest.mark.parametrize(("category", "family"), [("garments", "wind"), ("inflatables", "bounce")])
def test_a_spec_read_from_json_moves_bit_for_bit_alike(category: str, family: str) -> None:
    """Also under loads, which are computed outside MuJoCo."""
    scene, trajectory = registry.sample_scene(category, family, 3, num_frames=4)
    again = registry.simulate(registry.build(SceneSpec.from_json(scene.spec.to_json())))
    assert np.array_equal(trajectory.qpos, again.qpos)


def test_the_volume_of_a_sealed_balloon_hardly_changes_when_it_bounces() -> None:
    """A wall of 250 N/m holds about 1 % of an atmosphere: 3 %."""
    scene, trajectory = registry.sample_scene("inflatables", "bounce", 0)
    mesh = trajectory.meshes[0]
    volume = [meshes.enclosed_volume(points, mesh.faces) for points in mesh.vertices_m]
    assert np.allclose(volume, volume[0], rtol=0.03)
    assert scene.objects[0].mass_kg > 0


def test_held_points_stay_until_they_are_released() -> None:
    spec = registry.sample_spec("garments", "release", 0, num_frames=7)
    held = [int(n) for n in spec.parameters["objects"][0]["held"]]
    stays = registry.simulate(_rebuilt(spec)).meshes[0].vertices_m[:, held]
    assert np.abs(stays - stays[0]).max() < 1e-9
    let_go = registry.simulate(_rebuilt(spec, release_s=0.2))
    assert let_go.equalities is not None
    # Seven frames at 12 fps: the third is at 0.17 s.
    assert np.array_equal(let_go.equalities.all(axis=1), [True] * 3 + [False] * 4)
    falls = let_go.meshes[0].vertices_m[:, held, 2]
    assert np.abs(falls[2] - falls[0]).max() < 0.02
    assert (falls[0] - falls[-1]).min() > 0.05


def test_a_rope_tied_to_a_weight_carries_it_on_a_circle() -> None:
    """The weight's far end of the rope keeps its distance from the pivot within 0.5 %."""
    scene, trajectory = registry.sample_scene("ropes", "swing", 0)
    line = flex_simulation.rope_points(scene, trajectory, 0)
    distance = np.linalg.norm(line[:, -1] - line[:, 0], axis=1)
    assert np.allclose(distance, distance[0], rtol=0.005)
    assert np.linalg.norm(line[-1, -1] - line[0, -1]) > 0.2


def test_a_driven_plate_keeps_its_course() -> None:
    """It squeezes as far as the caption says, within 5 mm."""
    scene, trajectory = registry.sample_scene("deformable", "squeeze", 0, num_frames=12)
    values = scene.spec.parameters["objects"][1]
    way = np.linalg.norm(values["drive_m_s"]) * min(values["drive_s"], trajectory.times_s[-1])
    assert abs(np.linalg.norm(trajectory.position_m[-1, 1] - trajectory.position_m[0, 1]) - way) < 0.005
    # At rest the drive pushes as hard as the contacts do; were it left out, they would push 6 % less.
    last = contacts(scene, trajectory)
    on_plate = last[(last[:, 0] == len(trajectory.times_s) - 1) & (last[:, 1:3] == 2).any(axis=1)]
    assert trajectory.applied is not None
    assert on_plate[:, 9].sum() == pytest.approx(np.abs(trajectory.applied[-1]).sum(), rel=1e-3)


def test_a_balloon_at_rest_presses_on_the_floor_with_its_weight() -> None:
    """The gas pushes it against the floor; contacts without that load would bear a quarter less."""
    spec = registry.sample_spec("inflatables", "bounce", 0, num_frames=2)
    scene = registry.build(replace(spec, num_frames=4, fps=1.0))
    found = contacts(scene, registry.simulate(scene))
    resting = found[found[:, 0] == 3]
    assert set(resting[:, 1]) | set(resting[:, 2]) == {0, 1}
    assert resting[:, 9].sum() == pytest.approx(9.81 * scene.objects[0].mass_kg, rel=3e-3)


def test_overstretched_cloth_is_refused() -> None:
    spec = registry.sample_spec("garments", "release", 0, num_frames=7)
    with pytest.raises(UnstableSimulation, match="an edge of object 0 stretched by"):
        registry.simulate(_rebuilt(spec, young_pa=50.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": "smoke"}, r"objects\[0\].shape must be one of"),
        ({"young_pa": -1.0}, r"objects\[0\].young_pa must be in \[1, 1e\+09\], got -1"),
        ({"counts": [100.0, 100.0]}, r"objects\[0\] must have 2 to 2000 points, got 10000"),
        ({"shape": []}, r"objects\[0\].shape must be a word, got \[\]"),
        ({"held": None}, r"objects\[0\].held must be a list, got None"),
        ({"tied": [3.0]}, r"objects\[0\].tied must be 2 numbers, got 3.0"),
        ({"held": [9999.0]}, r"objects\[0\].held must be point indices below"),
    ],
)
def test_malformed_cloth_is_refused(change: dict[str, Any], message: str) -> None:
    spec = registry.sample_spec("garments", "release", 0)
    with pytest.raises(ValueError, match=message):
        _rebuilt(spec, **change)
