"""Nearest neighbours within segments of point clouds, on a CPU or a GPU.

backend     where it runs
auto        triton for CUDA tensors where Triton is installed, cpu for all else
cpu         float64; SciPy's k-d tree, and all pairs where a segment is small
triton      float32 differences on an NVIDIA GPU (`nearest_triton`)
pytorch3d   knn_points of an installed pytorch3d, to compare with
"""

import importlib.util
import itertools
import os
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist

from phys4d.geometry.arrays import host, namespace

Backend = Literal["auto", "cpu", "triton", "pytorch3d"]
BACKENDS = ("auto", "cpu", "triton", "pytorch3d")
MAX_PAIRS = 2**16
"""All pairs of a segment up to here take less time than to build a tree (`make bench`), and 512 KiB."""


def nn_d2(
    x: Float[Any, "P D"],
    y: Float[Any, "Q D"],
    x_offsets: Int[Any, " S+1"],
    y_offsets: Int[Any, " S+1"] | Int[Any, "S 2"],
    *,
    backend: Backend = "auto",
) -> Float[Any, " P"]:
    """Squared distance from each point of x to the nearest point of y in the same segment.

    The difference form |x - y|^2 keeps its precision far from the origin. Memory grows linearly with P + Q.

    Args:
        x, y: finite points, NumPy arrays or torch tensors.
        x_offsets: segment s holds x[x_offsets[s]:x_offsets[s+1]].
        y_offsets: likewise; or the first and the end of each segment's points of y, which may overlap.
        backend: see the module.

    Returns:
        float64 of the library and device of x. Where a segment of y is empty the distance is +inf.
    """
    library, last_y = namespace(x), len(y)
    host_x_offsets, ranges = _bounds("x_offsets", x_offsets), _bounds("y_offsets", y_offsets, or_pairs=True)
    if ranges.ndim == 1:
        last_y = ranges[-1]
        ranges = np.stack([ranges[:-1], ranges[1:]], -1)
    _check(x, y, host_x_offsets, ranges, last_y)
    chosen = choose_backend(backend, x)
    if chosen == "cpu":
        d2 = _nn_d2_cpu(
            np.asarray(host(x), np.float64), np.asarray(host(y), np.float64), host_x_offsets, ranges
        )
        return d2 if library is np else library.from_numpy(d2).to(x.device)

    import torch

    device = x.device if library is torch else None
    if device is None or (chosen == "triton" and device.type == "cpu"):
        device = "cuda" if chosen == "triton" and torch.cuda.is_available() else "cpu"
    arguments = [
        torch.as_tensor(value).to(device)
        for value in (x, y, host_x_offsets.astype(np.int64), ranges.astype(np.int64))
    ]
    if chosen == "triton":
        from phys4d.metrics.nearest_triton import nn_d2_triton

        found = nn_d2_triton(*arguments).double()
    else:
        found = _nn_d2_pytorch3d(*arguments).double()
    return found.cpu().numpy() if library is np else found.to(x.device)


def choose_backend(backend: str, points: Any) -> str:
    """The backend that `backend` means for these points; refuses one that cannot run here."""
    if backend not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "auto":
        has_triton = importlib.util.find_spec("triton") is not None
        return "triton" if has_triton and getattr(points, "is_cuda", False) else "cpu"
    if backend == "pytorch3d" and importlib.util.find_spec("pytorch3d") is None:
        raise ValueError(
            "backend 'pytorch3d' needs pytorch3d, which has no wheel for Linux; build it: pip install "
            "--no-build-isolation git+https://github.com/facebookresearch/pytorch3d, or take backend='cpu'"
        )
    if backend == "triton":
        if importlib.util.find_spec("triton") is None:
            raise ValueError("backend 'triton' needs Triton; run: pip install 'phys4d[gpu]'")
        import torch

        if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError("backend 'triton' needs an NVIDIA GPU, and there is none; take backend='cpu'")
    return backend


def _bounds(name: str, offsets: Any, *, or_pairs: bool = False) -> np.ndarray:
    """Offsets as an array of integers, one more than segments, or a pair for each."""
    array = host(offsets)
    of_pairs = or_pairs and array.ndim == 2 and array.shape[1] == 2
    if array.dtype.kind not in "iu" or not (of_pairs or (array.ndim == 1 and len(array))):
        rule = "integers from 0 to the number of points" + (", or (S, 2) of them" if or_pairs else "")
        raise ValueError(f"{name} must be {rule}, got {array.dtype} of shape {array.shape}")
    return array


def _check(x: Any, y: Any, x_offsets: np.ndarray, ranges: np.ndarray, last_y: int) -> None:
    library = namespace(x)
    if namespace(y) is not library:
        raise ValueError(f"x and y must be of one library, got {type(x).__name__} and {type(y).__name__}")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not x.shape[1]:
        raise ValueError(
            f"points must be (P, D) and (Q, D) with D above 0, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    if len(ranges) != len(x_offsets) - 1:
        raise ValueError(f"x has {len(x_offsets) - 1} segments, y has {len(ranges)}")
    if x_offsets[-1] != len(x) or last_y != len(y):
        raise ValueError(f"offsets must end at {len(x)} and {len(y)}, got {x_offsets[-1]} and {last_y}")
    if x_offsets[0] != 0 or (np.diff(x_offsets) < 0).any() or (ranges[:, 1] < ranges[:, 0]).any():
        raise ValueError("offsets must start at 0 and never fall")
    if len(ranges) and (ranges.min() < 0 or ranges.max() > len(y)):
        raise ValueError(f"ranges of y must lie in [0, {len(y)}], got {ranges.min()} to {ranges.max()}")
    for name, points in (("x", x), ("y", y)):
        if not bool(library.isfinite(points).all()):
            raise ValueError(f"{name} must be finite; leave out points that are missing")


def _nn_d2_cpu(
    x: Float64[np.ndarray, "P D"],
    y: Float64[np.ndarray, "Q D"],
    x_offsets: Int[np.ndarray, " S+1"],
    ranges: Int[np.ndarray, "S 2"],
) -> Float64[np.ndarray, " P"]:
    """One tree, or one table of pairs, for each run of segments that look at the same points of y."""
    d2 = np.full(len(x), np.inf)
    table = np.empty(MAX_PAIRS)
    new = np.ones(len(ranges), bool)
    new[1:] = (ranges[1:] != ranges[:-1]).any(1)
    bounds = x_offsets[np.append(np.flatnonzero(new), len(ranges))].tolist()
    for rows, (first, end) in zip(itertools.pairwise(bounds), ranges[new].tolist(), strict=True):
        own, others = x[slice(*rows)], y[first:end]
        num_pairs = len(own) * len(others)
        if num_pairs == 0:
            continue
        if num_pairs <= MAX_PAIRS:
            pairs = table[:num_pairs].reshape(len(own), len(others))
            d2[slice(*rows)] = cdist(own, others, "sqeuclidean", out=pairs).min(1)
        else:
            nearest = cKDTree(others, balanced_tree=False, compact_nodes=False).query(own)[1]
            d2[slice(*rows)] = np.square(own - others[nearest]).sum(-1)
    return d2


def _nn_d2_pytorch3d(x: Any, y: Any, x_offsets: Any, ranges: Any) -> Any:
    """Segment by segment. Its answer for an empty cloud, 0, is not ours."""
    import torch
    from pytorch3d.ops import knn_points  # pyright: ignore[reportMissingImports]

    d2 = torch.full((len(x),), float("inf"), device=x.device)
    if len(y) == 0:
        return d2
    centre = y.double().mean(0)
    x, y = ((points.double() - centre).float() for points in (x, y))
    bounds = x_offsets.tolist()
    for s, (first, end) in enumerate(ranges.tolist()):
        own = slice(bounds[s], bounds[s + 1])
        if own.stop > own.start and end > first:
            d2[own] = knn_points(x[None, own], y[None, first:end], K=1).dists[0, :, 0]
    return d2
