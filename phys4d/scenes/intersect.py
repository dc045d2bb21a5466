"""First hits of rays from one point with triangles and spheres, exact in float64.

All rays start at the camera, so the search structure is two-dimensional: primitives are sorted into the tiles
of the image plane z = 1 that they may cover, and a ray meets those of its own tile only.
"""

import math

import numpy as np
from jaxtyping import Float64, Int64

from phys4d.scenes.solvers.jit import compiled

NUM_TILES = 64
NEAR_M = 1e-3
EDGE_TOLERANCE = 1e-10
"""Barycentrics may be this far below 0, so that no ray slips through between two triangles."""


def first_hits(
    rays: Float64[np.ndarray, "rays 3"],
    vertices: Float64[np.ndarray, "vertices 3"],
    faces: Int64[np.ndarray, "faces 3"],
    centres: Float64[np.ndarray, "spheres 3"],
    radii: Float64[np.ndarray, " spheres"],
) -> tuple[Float64[np.ndarray, " rays"], Int64[np.ndarray, " rays"], Float64[np.ndarray, "rays 2"]]:
    """Intersect rays from the origin with everything in front of them.

    Args:
        rays: directions in the camera frame, of any length; those with z <= 0 hit nothing.
        vertices, centres: in the camera frame, metres. Triangles are seen from both sides.

    Returns:
        Distance in units of the ray's length, infinity where there is none; the face hit, or the number of
        faces plus the sphere hit, or -1; and the weights of the face's second and third vertex.
    """
    rays = np.ascontiguousarray(rays, np.float64)
    z = np.where(rays[:, 2] > 0, rays[:, 2], np.nan)
    plane = np.ascontiguousarray(rays[:, :2] / z[:, None])
    distance = np.full(len(rays), np.inf)
    primitive = np.full(len(rays), -1, np.int64)
    weights = np.zeros((len(rays), 2))
    if len(faces) + len(radii) and np.isfinite(z).any():
        low, high = np.nanmin(plane, axis=0), np.nanmax(plane, axis=0)
        size = np.maximum((high - low) * (1 + 1e-12), 1e-9) / NUM_TILES
        boxes = _image_boxes(
            np.ascontiguousarray(vertices, np.float64),
            np.ascontiguousarray(faces, np.int64),
            np.ascontiguousarray(centres, np.float64),
            np.ascontiguousarray(radii, np.float64),
        )
        tiles = np.clip((boxes.reshape(-1, 2, 2) - low) / size, -1, NUM_TILES + 1)
        tiles = np.floor(tiles).astype(np.int64).reshape(-1, 4)
        start, members = _sort_into_tiles(tiles)
        _cast(
            plane,
            low,
            size,
            start,
            members,
            np.ascontiguousarray(vertices, np.float64),
            np.ascontiguousarray(faces, np.int64),
            np.ascontiguousarray(centres, np.float64),
            np.ascontiguousarray(radii, np.float64),
            distance,
            primitive,
            weights,
        )
    return distance / z, primitive, weights


@compiled
def _image_boxes(vertices, faces, centres, radii):  # pragma: no cover - compiled
    """Bounds (x low, y low, x high, y high) on the plane z = 1; infinite for what reaches the camera."""
    num_faces = len(faces)
    boxes = np.empty((num_faces + len(radii), 4))
    for f in range(num_faces):
        boxes[f, :2], boxes[f, 2:] = np.inf, -np.inf
        for corner in range(3):
            x, y, z = vertices[faces[f, corner]]
            if z <= NEAR_M:
                boxes[f, :2], boxes[f, 2:] = -np.inf, np.inf
                break
            boxes[f, 0], boxes[f, 2] = min(boxes[f, 0], x / z), max(boxes[f, 2], x / z)
            boxes[f, 1], boxes[f, 3] = min(boxes[f, 1], y / z), max(boxes[f, 3], y / z)
    for s in range(len(radii)):
        z, r = centres[s, 2], radii[s]
        for axis in range(2):
            # Tangents from the origin to the circle that the sphere is in this plane.
            x = centres[s, axis]
            if z <= r + NEAR_M:
                low, high = (np.inf, -np.inf) if z < -r else (-np.inf, np.inf)
            else:
                root = r * math.sqrt(max(x * x + z * z - r * r, 0.0))
                low, high = (x * z - root) / (z * z - r * r), (x * z + root) / (z * z - r * r)
            boxes[num_faces + s, axis], boxes[num_faces + s, 2 + axis] = low, high
    return boxes


@compiled
def _sort_into_tiles(tiles):  # pragma: no cover - compiled
    """Members of tile k are `members[start[k] : start[k + 1]]`, in ascending order."""
    start = np.zeros(NUM_TILES * NUM_TILES + 1, np.int64)
    members, place = np.empty(0, np.int64), start
    for fill in range(2):
        if fill:
            for k in range(NUM_TILES * NUM_TILES):
                start[k + 1] += start[k]
            members, place = np.empty(start[-1], np.int64), start.copy()
        for p in range(len(tiles)):
            for row in range(max(tiles[p, 1], 0), min(tiles[p, 3], NUM_TILES - 1) + 1):
                for column in range(max(tiles[p, 0], 0), min(tiles[p, 2], NUM_TILES - 1) + 1):
                    k = row * NUM_TILES + column
                    if fill:
                        members[place[k]] = p
                        place[k] += 1
                    else:
                        start[k + 1] += 1
    return start, members


@compiled
def _cast(
    plane, low, size, start, members, vertices, faces, centres, radii, distance, primitive, weights
):  # pragma: no cover - compiled
    num_faces = len(faces)
    for i in range(len(plane)):
        dx, dy = plane[i]
        if not (math.isfinite(dx) and math.isfinite(dy)):
            continue
        column = min(int((dx - low[0]) / size[0]), NUM_TILES - 1)
        row = min(int((dy - low[1]) / size[1]), NUM_TILES - 1)
        tile = row * NUM_TILES + column
        for m in range(start[tile], start[tile + 1]):
            p = members[m]
            if p < num_faces:
                t, b, c = _triangle(
                    dx, dy, vertices[faces[p, 0]], vertices[faces[p, 1]], vertices[faces[p, 2]]
                )
            else:
                t, b, c = _sphere(dx, dy, centres[p - num_faces], radii[p - num_faces]), 0.0, 0.0
            if 0 < t < distance[i]:
                distance[i], primitive[i] = t, p
                weights[i, 0], weights[i, 1] = b, c


@compiled
def _triangle(dx, dy, a, b, c):  # pragma: no cover - compiled
    """z of the hit of the ray (dx, dy, 1) and the weights of b and c; -1 if there is none.

    Source: Moeller and Trumbore, Journal of Graphics Tools 2 (1997).
    """
    e1x, e1y, e1z = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    e2x, e2y, e2z = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    px, py, pz = dy * e2z - e2y, e2x - dx * e2z, dx * e2y - dy * e2x
    det = e1x * px + e1y * py + e1z * pz
    if det == 0.0:
        return -1.0, 0.0, 0.0
    u = -(a[0] * px + a[1] * py + a[2] * pz) / det
    qx, qy, qz = -(a[1] * e1z - a[2] * e1y), -(a[2] * e1x - a[0] * e1z), -(a[0] * e1y - a[1] * e1x)
    v = (dx * qx + dy * qy + qz) / det
    if u < -EDGE_TOLERANCE or v < -EDGE_TOLERANCE or u + v > 1 + EDGE_TOLERANCE:
        return -1.0, 0.0, 0.0
    return (e2x * qx + e2y * qy + e2z * qz) / det, u, v


@compiled
def _sphere(dx, dy, centre, radius):  # pragma: no cover - compiled
    """z of the nearer hit of the ray (dx, dy, 1), or -1."""
    length2 = dx * dx + dy * dy + 1
    b = dx * centre[0] + dy * centre[1] + centre[2]
    square = b * b - length2 * (centre[0] ** 2 + centre[1] ** 2 + centre[2] ** 2 - radius * radius)
    if square < 0:
        return -1.0
    return (b - math.sqrt(square)) / length2
