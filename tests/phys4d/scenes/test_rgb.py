"""Pictures: the ray tracer sees the geometry of the annotations, in the colours of the caption."""

import colorsys

import numpy as np
import pytest

from phys4d.scenes.annotations import annotate
from phys4d.scenes.drawing import HUES
from phys4d.scenes.registry import sample_scene
from phys4d.scenes.rgb import RgbRenderer


@pytest.fixture(scope="module")
def renderer() -> RgbRenderer:
    return RgbRenderer(width=64, height=64, num_frames=9, supersampling=1)


@pytest.mark.parametrize("family", ["drop", "collision", "ramp", "tower", "projectile"])
def test_depth_of_the_ray_tracer_agrees_with_that_of_the_annotations(
    renderer: RgbRenderer, family: str
) -> None:
    """Two ray casters, float32 and float64; a ray that grazes a silhouette may fall on either side."""
    scene, trajectory = sample_scene("rigid", family, 1)
    renderer.render(scene, trajectory)
    truth = annotate(scene, trajectory, scene.camera(64, 64))
    error = np.abs(renderer.depth() - truth.depth) / truth.depth
    assert (error < 1e-4).mean() > 0.999


def test_every_object_has_the_hue_of_its_name(renderer: RgbRenderer) -> None:
    for seed in range(4):
        scene, trajectory = sample_scene("rigid", "tower", seed)
        rgb = renderer.render(scene, trajectory)
        ids = annotate(scene, trajectory, scene.camera(64, 64)).object_ids
        for index, item in enumerate(scene.objects):
            pixels = rgb[0][ids[0] == index + 1] / 255.0
            hue, saturation, _ = colorsys.rgb_to_hsv(*np.median(pixels, axis=0))
            apart = abs((360 * hue - HUES[item.name.split()[0]] + 180) % 360 - 180)
            assert apart < 20
            assert saturation > 0.6


def test_the_background_is_grey_or_beige(renderer: RgbRenderer) -> None:
    scene, trajectory = sample_scene("rigid", "ramp", 0)
    rgb = renderer.render(scene, trajectory)
    fixed = rgb[annotate(scene, trajectory, scene.camera(64, 64)).object_ids == 0].astype(float)
    saturation = 1 - fixed.min(-1) / np.maximum(fixed.max(-1), 1)
    assert np.quantile(saturation, 0.99) < 0.3


def test_a_video_does_not_depend_on_what_was_drawn_before(renderer: RgbRenderer) -> None:
    scene = sample_scene("rigid", "drop", 0)
    first = renderer.render(*scene)
    renderer.render(*sample_scene("rigid", "tower", 0))
    assert np.array_equal(renderer.render(*scene), first)


def test_supersampling_averages_the_finer_picture(renderer: RgbRenderer) -> None:
    """Two rays per axis differ from one at silhouettes and texture edges only."""
    scene = sample_scene("rigid", "drop", 0)
    smooth = RgbRenderer(width=64, height=64, num_frames=9, supersampling=2).render(*scene)
    difference = np.abs(smooth.astype(int) - renderer.render(*scene))
    assert np.median(difference) <= 2
    assert difference.max() > 10


def test_a_video_in_several_launches_is_the_same(
    renderer: RgbRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nine frames, at most four at a time; liquid, so that particles are cut too."""
    scene = sample_scene("fluids", "splash", 0)
    monkeypatch.setattr("phys4d.scenes.rgb.RAYS_PER_LAUNCH", 4 * 64 * 64)
    few = RgbRenderer(width=64, height=64, num_frames=9, supersampling=1)
    assert np.array_equal(few.render(*scene), renderer.render(*scene))


def test_another_number_of_frames_is_refused(renderer: RgbRenderer) -> None:
    scene, trajectory = sample_scene("rigid", "drop", 0, num_frames=5)
    with pytest.raises(ValueError, match="draws 9 frames, got a trajectory of 5"):
        renderer.render(scene, trajectory)
