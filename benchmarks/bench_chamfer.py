"""Nearest neighbours of the 4D Chamfer distance on a CPU, in the sizes of a tiny and of a large rollout.

pytorch3d has no wheel for Linux. Where it is installed it is the peer; where not, its algorithm is: every
pair of points, |x - y|^2, the smallest. That peer is written in torch and named so; its time is not
pytorch3d's.
"""

import importlib.metadata
import importlib.util
import itertools

import numpy as np

from benchmarks.registry import Work, compare

HAS_PYTORCH3D = importlib.util.find_spec("pytorch3d") is not None
TORCH = f"torch {importlib.metadata.version('torch')}"
SCIPY = f"scipy {importlib.metadata.version('scipy')}"
PYTORCH3D = (
    f"pytorch3d {importlib.metadata.version('pytorch3d')} knn_points, float32"
    if HAS_PYTORCH3D
    else f"all pairs as in pytorch3d, {TORCH}, float32 (pytorch3d is not installed)"
)


def clouds(num_segments: int, num_points: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of both sides and their offsets."""
    x, y = np.random.default_rng(0).normal(size=(2, num_segments * num_points, 3))
    return x, y, num_points * np.arange(num_segments + 1)


def against_scipy(num_segments: int, num_points: int) -> tuple[Work, Work]:
    """cKDTree with its own defaults, called on each segment."""
    from scipy.spatial import cKDTree

    from phys4d.metrics.nearest import nn_d2

    x, y, offsets = clouds(num_segments, num_points)
    parts = [slice(a, b) for a, b in itertools.pairwise(offsets)]

    def theirs() -> object:
        return np.concatenate([cKDTree(y[part]).query(x[part])[0] ** 2 for part in parts])

    return lambda: nn_d2(x, y, offsets, offsets, backend="cpu"), theirs


def against_cdist(num_segments: int, num_points: int) -> tuple[Work, Work]:
    """torch.cdist over a batch, without its matrix product, which is wrong far from the origin."""
    import torch

    from phys4d.metrics.nearest import nn_d2

    x, y, offsets = clouds(num_segments, num_points)
    batches = [torch.from_numpy(points.reshape(num_segments, num_points, 3)) for points in (x, y)]

    def theirs() -> object:
        distances = torch.cdist(*batches, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.amin(-1).square().flatten().numpy()

    return lambda: nn_d2(x, y, offsets, offsets, backend="cpu"), theirs


def against_pytorch3d(num_points: int) -> tuple[Work, Work]:
    """Both directions of one frame."""
    import torch

    from phys4d.metrics.nearest import nn_d2

    x, y, offsets = clouds(1, num_points)
    x_torch, y_torch = (torch.from_numpy(points).float() for points in (x, y))

    def ours() -> object:
        forth = nn_d2(x, y, offsets, offsets, backend="cpu")
        return np.concatenate([forth, nn_d2(y, x, offsets, offsets, backend="cpu")])

    if HAS_PYTORCH3D:
        from pytorch3d.ops import knn_points

        def nearest(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return knn_points(a[None], b[None], K=1).dists[0, :, 0]
    else:

        def nearest(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            nearest_d2 = []
            for part in a.split(64):
                d2 = torch.zeros(len(part), len(b))
                for axis in range(3):
                    d2 += (part[:, axis, None] - b[None, :, axis]).square_()
                nearest_d2.append(d2.amin(1))
            return torch.cat(nearest_d2)

    def theirs() -> object:
        return torch.cat([nearest(x_torch, y_torch), nearest(y_torch, x_torch)]).numpy()

    return ours, theirs


@compare("nearest points, 9 frames x 3 objects x 192", peer=f"{SCIPY} cKDTree, float64")
def small_clouds_against_scipy() -> tuple[Work, Work]:
    """The cloud sizes of a tiny rollout with three objects."""
    return against_scipy(27, 192)


@compare("nearest points, 9 frames x 3 objects x 192", peer=f"{TORCH} cdist, float64")
def small_clouds_against_cdist() -> tuple[Work, Work]:
    """The same."""
    return against_cdist(27, 192)


@compare("nearest points, 2 frames x 4096", peer=f"{SCIPY} cKDTree, float64")
def large_clouds_against_scipy() -> tuple[Work, Work]:
    """The cloud sizes of a full rollout."""
    return against_scipy(2, 4096)


@compare("nearest points, 2 frames x 4096", peer=f"{TORCH} cdist, float64")
def large_clouds_against_cdist() -> tuple[Work, Work]:
    """The same."""
    return against_cdist(2, 4096)


@compare("chamfer both ways, 4096 points", peer=PYTORCH3D, rtol=1e-3)
def large_clouds_against_pytorch3d() -> tuple[Work, Work]:
    """float32 against float64: 1e-3 for the smallest squared distances."""
    return against_pytorch3d(4096)
