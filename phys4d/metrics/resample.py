"""Thin point clouds to equal numbers: the Chamfer distance of a sample depends on how many points it has."""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Int64

KEY_BITS = 60
"""A voxel's place is one integer of so many bits: in 3 dimensions edges down to a millionth of the cloud."""


def farthest_points(points: Float[np.ndarray, "N D"], num_points: int) -> Int64[np.ndarray, " num_points"]:
    """Indices of points, each the farthest from those before it; the first is the farthest from the centroid.

    N * num_points distances and memory for N of them. In whichever order points come, the same are chosen.

    Source: Eldar et al., The farthest point strategy for progressive image sampling, 1997.
    """
    points, order = _drawn(points, num_points)
    chosen = np.empty(num_points, np.int64)
    d2 = np.square(points - points.mean(0)).sum(-1)
    chosen[0] = d2.argmax()
    d2[:] = np.inf
    for i in range(1, num_points):
        d2 = np.minimum(d2, np.square(points - points[chosen[i - 1]]).sum(-1))
        chosen[i] = d2.argmax()
    return order[chosen]


def voxel_points(points: Float[np.ndarray, "N D"], num_points: int) -> Int64[np.ndarray, " num_points"]:
    """Indices of a point in each voxel of the largest edge that leaves enough of them.

    The edge is found by halving an interval, until at most a sixteenth of the voxels is too many; these are
    left out evenly in their order in space. N log N per trial and memory for N; where fewer distinct places
    than `num_points` exist, repeats fill up. In whichever order points come, the same are chosen; one at a
    fixed place in its voxel would not do, since two clouds thinned alike would come to lie on one grid.
    """
    points, order = _drawn(points, num_points)
    shifted = points - points.min(0)
    too_large, edge_m = float(shifted.max()) * 2 or 1.0, 0.0
    kept = np.arange(len(points))
    for _ in range(KEY_BITS // points.shape[1]):
        middle = (too_large + edge_m) / 2
        voxel = np.floor(shifted / middle).astype(np.int64)
        key = np.ravel_multi_index(tuple(voxel.T), tuple(voxel.max(0) + 1))
        first = np.unique(key, return_index=True)[1]
        if len(first) >= num_points:
            edge_m, kept = middle, first
            if len(first) <= num_points + num_points // 16:
                break
        else:
            too_large = middle
    return order[kept[np.linspace(0, len(kept) - 1, num_points).round().astype(np.int64)]]


Method = Literal["voxel", "farthest"]
METHODS = {"voxel": voxel_points, "farthest": farthest_points}


def equal_counts(
    points: Float[np.ndarray, "P D"],
    cell: Int[np.ndarray, " P"],
    num_points: int,
    *,
    method: Method = "voxel",
) -> Int64[np.ndarray, " K"]:
    """Indices that leave each cell (an object at a frame, say) `num_points` points, or all if it has fewer.

    Points must be finite: count missing ones before, for they are left out of the draw.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if len(cell) != len(points):
        raise ValueError(f"cell must label all {len(points)} points, got {len(cell)} labels")
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(np.asarray(cell)[order], prepend=np.nan))
    kept = []
    for own in np.split(order, starts[1:]):
        kept.append(own if len(own) <= num_points else own[METHODS[method](points[own], num_points)])
    return np.sort(np.concatenate(kept)).astype(np.int64)


def _drawn(
    points: Float[np.ndarray, "N D"], num_points: int
) -> tuple[Float[np.ndarray, "N D"], Int64[np.ndarray, " N"]]:
    """Points in an order that theirs has no part in, drawn from that of their coordinates; where each was."""
    points = np.asarray(points, np.float64)
    if not 1 <= num_points <= len(points):
        raise ValueError(f"num_points must be in [1, {len(points)}], the points there are, got {num_points}")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite; leave out those that are missing")
    order = np.lexsort(points.T)[np.random.default_rng(0).permutation(len(points))]
    return points[order], order
