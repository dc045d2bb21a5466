import tracemalloc

import numpy as np
import pytest

from phys4d.metrics.resample import equal_counts, farthest_points, voxel_points

METHODS = [farthest_points, voxel_points]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_points", [1, 7, 100, 400])
def test_as_many_points_as_asked_for_are_left_and_none_twice(method, num_points: int) -> None:
    points = np.random.default_rng(0).normal(size=(400, 3))
    kept = method(points, num_points)
    assert len(kept) == len(set(kept.tolist())) == num_points


def test_the_farthest_points_of_a_line_are_its_ends_and_its_middle() -> None:
    line = np.column_stack([np.arange(9.0), np.zeros(9), np.zeros(9)])
    line[8, 0] += 0.5
    assert farthest_points(line, 3).tolist() == [8, 0, 4]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("places", [400, 20])
def test_the_order_of_points_does_not_change_which_are_kept(method, places: int) -> None:
    """Also where points are equally far from one another, or coincide: then the same places are kept."""
    grid = np.random.default_rng(4).integers(0, 12, (places, 3)).repeat(400 // places, 0) / 4
    shuffled = grid[np.random.default_rng(5).permutation(400)]
    kept, after = (points[method(points, 30)] for points in (grid, shuffled))
    np.testing.assert_array_equal(kept, after)


@pytest.mark.parametrize("method", METHODS)
def test_dense_places_lose_more_points_than_sparse_ones(method) -> None:
    """1000 points within 1 cm and 100 spread over a metre: thinned to 100, the crowd keeps few."""
    draws = np.random.default_rng(1)
    points = np.concatenate([draws.uniform(0, 0.01, (1000, 3)), draws.uniform(0, 1, (100, 3))])
    assert (method(points, 100) < 1000).sum() < 15


@pytest.mark.parametrize("method", METHODS)
def test_points_that_all_coincide_can_still_be_thinned(method) -> None:
    assert len(method(np.ones((10, 3)), 4)) == 4


@pytest.mark.parametrize("method", METHODS)
def test_more_points_than_there_are_cannot_be_had(method) -> None:
    with pytest.raises(ValueError, match=r"num_points must be in \[1, 5\], the points there are, got 6"):
        method(np.ones((5, 3)), 6)
    with pytest.raises(ValueError, match="points must be finite"):
        method(np.full((5, 3), np.nan), 2)


@pytest.mark.parametrize("method", ["voxel", "farthest"])
def test_each_cell_keeps_its_number_or_all_it_has(method) -> None:
    cell = np.random.default_rng(2).permutation(np.repeat([0, 3, 5], [50, 8, 200]))
    points = np.random.default_rng(3).normal(size=(258, 3))
    kept = equal_counts(points, cell, 20, method=method)
    assert np.bincount(cell[kept]).tolist() == [20, 0, 0, 8, 0, 20]
    assert (np.diff(kept) > 0).all()


def test_no_points_stay_no_points() -> None:
    assert equal_counts(np.zeros((0, 3)), np.zeros(0, int), 4).shape == (0,)


@pytest.mark.parametrize("method", METHODS)
def test_memory_grows_with_the_points_and_not_with_their_pairs(method) -> None:
    peaks = []
    for num_points in (4000, 16000):
        points = np.random.default_rng(0).normal(size=(num_points, 3))
        tracemalloc.start()
        method(points, 50)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 5 * peaks[0] and peaks[1] < 16000 * 400
