"""Meshes against areas and volumes known by hand."""

import numpy as np

from phys4d.scenes import meshes


def test_a_block_is_filled_once_and_its_surface_closed() -> None:
    """2 x 4 x 6: volume 48, surface 88."""
    points, tetrahedra = meshes.block((1, 2, 3), (3, 4, 5))
    faces = meshes.surface(points, tetrahedra)
    assert np.isclose(meshes.volumes(points, tetrahedra).sum(), 48)
    assert meshes.volumes(points, tetrahedra).min() > 0
    assert np.isclose(meshes.areas(points, faces).sum(), 88)
    assert np.isclose(meshes.enclosed_volume(points, faces), 48)


def test_a_rounded_block_is_an_ellipsoid() -> None:
    points, tetrahedra = meshes.block((1, 2, 3), (9, 9, 9))
    round_points = meshes.rounded(points, (1, 2, 3))
    faces = meshes.surface(points, tetrahedra)
    outer = round_points[np.unique(faces)] / (1, 2, 3)
    assert np.allclose(np.linalg.norm(outer, axis=1), 1)
    assert meshes.volumes(round_points, tetrahedra).min() > 0
    # The faces of the polyhedron lie inside the ellipsoid.
    assert 0.93 < meshes.enclosed_volume(round_points, faces) / (8 * np.pi) < 1


def test_an_icosphere_looks_outward_and_is_nearly_a_sphere() -> None:
    points, triangles = meshes.icosphere(3)
    assert len(triangles) == 20 * 4**3
    assert len(points) == len(triangles) // 2 + 2
    outward = np.einsum("ti,ti->t", meshes.area_vectors(points, triangles), points[triangles].mean(axis=1))
    assert outward.min() > 0
    assert np.isclose(meshes.enclosed_volume(points, triangles), 4 / 3 * np.pi, rtol=0.01)


def test_a_tube_has_the_area_of_its_prism_and_looks_outward() -> None:
    points, triangles = meshes.tube([0.5, 0.5], [0.0, 2.0], 12)
    assert np.isclose(meshes.areas(points, triangles).sum(), 12 * 2 * np.sin(np.pi / 12) * 0.5 * 2.0)
    normal = meshes.area_vectors(points, triangles)
    assert (np.einsum("ti,ti->t", normal[:, :2], points[triangles].mean(axis=1)[:, :2]) > 0).all()


def test_lumping_keeps_the_total() -> None:
    points, triangles = meshes.sheet((2, 1), (5, 4))
    areas = meshes.areas(points, triangles)
    assert np.isclose(areas.sum(), 2)
    assert np.isclose(meshes.lumped(areas, triangles, len(points)).sum(), 2)
