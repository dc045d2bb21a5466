import math
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phys4d.metrics.chamfer import ChamferTerms, chamfer4d, largest_deviation, main
from phys4d.runtime.errors import UserError

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


def test_a_band_as_wide_as_the_video_is_no_band() -> None:
    a, b = clouds(3, 6), clouds(4, 6)
    joint = one_object(a, b, c_time_m=0.1).cd1_m
    np.testing.assert_allclose(one_object(a, b, c_time_m=0.1, band_frames=5).cd1_m, joint, rtol=1e-12)


def test_a_band_of_no_frames_is_the_distance_per_frame() -> None:
    a, b = clouds(3), clouds(4)
    banded = one_object(a, b, c_time_m=0.1, band_frames=0).cd1_m
    np.testing.assert_allclose(banded, one_object(a, b).cd1_m, rtol=1e-12)


def test_a_wider_band_never_lengthens_a_distance() -> None:
    a, b = clouds(3, 8), clouds(4, 8)
    widths = [one_object(a, b, c_time_m=0.05, band_frames=w).cd1_m for w in range(8)]
    assert all((wide <= narrow + 1e-12).all() for narrow, wide in pairwise(widths))
    assert widths[2].mean() < widths[0].mean()


@given(st.integers(0, 10_000), st.sampled_from([0.06, 0.1, 0.25]))
@settings(max_examples=10, deadline=None)
def test_delays_that_cost_tau_are_left_out_without_a_trace(seed: int, c_time_m: float) -> None:
    """The band that truncation allows gives the values of all frames, computed here by all pairs."""
    tau_m, a, b = 0.3, clouds(seed, 7, 12), clouds(seed + 1, 7, 12)
    frame = np.repeat(np.arange(7), 12)
    four = [np.column_stack([points.reshape(-1, 3), c_time_m * frame]) for points in (a, b)]
    d = np.minimum(np.linalg.norm(four[0][:, None] - four[1][None], axis=-1), tau_m)
    expected = (d.min(1).reshape(7, 12).mean(1) + d.min(0).reshape(7, 12).mean(1)) / 2
    terms = one_object(a, b, c_time_m=c_time_m, tau_m=tau_m)
    np.testing.assert_allclose(terms.cd1_m[0, :, 0], expected, rtol=1e-12)


def test_a_delayed_ball_pays_the_price_of_its_delay_and_no_more() -> None:
    """A ball at 1 m per frame, one frame late: 1 m frame by frame; 0.1 m where a frame costs 0.1 m."""
    ball = np.arange(6.0)[:, None, None] * np.array([1.0, 0, 0])
    late = np.concatenate([ball[:1], ball[:-1]])
    assert one_object(late, ball).acc_m[0, 1:, 0].tolist() == pytest.approx([1.0] * 5)
    assert one_object(late, ball, c_time_m=0.1).acc_m[0, 1:, 0].tolist() == pytest.approx([0.1] * 5)


def test_a_band_without_a_price_of_time_is_refused() -> None:
    with pytest.raises(
        ValueError, match="band_frames must be an integer from 0 and needs c_time_m, got 1, None"
    ):
        one_object(clouds(), clouds(), band_frames=1)


@pytest.mark.parametrize("tensors", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred_frame_id": np.arange(4) // 2}, r"pred_frame_id must be in \[0, 1\), got 0 to 1"),
        ({"gt_object_id": np.full(4, 0.7)}, r"gt_object_id must be int of shape \(4,\), got float64 \(4,\)"),
        ({"pred_frame_id": np.zeros(1, int)}, r"pred_frame_id must be int of shape \(4,\), got int64 \(1,\)"),
        ({"pred_valid": np.ones(1, bool)}, r"pred_valid must be bool of shape \(4,\), got bool \(1,\)"),
        ({"pred_valid": np.ones(4, int)}, r"pred_valid must be bool of shape \(4,\), got int64 \(4,\)"),
        ({"pred": np.ones(3)}, r"pred must have shape \(points, 3\), got \(3,\)"),
        ({"gt": np.ones((4, 4))}, r"gt must have shape \(points, 3\), got \(4, 4\)"),
        ({"shape": (1, -1, 1)}, r"shape must be numbers of samples, .*, got \(1, -1, 1\)"),
        ({"band_frames": 1.5, "c_time_m": 0.1}, "band_frames must be an integer from 0 .*, got 1.5, 0.1"),
        ({"num_points": 2.5}, "num_points must be an integer above 0, got 2.5"),
        ({"num_points": 0}, "num_points must be an integer above 0, got 0"),
        ({"resample": "x"}, "resample must be one of voxel, farthest, got 'x'"),
    ],
)
def test_points_and_labels_that_do_not_fit_are_refused(change: dict, message: str, tensors: bool) -> None:
    given = {"pred": np.ones((4, 3)), "gt": np.ones((4, 3)), "shape": (1, 1, 1)}
    given |= {
        f"{side}_{name}_id": np.zeros(4, int) for side in ("pred", "gt") for name in ("frame", "object")
    }
    given |= change
    if tensors:
        import torch

        given = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in given.items()}
    with pytest.raises(ValueError, match=message):
        chamfer4d(**given)


def labelled(seed: int, shape: tuple[int, int, int], num_points: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Points with sample, frame and object labels in no order."""
    draws = np.random.default_rng(seed)
    return draws.normal(size=(num_points, 3)), [draws.integers(0, n, num_points) for n in shape]


@pytest.mark.parametrize("c_time_m", [None, 0.2])
def test_samples_and_objects_are_worlds_of_their_own(c_time_m: float | None) -> None:
    """Each sample and object alone gives the numbers that all of them give together."""
    shape = (2, 3, 2)
    (x, x_ids), (y, y_ids) = labelled(0, shape, 200), labelled(1, shape, 150)
    names = ("sample_id", "frame_id", "object_id")
    together = chamfer4d(
        x,
        y,
        shape=shape,
        tau_m=1.0,
        c_time_m=c_time_m,
        **{f"pred_{n}": i for n, i in zip(names, x_ids, strict=True)},
        **{f"gt_{n}": i for n, i in zip(names, y_ids, strict=True)},
    )
    for b in range(2):
        for o in range(2):
            mine = [(ids[0] == b) & (ids[2] == o) for ids in (x_ids, y_ids)]
            alone = chamfer4d(
                x[mine[0]],
                y[mine[1]],
                pred_frame_id=x_ids[1][mine[0]],
                gt_frame_id=y_ids[1][mine[1]],
                pred_object_id=x_ids[2][mine[0]] * 0,
                gt_object_id=y_ids[2][mine[1]] * 0,
                shape=(1, 3, 1),
                tau_m=1.0,
                c_time_m=c_time_m,
            )
            np.testing.assert_allclose(together.cd1_m[b, :, o], alone.cd1_m[0, :, 0], rtol=1e-12)
            assert (together.num_pred[b, :, o] == alone.num_pred[0, :, 0]).all()


@pytest.mark.parametrize("c_time_m", [None, 0.2])
def test_tensors_give_the_terms_of_arrays(c_time_m: float | None) -> None:
    import torch

    shape = (2, 3, 2)
    (x, x_ids), (y, y_ids) = labelled(0, shape, 200), labelled(1, shape, 150)
    x[::7] = np.nan
    y_ids[2][(y_ids[0] == 0) & (y_ids[1] == 1)] = 0
    names = ("sample_id", "frame_id", "object_id")

    def terms(convert) -> ChamferTerms:
        return chamfer4d(
            convert(x),
            convert(y),
            shape=shape,
            tau_m=1.0,
            fscore_m=0.3,
            c_time_m=c_time_m,
            pred_valid=convert(np.arange(200) % 5 > 0),
            **{f"pred_{n}": convert(i) for n, i in zip(names, x_ids, strict=True)},
            **{f"gt_{n}": convert(i) for n, i in zip(names, y_ids, strict=True)},
        )

    arrays, tensors = terms(np.asarray), terms(torch.as_tensor)
    assert np.isnan(arrays.cd1_m).sum() == 1
    for name in ("acc_m", "comp_m", "cd2_sum_m2", "fscore", "num_pred", "num_gt", "missing"):
        np.testing.assert_allclose(getattr(tensors, name), getattr(arrays, name), rtol=1e-12)


def test_the_f_score_of_a_half_right_cloud_by_hand() -> None:
    """Of 4 generated points 3 are near (1 is far), of 2 true points both: 2 * 3/4 * 1 / (3/4 + 1) = 6/7."""
    gt = np.array([[[0.0, 0, 0], [1, 0, 0]]])
    pred = np.array([[[0.0, 0, 0.01], [0, 0, 0.02], [1, 0, 0.01], [5, 0, 0]]])
    assert one_object(pred, gt, fscore_m=0.05).fscore.item() == pytest.approx(6 / 7)
    pred[0, 0] = np.nan
    assert one_object(pred, gt, tau_m=1, fscore_m=0.05).fscore.item() == pytest.approx(2 / 3)
    assert one_object(pred * np.nan, gt, tau_m=1, fscore_m=0.05).fscore.item() == 0.0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"acc"', '"ack"', "case 'a' lacks acc"),
        ('"kx": 1.0', '"kx": "1.0"', "case 'a': kx must be a number in -1000000 to 1000000, got '1.0'"),
        ('"kx": 1.0', '"kx": 1e308', "case 'a': kx must be a number in -1000000 to 1000000, got 1e+308"),
        (
            '"offset": 0.0',
            '"offset": NaN',
            "case 'a': offset must be a number in -1000000 to 1000000, got nan",
        ),
        ('"cd2_sum": 0', f'"cd2_sum": {"9" * 400}', "case 'a': cd2_sum must be a number in -1000000 to"),
        ('"N": 100', '"N": 0', "case 'a': N must be an integer in 1 to 1000000, got 0"),
        (
            '"N": 100',
            '"N": 1000000000000',
            "case 'a': N must be an integer in 1 to 1000000, got 1000000000000",
        ),
        ("", '{"a": 3}', "case 'a' must be an object, got 3; text is in about or note"),
        ("{", "", "is no JSON: "),
        ("", "[]", "must hold cases by name, got list"),
        ("", "{}", "holds no case"),
    ],
)
def test_a_file_of_recorded_values_that_is_none_is_refused_by_file_and_case(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    bad = tmp_path / "bad.json"
    bad.write_text(VECTORS.read_text().replace(old, new, 1) if old else new)
    with pytest.raises(UserError, match=f"bad.json.*{re.escape(message)}"):
        largest_deviation(bad)


@pytest.mark.parametrize("method", ["voxel", "farthest"])
def test_clouds_of_equal_numbers_can_be_compared_with_each_other(method: str) -> None:
    """Two draws of a square are closer the more points they have: 4 times at 16 times as many. Thinned to one
    number they are alike, but for farthest points of a dense draw, which come to lie in the same places."""
    draws = np.random.default_rng(0)

    def distance(drawn: int, **options) -> float:
        square = np.concatenate([draws.uniform(0, 2, (2, 1, drawn, 2)), np.zeros((2, 1, drawn, 1))], -1)
        return one_object(*square, **options).cd1_m.item()

    many, few = distance(4096), distance(256)
    assert few > 3 * many
    many, few = (distance(n, num_points=128, resample=method) for n in (4096, 256))
    assert 0.7 < few / many < (1.4 if method == "voxel" else 2.1)


@pytest.mark.parametrize("tensors", [False, True])
def test_thinned_clouds_still_count_what_is_missing(tensors: bool) -> None:
    """40 of 100 points are missing: thinned or not, acc is 0.4 tau on coinciding clouds; comp sees all gt."""
    gt = np.random.default_rng(0).normal(size=(1, 100, 3))
    pred, ids = gt[0].copy(), np.zeros(100, int)
    pred[::5] = pred[1::5] = np.nan
    points = [pred, gt[0]]
    if tensors:
        import torch

        points = [torch.from_numpy(p) for p in points]
    labels = {f"{side}_{name}_id": ids for side in ("pred", "gt") for name in ("frame", "object")}
    terms = chamfer4d(*points, **labels, shape=(1, 1, 1), tau_m=1.0, num_points=20)
    assert terms.num_pred.item() == 60 and terms.num_gt.item() == 100
    assert 0.4 <= terms.acc_m.item() < 0.4 + 0.6 * 0.7
    whole = chamfer4d(*points, **labels, shape=(1, 1, 1), tau_m=1.0, num_points=100)
    assert whole.acc_m.item() == pytest.approx(0.4)
    copies = gt[:, :1].repeat(100, axis=1)
    assert one_object(copies, gt, tau_m=1.0, num_points=20).comp_m.item() > 0.7
