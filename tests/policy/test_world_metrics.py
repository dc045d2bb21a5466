"""World metrics on a rendered fall: truth is at its floor, and a frozen or reversed video is not."""

import dataclasses
from collections import Counter

import numpy as np
import pytest

from phys4d.data import Sample
from phys4d.data.format import ARRAYS
from phys4d.models.estimators import DisFlow
from phys4d.scenes.render import RenderConfig, render_sample
from phys4d.types import Camera, SceneSpec
from policy.measurements import Table
from policy.world_metrics import (
    MAX_POINTS,
    benchmark_metrics,
    free_fall_metrics,
    geometry_metrics,
    rgb_metrics,
    scene_clouds,
)


@pytest.fixture(scope="module")
def sample() -> Sample:
    """The first `drop` of 48 x 48 pixels, with a second take."""
    config = RenderConfig(
        width=48, height=48, num_frames=9, look="plain", second_take=True, supersampling=1, workers=1
    )
    made = render_sample(config, ["drop"], 0, Counter())
    arrays, metadata = made["arrays"], made["metadata"]
    return Sample(
        key="000000",
        spec=SceneSpec(**metadata["spec"]),
        camera=Camera.from_dict(metadata["camera"]),
        caption=metadata["caption"],
        objects=metadata["objects"],
        engine=metadata["engine"],
        more={name: array for name, array in arrays.items() if name not in ARRAYS},
        **{name: arrays[name] for name in ARRAYS},
    )


def still(array: np.ndarray) -> np.ndarray:
    return array[:1].repeat(len(array), 0)


def test_the_simulators_own_geometry_is_at_the_floor_of_every_metric(sample: Sample) -> None:
    truth = geometry_metrics(sample, sample.depth, sample.motion)
    assert truth["flow EPE"] == truth["scene flow EPE"] == truth["depth flicker"] == 0.0
    assert truth["depth AbsRel"] < 1e-6 and truth["depth delta1"] == 1.0
    for metric in ("spacetime Chamfer", "track error", "final centroid drift", "depth warp L1"):
        assert truth[metric] < 0.03, "interpolating motion at 48 pixels"


def test_a_frozen_world_is_worse_wherever_motion_counts(sample: Sample) -> None:
    truth = geometry_metrics(sample, sample.depth, sample.motion)
    frozen = geometry_metrics(sample, still(sample.depth), np.zeros_like(sample.motion))
    for metric in ("spacetime Chamfer", "track error", "final centroid drift", "slope of centroid drift",
                   "flow EPE", "scene flow EPE"):  # fmt: skip
        assert frozen[metric] > 3 * truth[metric] + 0.01, metric


def test_the_second_take_is_at_100_percent_of_the_physical_variance(sample: Sample) -> None:
    share = "share of physical variance"
    assert benchmark_metrics(sample, sample.more["rgb_take2"])[share] == pytest.approx(100, abs=1e-3)
    assert benchmark_metrics(sample, sample.rgb)[share] == pytest.approx(100, abs=1e-3)
    assert benchmark_metrics(sample, still(sample.rgb))[share] < 50


def test_scenes_without_a_second_take_have_no_share_of_variance(sample: Sample) -> None:
    once = dataclasses.replace(sample, more={})
    assert "share of physical variance" not in benchmark_metrics(once, sample.rgb)


def test_exact_masks_fall_without_error_and_a_frozen_ball_does_not_fall(sample: Sample) -> None:
    truth = sample.object_ids == 1
    assert free_fall_metrics(sample, truth) == {
        "free-fall L2": 0.0, "free-fall Chamfer": 0.0, "free-fall IoU": 1.0
    }  # fmt: skip
    frozen = free_fall_metrics(sample, still(truth))
    assert frozen["free-fall L2"] > 0.05 and frozen["free-fall IoU"] < 0.5


def test_pixels_tell_truth_from_its_reverse(sample: Sample) -> None:
    """Flow leads back as well in both; masks and the fall do not agree."""
    forward, reverse = (rgb_metrics(sample, v, DisFlow()) for v in (sample.rgb, sample.rgb[::-1].copy()))
    assert forward["free-fall IoU"] > 0.8 > reverse["free-fall IoU"]
    assert forward["motion ST-IoU"] == 1.0 > reverse["motion ST-IoU"]
    assert forward["flow cycle error"] < 0.5 and reverse["flow cycle error"] < 0.5


def test_clouds_of_truth_lie_on_truth_and_frozen_ones_stay_behind(sample: Sample) -> None:
    clouds = scene_clouds(
        sample,
        {
            "exact": (sample.depth, sample.motion),
            "frozen": (still(sample.depth), np.zeros_like(sample.motion)),
        },
    )
    num_points = len(clouds["object_index"])
    assert num_points <= MAX_POINTS and clouds["truth_m"].shape == (9, num_points, 3)
    assert np.nanmax(clouds["exact_error_m"]) < 0.05
    assert np.ptp(clouds["frozen_m"], axis=0).max() < 1e-6
    gap = np.linalg.norm(clouds["frozen_m"] - clouds["truth_m"], axis=-1)[-1].mean()
    assert np.nanmean(clouds["frozen_error_m"][-1]) == pytest.approx(min(gap, 1.0), rel=0.2)


def test_a_metric_that_no_scene_has_gets_no_row() -> None:
    table = Table()
    table.add("base", "rgb", "free-fall L2", [float("nan"), float("nan")])
    table.add("base", "rgb", "motion MSE", [0.5, float("nan")])
    (row,) = table.rows()
    assert (row["metric"], row["mean"], row["num_scenes"]) == ("motion MSE", 0.5, 1)
