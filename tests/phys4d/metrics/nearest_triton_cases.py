"""Cases for the Triton kernel, run by `test_nearest_triton.py` in a process of their own.

With TRITON_INTERPRET=1, which counts at import, on a CPU; without on the GPU.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from phys4d.metrics.chamfer import chamfer4d, largest_deviation
from phys4d.metrics.nearest import nn_d2
from phys4d.metrics.nearest_triton import Tile, nn_d2_triton

VECTORS = Path(__file__).parents[2] / "vectors" / "chamfer.json"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def points(seed: int, num_points: int, num_dims: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(num_points, num_dims))


@pytest.mark.parametrize("offset_m", [0.0, 100.0])
@pytest.mark.parametrize("num_dims", [3, 4])
def test_ragged_segments_agree_with_the_tree(num_dims: int, offset_m: float) -> None:
    """One point, one more than a tile, none in x, none in y; 1e-5 is float32 after centring."""
    x_sizes, y_sizes = (1, 65, 0, 30, 64), (70, 1, 20, 0, 130)
    x, y = (points(s, sum(n), num_dims) + offset_m for s, n in enumerate((x_sizes, y_sizes)))
    cuts = [np.append(0, np.cumsum(sizes)) for sizes in (x_sizes, y_sizes)]
    d2 = nn_d2(x, y, *cuts, backend="triton")
    assert (
        d2.dtype == np.float64
        and np.isinf(d2[66:96]).all()
        and np.isfinite(np.delete(d2, np.s_[66:96])).all()
    )
    np.testing.assert_allclose(d2, nn_d2(x, y, *cuts, backend="cpu"), rtol=1e-5, atol=1e-10)


def test_overlapping_ranges_agree_with_the_tree() -> None:
    x, y = points(0, 150, 4), points(1, 150, 4)
    ranges = np.array([[0, 100], [0, 150], [90, 150]])
    d2 = nn_d2(x, y, [0, 50, 100, 150], ranges, backend="triton")
    np.testing.assert_allclose(d2, nn_d2(x, y, [0, 50, 100, 150], ranges), rtol=1e-5, atol=1e-10)


def test_no_points_give_no_distances_and_no_neighbours_infinite_ones() -> None:
    none, some = np.zeros((0, 3)), points(0, 3)
    assert nn_d2(none, some, [0, 0], [0, 3], backend="triton").shape == (0,)
    assert nn_d2(some, none, [0, 3], [0, 0], backend="triton").tolist() == [math.inf] * 3


@pytest.mark.parametrize("tile", [Tile(block_p=16, block_q=32), Tile(block_p=32, block_q=16, num_warps=2)])
def test_the_tile_does_not_change_the_answer(tile: Tile) -> None:
    x, y = (torch.as_tensor(points(s, 70)).to(DEVICE) for s in (0, 1))
    x_offsets = torch.tensor([0, 40, 70], device=DEVICE)
    ranges = torch.tensor([[0, 50], [50, 70]], device=DEVICE)
    other = nn_d2_triton(x, y, x_offsets, ranges, tile=tile)
    assert torch.equal(other, nn_d2_triton(x, y, x_offsets, ranges))


def test_points_of_two_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="3 or 4 dimensions, got 2"):
        nn_d2(points(0, 4, 2), points(1, 4, 2), [0, 4], [0, 4], backend="triton")


@pytest.mark.parametrize("c_time_m", [None, 0.15])
def test_all_terms_agree_with_the_cpu(c_time_m: float | None) -> None:
    draws = np.random.default_rng(0)
    x, y = torch.as_tensor(points(2, 300)).to(DEVICE), torch.as_tensor(points(3, 280)).to(DEVICE)
    x[::9] = math.nan
    ids = {
        f"{side}_{name}_id": torch.as_tensor(draws.integers(0, count, num)).to(DEVICE)
        for side, num in (("pred", 300), ("gt", 280))
        for name, count in (("sample", 2), ("frame", 4), ("object", 2))
    }
    options = {"shape": (2, 4, 2), "tau_m": 0.9, "c_time_m": c_time_m, "band_frames": c_time_m and 2}
    ours = chamfer4d(x, y, **ids, **options, backend="triton")
    expected = chamfer4d(x, y, **ids, **options, backend="cpu")
    for name in ("acc_m", "comp_m", "cd1_m", "cd2_sum_m2", "num_pred", "missing"):
        np.testing.assert_allclose(getattr(ours, name), getattr(expected, name), rtol=1e-5)


def test_recorded_values_of_pytorch3d_are_met(tmp_path: Path) -> None:
    assert largest_deviation(VECTORS, "triton") < 1e-5
    wrong = json.loads(VECTORS.read_text())
    wrong["a"]["acc"] *= 1.0001
    (tmp_path / "wrong.json").write_text(json.dumps(wrong))
    assert largest_deviation(tmp_path / "wrong.json", "triton") > 1e-5
