"""First hits with triangles and spheres against every ray tried with every primitive."""

import numpy as np

from phys4d.scenes.intersect import first_hits

NONE = (np.zeros((0, 3)), np.zeros((0, 3), np.int64))
NO_BALLS = (np.zeros((0, 3)), np.zeros(0))


def _grid(size: int = 40) -> np.ndarray:
    u = (np.arange(size) + 0.5) / size - 0.5
    x, y = np.meshgrid(u, u)
    return np.stack([x, y, np.ones_like(x)], -1).reshape(-1, 3)


def test_hits_are_those_of_trying_everything() -> None:
    draws = np.random.default_rng(0)
    vertices, centres = draws.uniform(-1, 1, (2, 60, 3)) + np.array([0, 0, 4])
    faces, radii = draws.permutation(60).reshape(20, 3), draws.uniform(0.02, 0.2, 60)
    rays = _grid()
    best, nearest = np.full(len(rays), np.inf), np.full(len(rays), -1)
    for number, (a, b, c) in enumerate(vertices[faces]):
        # Solve t d = a + u (b - a) + v (c - a) for each ray d.
        columns = np.stack([rays, np.tile(a - b, (len(rays), 1)), np.tile(a - c, (len(rays), 1))], -1)
        t, u, v = np.linalg.solve(columns, np.tile(a, (len(rays), 1))[..., None])[..., 0].T
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (t < best)
        best[hit], nearest[hit] = t[hit], number
    for number, (centre, radius) in enumerate(zip(centres, radii, strict=True)):
        along, square = rays @ centre, (rays**2).sum(1)
        inside = along**2 - square * (centre @ centre - radius**2)
        t = (along - np.sqrt(np.maximum(inside, 0))) / square
        hit = (inside >= 0) & (t > 0) & (t < best)
        best[hit], nearest[hit] = t[hit], 20 + number
    distance, primitive, _ = first_hits(rays, vertices, faces, centres, radii)
    assert np.array_equal(primitive, nearest)
    assert np.allclose(distance[nearest >= 0], best[nearest >= 0], rtol=1e-12)
    assert np.isinf(distance[nearest < 0]).all()
    assert (nearest >= 20).any() and ((nearest >= 0) & (nearest < 20)).any()


def test_weights_give_back_the_point() -> None:
    vertices = np.array([[-1.0, -1.0, 3.0], [2.0, -1.0, 5.0], [-1.0, 2.0, 4.0]])
    rays = _grid()
    distance, primitive, weights = first_hits(rays, vertices, np.array([[0, 1, 2]]), *NO_BALLS)
    hit = primitive == 0
    full = np.column_stack([1 - weights.sum(1), weights])[hit]
    assert hit.any()
    assert np.allclose(full @ vertices, rays[hit] * distance[hit, None])


def test_no_ray_slips_between_two_triangles() -> None:
    """A square of two triangles, rays through its diagonal among them."""
    vertices = np.array([[-1.0, -1.0, 2.0], [1.0, -1.0, 2.0], [1.0, 1.0, 2.0], [-1.0, 1.0, 2.0]])
    _, primitive, _ = first_hits(_grid(41), vertices, np.array([[0, 1, 2], [0, 2, 3]]), *NO_BALLS)
    assert (primitive >= 0).all()


def test_length_of_the_ray_is_the_unit_and_what_is_behind_is_not_hit() -> None:
    centres, radii = np.array([[0.0, 0.0, 4.0], [0.0, 0.0, -4.0]]), np.array([1.0, 1.0])
    rays = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0], [0.0, 0.0, -1.0]])
    distance, primitive, _ = first_hits(rays, *NONE, centres, radii)
    assert distance[:2].tolist() == [3.0, 1.5]
    assert primitive.tolist() == [0, 0, -1]
    assert not np.isfinite(distance[2])


def test_a_triangle_that_reaches_behind_the_camera_is_hit_in_front() -> None:
    """The floor 1 m below: z = 1 / y for rays that look down."""
    floor = np.array([[-50.0, 1.0, -50.0], [50.0, 1.0, -50.0], [0.0, 1.0, 100.0]])
    rays = _grid()
    distance, primitive, _ = first_hits(rays, floor, np.array([[0, 1, 2]]), *NO_BALLS)
    down = rays[:, 1] > 0.05
    assert (primitive[down] == 0).all() and (primitive[rays[:, 1] < 0] == -1).all()
    assert np.allclose(distance[down], 1 / rays[down, 1])


def test_nothing_to_hit_is_nothing_hit() -> None:
    assert (first_hits(_grid(), *NONE, *NO_BALLS)[1] == -1).all()
