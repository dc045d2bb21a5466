import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.metrics.chamfer import ChamferTerms, chamfer4d, chamfer_reward, largest_deviation, main, nn_d2

VECTORS = Path(__file__).parents[2] / "vectors" / "chamfer.json"


def one_object(pred: np.ndarray, gt: np.ndarray, *, num_frames: int | None = None, **options) -> ChamferTerms:
    """Compare arrays (T, N, 3) of one object."""
    pred, gt = np.asarray(pred, float), np.asarray(gt, float)
    frames = num_frames or len(gt)
    ids = [np.repeat(np.arange(len(a)), a.shape[1]) for a in (pred, gt)]
    return chamfer4d(
        pred.reshape(-1, 3),
        gt.reshape(-1, 3),
        pred_frame_id=ids[0],
        gt_frame_id=ids[1],
        pred_object_id=0 * ids[0],
        gt_object_id=0 * ids[1],
        shape=(1, frames, 1),
        **options,
    )


def clouds(seed: int = 0, num_frames: int = 3, num_points: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_frames, num_points, 3))


def test_a_two_by_two_case_by_hand() -> None:
    """Points at 0 and 3 against 0 and 1 on a line: d = 0, 2 one way and 0, 1 the other."""
    pred = np.array([[[0, 0, 0], [3, 0, 0]]])
    gt = np.array([[[0, 0, 0], [1, 0, 0]]])
    terms = one_object(pred, gt)
    assert terms.acc_m.item() == 1.0
    assert terms.comp_m.item() == 0.5
    assert terms.cd1_m.item() == 0.75
    assert terms.cd2_sum_m2.item() == 4 / 2 + 1 / 2


def test_recorded_values_of_pytorch3d_are_met(capsys: pytest.CaptureFixture[str]) -> None:
    assert largest_deviation(VECTORS) < 1e-6  # float32 rounding of the recording
    assert main(["--vectors", str(VECTORS)]) == 0
    assert "largest relative deviation" in capsys.readouterr().out


def test_a_wrong_recorded_value_fails_the_check(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(VECTORS.read_text().replace("0.9654820561408997", "0.96552"))
    assert main(["--vectors", str(wrong)]) == 1


def test_the_nearest_point_of_an_empty_segment_is_infinitely_far() -> None:
    x = np.array([[0.0, 0, 0], [1, 0, 0]])
    d2 = nn_d2(x, np.array([[0.0, 0, 2]]), np.array([0, 1, 2]), np.array([0, 1, 1]))
    assert d2.tolist() == [4.0, math.inf]


def test_segments_do_not_see_each_other() -> None:
    x, y = clouds(1, 1, 50)[0], clouds(2, 1, 60)[0]
    cut_x, cut_y = np.array([0, 20, 50]), np.array([0, 25, 60])
    brute = np.concatenate(
        [
            np.square(x[a:b, None] - y[None, c:d]).sum(-1).min(1)
            for a, b, c, d in ((0, 20, 0, 25), (20, 50, 25, 60))
        ]
    )
    np.testing.assert_allclose(nn_d2(x, y, cut_x, cut_y), brute, rtol=1e-12)


@given(st.integers(0, 10_000), st.sampled_from([None, 0.1, 2.0]), st.sampled_from([math.inf, 0.7]))
@settings(max_examples=25, deadline=None)
def test_swapping_the_clouds_swaps_the_directions(seed: int, c_time_m: float | None, tau_m: float) -> None:
    a, b = clouds(seed), clouds(seed + 1, num_points=30)
    forth = one_object(a, b, c_time_m=c_time_m, tau_m=tau_m)
    back = one_object(b, a, c_time_m=c_time_m, tau_m=tau_m)
    np.testing.assert_allclose(forth.acc_m, back.comp_m)
    np.testing.assert_allclose(forth.cd1_m, back.cd1_m)


def test_a_cloud_is_at_distance_zero_from_itself() -> None:
    terms = one_object(clouds(), clouds())
    assert terms.cd1_m.max() == 0 and terms.cd2_sum_m2.max() == 0


def test_the_order_of_points_does_not_matter() -> None:
    shuffled = clouds()[:, np.random.default_rng(5).permutation(40)]
    expected = one_object(clouds(), clouds(1))
    np.testing.assert_allclose(one_object(shuffled, clouds(1)).cd1_m, expected.cd1_m, rtol=1e-12)


def test_moving_both_clouds_by_100_m_changes_nothing() -> None:
    """The matrix-product form of the distance loses 2.5 times the value at 10 m already."""
    near, far = one_object(clouds(), clouds(1)), one_object(clouds() + 100, clouds(1) + 100)
    np.testing.assert_allclose(near.cd1_m, far.cd1_m, rtol=1e-6)
    np.testing.assert_allclose(near.cd2_sum_m2, far.cd2_sum_m2, rtol=1e-6)


def test_a_larger_shift_is_a_larger_distance() -> None:
    shifts = [one_object(clouds() + s, clouds()).cd1_m.mean() for s in (0.0, 0.01, 0.05, 0.3, 2.0)]
    assert shifts == sorted(shifts) and shifts[0] < shifts[-1]


def test_frames_in_another_order_are_another_motion() -> None:
    moving = clouds(0, 1).repeat(3, axis=0) + np.arange(3)[:, None, None]
    assert one_object(moving[::-1], moving).cd1_m.mean() > 0.3


def test_space_time_distance_is_at_most_the_one_per_frame_and_reaches_it() -> None:
    a, b = clouds(3), clouds(4)
    per_frame = one_object(a, b).cd1_m
    joint = [one_object(a, b, c_time_m=c).cd1_m for c in (0.0, 0.1, 1.0, 1e3)]
    for distance in joint:
        assert (distance <= per_frame + 1e-12).all()
    np.testing.assert_allclose(joint[-1], per_frame, rtol=1e-12)
    assert joint[0].mean() < joint[2].mean()


def test_an_object_without_points_is_as_bad_as_can_be() -> None:
    gt = clouds(0, 2)
    terms = one_object(np.zeros((2, 0, 3)), gt, tau_m=1.5)
    assert terms.missing.all() and (terms.cd1_m == 1.5).all() and (terms.num_pred == 0).all()


def test_points_that_are_not_finite_count_as_missing() -> None:
    """Half the points are perfect, half are NaN: acc is tau / 2, not 0."""
    gt = clouds(0, 1)
    pred = gt.copy()
    pred[:, ::2] = np.nan
    terms = one_object(pred, gt, tau_m=1.0)
    assert terms.acc_m.item() == 0.5 and terms.num_pred.item() == 20 and not terms.missing.item()


def test_nothing_to_compare_with_is_nan_and_not_zero() -> None:
    assert np.isnan(one_object(clouds(0, 1), np.zeros((1, 0, 3)), num_frames=1).cd1_m).all()


def test_true_points_must_be_finite() -> None:
    with pytest.raises(ValueError, match="gt must be finite"):
        one_object(clouds(), clouds() * np.nan)


def test_copies_of_a_good_point_do_not_hide_that_the_rest_is_missing() -> None:
    gt = clouds(0, 1, 64)
    honest = gt + 0.02
    copies = np.repeat(gt[:, :8], 8, axis=1)
    assert one_object(honest, gt, tau_m=1).cd1_m < one_object(copies, gt, tau_m=1).cd1_m


def test_outliers_cost_at_most_tau_each() -> None:
    gt = clouds(0, 1, 100)
    pred = gt.copy()
    pred[:, :5] += 1000
    terms = one_object(pred, gt, tau_m=1.0)
    assert terms.acc_m.item() == pytest.approx(0.05) and terms.comp_m.item() < 0.05


def test_the_reward_is_one_half_at_sigma_above_the_floor() -> None:
    weight = np.ones((1, 1))
    assert chamfer_reward(np.array([[0.25]]), weight, sigma_m=0.2, floor_m=0.05) == 0.5
    assert chamfer_reward(np.array([[0.04]]), weight, sigma_m=0.2, floor_m=0.05) == 1.0


def test_a_missing_object_costs_its_weight_and_not_its_points() -> None:
    """Objects weigh 3 and 1; the second is absent at tau = 0.9 = 9 sigma."""
    reward = chamfer_reward(np.array([[0.0, 0.9]]), np.array([[3.0, 1.0]]), sigma_m=0.1)
    assert reward == pytest.approx((3 + 0.1) / 4)


def test_a_reward_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="made up"):
        chamfer_reward(np.array([[np.nan]]), np.ones((1, 1)), sigma_m=0.1)
