import importlib.util
import math
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from phys4d.metrics.nearest import MAX_PAIRS, choose_backend, nn_d2

IN_ITS_OWN_PROCESS = """
import resource
import numpy as np
from phys4d.metrics.nearest import nn_d2

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

x, y = np.random.default_rng(0).normal(size=(2, 120_000, 3))
nn_d2(x[:2000], y[:2000], [0, 2000], [0, 2000])
before = peak()
nn_d2(x[:40_000], y[:40_000], [0, 40_000], [0, 40_000])
middle = peak()
nn_d2(x, y, [0, 120_000], [0, 120_000])
print((middle - before) / 40_000, (peak() - middle) / 80_000)
"""


def all_pairs(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.square(x[:, None] - y[None]).sum(-1).min(1, initial=math.inf)


def test_the_nearest_point_of_an_empty_segment_is_infinitely_far() -> None:
    x = np.array([[0.0, 0, 0], [1, 0, 0]])
    d2 = nn_d2(x, np.array([[0.0, 0, 2]]), np.array([0, 1, 2]), np.array([0, 1, 1]))
    assert d2.tolist() == [4.0, math.inf]


@pytest.mark.parametrize("num_dims", [3, 4])
@pytest.mark.parametrize("sizes", [((20, 30), (25, 35)), ((300, 1, 0, 500), (400, 3, 5, 0))])
def test_segments_do_not_see_each_other(sizes: tuple[tuple[int, ...], ...], num_dims: int) -> None:
    """Small segments take all pairs and large ones a tree; 300 x 400 is more than MAX_PAIRS."""
    assert 300 * 400 > MAX_PAIRS > 20 * 25
    draws = np.random.default_rng(1)
    x, y = (draws.normal(size=(sum(n), num_dims)) + 100 for n in sizes)
    cut_x, cut_y = (np.append(0, np.cumsum(n)) for n in sizes)
    expected = [
        all_pairs(x[a:b], y[c:d])
        for a, b, c, d in zip(cut_x[:-1], cut_x[1:], cut_y[:-1], cut_y[1:], strict=True)
    ]
    np.testing.assert_allclose(nn_d2(x, y, cut_x, cut_y), np.concatenate(expected), rtol=1e-9)


@pytest.mark.parametrize("size", [10, 300])
def test_segments_may_look_at_overlapping_points(size: int) -> None:
    draws = np.random.default_rng(2)
    x, y = draws.normal(size=(3 * size, 3)), draws.normal(size=(3 * size, 3))
    ranges = np.array([[0, 2 * size], [0, 2 * size], [size, 3 * size]])
    expected = np.concatenate([all_pairs(x[: 2 * size], y[: 2 * size]), all_pairs(x[2 * size :], y[size:])])
    np.testing.assert_allclose(nn_d2(x, y, size * np.arange(4), ranges), expected, rtol=1e-12)


def test_a_tensor_is_answered_with_a_tensor() -> None:
    import torch

    x, y = np.random.default_rng(3).normal(size=(2, 20, 3))
    d2 = nn_d2(torch.from_numpy(x), torch.from_numpy(y), torch.tensor([0, 20]), torch.tensor([0, 20]))
    assert isinstance(d2, torch.Tensor) and d2.dtype == torch.float64
    np.testing.assert_allclose(d2.numpy(), all_pairs(x, y), rtol=1e-12)


def test_memory_grows_with_the_points_and_not_with_their_pairs() -> None:
    """Under 600 bytes for a pair of points, also from 40 to 120 thousand: all pairs would be 960 thousand."""
    done = subprocess.run(
        [sys.executable, "-c", IN_ITS_OWN_PROCESS], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    first, second = (float(word) for word in done.stdout.split())
    assert first < 600 and second < 600


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backend": "cuda"}, "backend must be one of auto, cpu, triton, pytorch3d, got 'cuda'"),
        ({"x": np.full((4, 3), np.nan)}, "x must be finite; leave out points that are missing"),
        ({"y": np.ones((4, 2))}, r"points must be .* with D above 0, got \(4, 3\) and \(4, 2\)"),
        ({"x": np.ones((4, 0)), "y": np.ones((4, 0))}, r"D above 0, got \(4, 0\) and \(4, 0\)"),
        ({"x_offsets": []}, r"x_offsets must be integers .*, got float64 of shape \(0,\)"),
        (
            {"y_offsets": [0.0, 4.0]},
            r"y_offsets .*, or \(S, 2\) of them, got float64 of shape \(2,\)",
        ),
        ({"x_offsets": np.array([[0, 4]])}, r"x_offsets must be integers .* got int64 of shape \(1, 2\)"),
        ({"x_offsets": np.array([0, 3])}, "offsets must end at 4 and 4, got 3 and 4"),
        ({"x_offsets": np.array([0, 2, 4])}, "x has 2 segments, y has 1"),
        ({"y_offsets": np.array([[0, 9]])}, r"ranges of y must lie in \[0, 4\], got 0 to 9"),
        ({"x_offsets": np.array([0, 5, 4]), "y_offsets": np.array([0, 4, 4])}, "never fall"),
    ],
)
def test_input_that_makes_no_sense_is_refused(change: dict, message: str) -> None:
    good = {
        "x": np.ones((4, 3)),
        "y": np.ones((4, 3)),
        "x_offsets": np.array([0, 4]),
        "y_offsets": np.array([0, 4]),
    }
    assert nn_d2(**good).tolist() == [0] * 4
    with pytest.raises(ValueError, match=message):
        nn_d2(**good | change)


def test_a_gpu_backend_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    import torch

    if torch.cuda.is_available():  # CUDA was started before this test
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="backend 'triton' needs"):
        nn_d2(np.ones((4, 3)), np.ones((4, 3)), [0, 4], [0, 4], backend="triton")


@pytest.mark.parametrize("installed", [True, False])
def test_tensors_on_a_gpu_take_triton_where_it_is_installed(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    assert choose_backend("auto", SimpleNamespace(is_cuda=True)) == ("triton" if installed else "cpu")
    assert choose_backend("auto", SimpleNamespace(is_cuda=False)) == "cpu"


def test_pytorch3d_agrees_where_it_is_installed_and_is_asked_for_where_not() -> None:
    x, y = np.random.default_rng(4).normal(size=(2, 50, 3)) + 100
    cuts = [0, 20, 50], [0, 50, 50]
    if importlib.util.find_spec("pytorch3d") is None:
        with pytest.raises(ValueError, match="no wheel for Linux; build it: pip install"):
            nn_d2(x, y, *cuts, backend="pytorch3d")
    else:
        theirs = nn_d2(x, y, *cuts, backend="pytorch3d")
        np.testing.assert_allclose(theirs, nn_d2(x, y, *cuts, backend="cpu"), rtol=1e-4)


def test_the_cpu_path_loads_neither_torch_nor_triton() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys, numpy as np; from phys4d.metrics.nearest import nn_d2;"
            "nn_d2(np.ones((4, 3)), np.ones((4, 3)), [0, 4], [0, 4]);"
            "import phys4d.metrics.chamfer, phys4d.metrics.chamfer_reward, phys4d.metrics.resample;"
            "print({'torch', 'triton', 'pytorch3d'} & set(sys.modules))",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == "set()", done.stderr
