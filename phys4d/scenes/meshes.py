"""Vertices and elements of sheets, tubes, shells and blocks, and what can be measured on them.

Triangles of closed surfaces are counter-clockwise seen from outside; those of sheets face +z. Lengths in
metres.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

Points = Float64[np.ndarray, "points 3"]
Triangles = Int64[np.ndarray, "triangles 3"]
Tetrahedra = Int64[np.ndarray, "tetrahedra 4"]


def line(
    start_m: Sequence[float] | np.ndarray, end_m: Sequence[float] | np.ndarray, num_points: int
) -> Points:
    """Points at equal distances from start to end, both included."""
    return np.linspace(np.asarray(start_m, np.float64), np.asarray(end_m, np.float64), num_points)


def sheet(size_m: Sequence[float], counts: Sequence[int]) -> tuple[Points, Triangles]:
    """A flat rectangle about the origin in the plane z = 0.

    Diagonals alternate like a union jack, so that the sheet has no preferred direction of shear.

    Args:
        size_m: length along x and y.
        counts: points along x and y; point (i, j) has the index i * counts[1] + j.
    """
    nx, ny = counts
    x, y = np.linspace(-0.5, 0.5, nx) * size_m[0], np.linspace(-0.5, 0.5, ny) * size_m[1]
    points = np.stack([*np.meshgrid(x, y, indexing="ij"), np.zeros((nx, ny))], axis=-1).reshape(-1, 3)
    return points, _quads(np.arange(nx * ny).reshape(nx, ny))


def tube(radii_m: Sequence[float], heights_m: Sequence[float], num_around: int) -> tuple[Points, Triangles]:
    """An open tube about the z axis: one ring of points per radius and height, heights ascending."""
    angle = 2 * np.pi * np.arange(num_around) / num_around
    rings = [
        np.stack([r * np.cos(angle), r * np.sin(angle), np.full(num_around, z)], axis=-1)
        for r, z in zip(radii_m, heights_m, strict=True)
    ]
    index = np.arange(len(rings) * num_around).reshape(len(rings), num_around)
    return np.concatenate(rings), _quads(np.concatenate([index, index[:, :1]], axis=1).T)


def icosphere(subdivisions: int) -> tuple[Points, Triangles]:
    """A unit sphere of 20 * 4^subdivisions nearly equal triangles."""
    golden = (1 + 5**0.5) / 2
    corners = [(0.0, a, b * golden) for a in (-1, 1) for b in (-1, 1)]
    points = np.array([np.roll(corner, shift) for shift in range(3) for corner in corners])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    side = min(np.linalg.norm(points[0] - p) for p in points[1:])
    triangles = np.array(
        [
            t
            for t in itertools.combinations(range(12), 3)
            if all(
                np.linalg.norm(points[i] - points[j]) < 1.01 * side for i, j in itertools.combinations(t, 2)
            )
        ]
    )
    flipped = np.linalg.det(points[triangles]) < 0
    triangles[flipped] = triangles[flipped][:, ::-1]
    for _ in range(subdivisions):
        pairs, inverse = np.unique(np.sort(_edges(triangles), axis=1), axis=0, return_inverse=True)
        middle = points[pairs].mean(axis=1)
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        ab, bc, ca = len(points) + inverse.reshape(3, -1)
        a, b, c = triangles.T
        triangles = np.concatenate(
            [np.stack(t, axis=1) for t in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))]
        )
        points = np.concatenate([points, middle])
    return points, triangles


def block(half_m: Sequence[float], counts: Sequence[int]) -> tuple[Points, Tetrahedra]:
    """A cuboid about the origin, each of its cells cut into five tetrahedra, in mirrored pairs.

    Args:
        counts: points along each axis; point (i, j, k) has the index (i * counts[1] + j) * counts[2] + k.
    """
    axes = [np.linspace(-h, h, n) for h, n in zip(half_m, counts, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    index = np.arange(len(points)).reshape(tuple(counts))
    corner: dict[tuple[int, ...], np.ndarray] = {
        c: _part(index, c).ravel() for c in itertools.product((0, 1), repeat=3)
    }
    odd = np.indices([n - 1 for n in counts]).sum(axis=0).ravel() % 2 == 1
    # The four corners of one tetrahedron inscribed in a cube; each other one cuts off a remaining corner.
    even_set = [(0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
    tetrahedra: list[np.ndarray] = []
    for mask, inner in ((~odd, even_set), (odd, [tuple(1 - v for v in c) for c in even_set])):
        cells = [inner]
        for outer in itertools.product((0, 1), repeat=3):
            if outer not in inner:
                near = [c for c in inner if sum(abs(p - q) for p, q in zip(c, outer, strict=True)) == 1]
                cells.append([outer, *near])
        tetrahedra += [np.stack([corner[c][mask] for c in cell], axis=1) for cell in cells]
    return points, _positive(points, np.concatenate(tetrahedra))


def rounded(points: Points, half_m: Sequence[float]) -> Points:
    """The points of a block moved so that its surface becomes that of an ellipsoid."""
    unit = points / np.asarray(half_m)
    length = np.linalg.norm(unit, axis=1)
    factor = np.abs(unit).max(axis=1) / np.where(length > 0, length, 1.0)
    return points * factor[:, None]


def pillowed(points: Points, half_m: Sequence[float]) -> Points:
    """The points of a block moved so that it gets thin towards its four upright sides, like a cushion."""
    x, y = (points[:, k] / half_m[k] for k in (0, 1))
    thickness = 0.3 + 0.7 * np.sqrt((1 - x**4) * (1 - y**4))
    return points * np.stack([np.ones_like(x), np.ones_like(x), thickness], axis=1)


def surface(points: Points, tetrahedra: Tetrahedra) -> Triangles:
    """Outer triangles of a tetrahedral mesh, counter-clockwise from outside."""
    faces = np.concatenate([tetrahedra[:, f] for f in ((1, 2, 3), (0, 3, 2), (0, 1, 3), (0, 2, 1))])
    _, first, count = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    assert (volumes(points, tetrahedra) > 0).all(), "tetrahedra must be positively oriented"
    return faces[np.sort(first[count == 1])]


def areas(points: Points, triangles: Triangles) -> Float64[np.ndarray, " triangles"]:
    """Area of each triangle."""
    return np.linalg.norm(area_vectors(points, triangles), axis=1)


def area_vectors(points: Points, triangles: Triangles) -> Float64[np.ndarray, "triangles 3"]:
    """Area times unit normal of each triangle."""
    a, b, c = (points[triangles[:, k]] for k in range(3))
    return 0.5 * np.cross(b - a, c - a)


def enclosed_volume(points: Points, triangles: Triangles) -> float:
    """Volume inside a closed surface; negative if it is turned inside out."""
    a, b, c = (points[triangles[:, k]] for k in range(3))
    return float(np.einsum("ti,ti->", a, np.cross(b, c)) / 6)


def volumes(points: Points, tetrahedra: Tetrahedra) -> Float64[np.ndarray, " tetrahedra"]:
    """Signed volume of each tetrahedron."""
    a, b, c, d = (points[tetrahedra[:, k]] for k in range(4))
    return np.einsum("ti,ti->t", np.cross(b - a, c - a), d - a) / 6


def edges(elements: Int64[np.ndarray, "elements corners"]) -> Int64[np.ndarray, "edges 2"]:
    """The distinct pairs of points that share an element."""
    pairs = itertools.combinations(range(elements.shape[1]), 2)
    return np.unique(np.sort(np.concatenate([elements[:, p] for p in pairs]), axis=1), axis=0)


def lumped(
    measure: Float64[np.ndarray, " elements"],
    elements: Int64[np.ndarray, "elements corners"],
    num_points: int,
) -> Float64[np.ndarray, " points"]:
    """Each element's length, area or volume, shared equally among its corners."""
    share = np.repeat(measure / elements.shape[1], elements.shape[1])
    return np.bincount(elements.ravel(), weights=share, minlength=num_points)


def _edges(triangles: Triangles) -> Int64[np.ndarray, "edges 2"]:
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])


def _part(index: np.ndarray, corner: Sequence[int]) -> np.ndarray:
    return index[tuple(slice(c, n - 1 + c) for c, n in zip(corner, index.shape, strict=True))]


def _positive(points: Points, tetrahedra: Tetrahedra) -> Tetrahedra:
    wrong = volumes(points, tetrahedra) < 0
    tetrahedra[wrong] = tetrahedra[wrong][:, [0, 1, 3, 2]]
    return tetrahedra


def _quads(index: Int64[np.ndarray, "rows columns"]) -> Triangles:
    """Two triangles per quadrilateral of a grid of point indices, diagonals alternating."""
    a, b, c, d = (_part(index, corner).ravel() for corner in ((0, 0), (1, 0), (1, 1), (0, 1)))
    odd = np.indices([n - 1 for n in index.shape]).sum(axis=0).ravel() % 2 == 1
    first = np.where(odd[:, None], np.stack([a, b, d], axis=1), np.stack([a, b, c], axis=1))
    second = np.where(odd[:, None], np.stack([b, c, d], axis=1), np.stack([a, c, d], axis=1))
    return np.concatenate([first, second])


def tube_around(points: np.ndarray, radius_m: float, sides: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Surface of a rope: rings about its points, without twist, closed at both ends.

    Args:
        points: (frames, points, 3).
    """
    frames, count, _ = points.shape
    tangent = np.gradient(points, axis=1)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=2, keepdims=True), 1e-12)
    across = np.empty_like(points)
    # Start across the first frame's first tangent and carry that direction along time, then along the rope.
    seed = np.eye(3)[np.argmin(np.abs(tangent[0, 0]))]
    for frame in range(frames):
        direction = seed if frame == 0 else across[frame - 1, 0]
        for k in range(count):
            direction = direction - (direction @ tangent[frame, k]) * tangent[frame, k]
            length = np.linalg.norm(direction)
            if length < 1e-6:
                direction = np.cross(tangent[frame, k], np.eye(3)[np.argmin(np.abs(tangent[frame, k]))])
                length = np.linalg.norm(direction)
            direction = direction / length
            across[frame, k] = direction
    other = np.cross(tangent, across)
    angle = 2 * np.pi * np.arange(sides) / sides
    rings = points[:, :, None] + radius_m * (
        np.cos(angle)[:, None] * across[:, :, None] + np.sin(angle)[:, None] * other[:, :, None]
    )
    vertices = np.concatenate([rings.reshape(frames, -1, 3), points[:, [0, -1]]], axis=1)
    index = np.arange(count * sides).reshape(count, sides)
    a, b = index, np.roll(index, -1, axis=1)
    walls = np.concatenate(
        [
            np.stack([a[:-1], b[:-1], b[1:]], axis=-1).reshape(-1, 3),
            np.stack([a[:-1], b[1:], a[1:]], axis=-1).reshape(-1, 3),
        ]
    )
    ends = [(0, count * sides), (-1, count * sides + 1)]
    caps = [np.stack([a[e], b[e], np.full(sides, tip)], axis=-1) for e, tip in ends]
    return vertices, np.concatenate([walls, *caps])
