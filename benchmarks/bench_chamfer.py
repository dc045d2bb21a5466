"""Nearest neighbours of the 4D Chamfer distance."""

import importlib.metadata

import numpy as np

from benchmarks.registry import Work, compare


@compare(
    "nearest points, 9 frames x 3 objects x 192",
    peer=f"torch.cdist {importlib.metadata.version('torch')}, float64",
)
def segmented_nearest_neighbours() -> tuple[Work, Work]:
    """The cloud sizes of a tiny rollout with three objects."""
    import torch

    from phys4d.metrics.chamfer import nn_d2

    draws = np.random.default_rng(0)
    x, y = draws.normal(size=(2, 27 * 192, 3))
    offsets = np.arange(28) * 192
    x_torch, y_torch = (torch.from_numpy(points.reshape(27, 192, 3)) for points in (x, y))

    def ours() -> object:
        return nn_d2(x, y, offsets, offsets)

    def theirs() -> object:
        return torch.cdist(x_torch, y_torch).amin(-1).square().flatten().numpy()

    return ours, theirs
