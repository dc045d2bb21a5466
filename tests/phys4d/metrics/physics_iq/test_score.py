"""Both scores from hand-made metrics."""

import pytest

from phys4d.metrics.physics_iq.agreement import Agreement
from phys4d.metrics.physics_iq.score import ViewResult, original_score, verified_score


def view(scenario: str, name: str, model: tuple[float, ...], variance: tuple[float, ...]) -> ViewResult:
    """Values are (mse, st, s, ws); two equal frames."""
    sides = [
        Agreement(mse=(m,) * 2, st_iou=(st,) * 2, s_iou=s, ws_iou=ws) for m, st, s, ws in (model, variance)
    ]
    return ViewResult(scenario=scenario, view=name, video_id="0001", model=sides[0], variance=sides[1])


def test_original_is_a_ratio_of_means_and_verified_a_mean_of_ratios() -> None:
    """Ratios of 1/2 and 2 of one part: means 0.5 / 0.5 give 1 in Original, clipped ratios 3/4 in Verified."""
    same = (0.01, 0.5, 0.5, 0.5)
    views = [
        view("a", "left", (0.01, 0.5, 0.2, 0.5), (0.01, 0.5, 0.4, 0.5)),
        view("b", "left", (0.01, 0.5, 0.8, 0.5), (*same[:2], 0.6, 0.5)),
    ]
    assert original_score(views)["unclipped"] == pytest.approx(100)
    assert verified_score(views)["s_iou"] == pytest.approx(0.75)
    assert verified_score(views)["score"] == pytest.approx(100 * (1 + 1 + 1 + 0.75) / 4, abs=1e-4)


def test_the_error_is_subtracted_in_original_and_divides_in_verified() -> None:
    views = [view("a", "left", (0.05, 0.5, 0.5, 0.5), (0.01, 0.5, 0.5, 0.5))]
    assert original_score(views)["score"] == 96.0
    assert verified_score(views)["mse"] == pytest.approx(0.2)


def test_spatial_variance_keeps_five_decimals_and_the_others_four() -> None:
    views = [view("a", "left", (0.0, 0.5, 0.5, 0.5), (0.0, 0.123456, 0.123456, 0.123456))]
    parts = original_score(views)
    assert (parts["variance_s_iou"], parts["variance_ws_iou"], parts["variance_st_iou"]) == (
        0.12346,
        0.1235,
        0.1235,
    )


def test_the_original_score_stays_in_0_to_100() -> None:
    good, bad = (0.0, 0.9, 0.9, 0.9), (0.9, 0.0, 0.0, 0.0)
    assert original_score([view("a", "left", good, (0.0, 0.5, 0.5, 0.5))])["score"] == 100.0
    assert original_score([view("a", "left", bad, (0.0, 0.5, 0.5, 0.5))])["score"] == 0.0


def test_identical_videos_are_perfect_even_where_takes_do_not_differ() -> None:
    perfect = (0.0, 1.0, 1.0, 1.0)
    assert verified_score([view("a", "left", perfect, perfect)])["score"] == pytest.approx(100, abs=1e-5)


def test_takes_that_never_agree_leave_the_original_score_undefined() -> None:
    with pytest.raises(ValueError, match="s_iou is 0"):
        original_score([view("a", "left", (0.0, 0.5, 0.5, 0.5), (0.0, 0.5, 0.0, 0.5))])


def test_no_view_is_no_score() -> None:
    with pytest.raises(ValueError, match="no view"):
        verified_score([])
