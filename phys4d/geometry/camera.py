"""Pinhole projection and rigid transforms. Frames and units: see `phys4d.types`."""

from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from phys4d.geometry.arrays import like, namespace


class Intrinsics(Protocol):
    """The part of a camera that projection needs, in pixels."""

    @property
    def fx(self) -> float: ...
    @property
    def fy(self) -> float: ...
    @property
    def cx(self) -> float: ...
    @property
    def cy(self) -> float: ...


class PosedCamera(Intrinsics, Protocol):
    """With `camera_from_world`, a rigid 4x4 transform."""

    @property
    def camera_from_world(self) -> np.ndarray: ...


def pixel_centres(height: int, width: int) -> Float[np.ndarray, "height width 2"]:
    """(u, v) of every pixel's centre: (column + 0.5, row + 0.5)."""
    v, u = np.mgrid[0:height, 0:width] + 0.5
    return np.stack([u, v], axis=-1)


def unproject_depth(
    depth: Float[Any, "*batch height width"], camera: Intrinsics
) -> Float[Any, "*batch height width 3"]:
    """Lift depth maps to points in the camera frame.

    Args:
        depth: distance along the optical axis (z-depth, not ray length), in metres.
            NaN marks a pixel without a surface and yields a NaN point.
        camera: intrinsics at the resolution of `depth`.

    Source: Hartley and Zisserman, Multiple View Geometry, 2nd ed., section 6.1.
    """
    _check(camera)
    uv = like(pixel_centres(*depth.shape[-2:]), depth)
    return unproject(uv, depth, camera)


def unproject(
    uv: Float[Any, "*#batch 2"], depth: Float[Any, "*#batch"], camera: Intrinsics
) -> Float[Any, "*batch 3"]:
    """Lift image positions (pixels) with z-depths (metres) to points in the camera frame."""
    x = (uv[..., 0] - camera.cx) / camera.fx * depth
    y = (uv[..., 1] - camera.cy) / camera.fy * depth
    return namespace(depth).stack([x, y, depth + 0 * x], -1)


def project(points: Float[Any, "*batch 3"], camera: Intrinsics) -> Float[Any, "*batch 3"]:
    """Project points in the camera frame to (u px, v px, z m); u and v are NaN unless z > 0."""
    _check(camera)
    xp = namespace(points)
    z = points[..., 2]
    safe = xp.where(z > 0, z, like(float("nan"), points))
    u = camera.fx * points[..., 0] / safe + camera.cx
    v = camera.fy * points[..., 1] / safe + camera.cy
    return xp.stack([u, v, z], -1)


def transform(points: Float[Any, "*batch 3"], pose: Float[Any, "4 4"]) -> Float[Any, "*batch 3"]:
    """Apply a rigid transform b_from_a to points in frame a."""
    matrix = like(pose, points)
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def camera_from_world(points: Float[Any, "*batch 3"], camera: PosedCamera) -> Float[Any, "*batch 3"]:
    """World points in the camera frame."""
    return transform(points, camera.camera_from_world)


def world_from_camera(points: Float[Any, "*batch 3"], camera: PosedCamera) -> Float[Any, "*batch 3"]:
    """Points of the camera frame in the world; the exact inverse of a rigid transform."""
    pose = camera.camera_from_world
    inverse = np.eye(4)
    inverse[:3, :3], inverse[:3, 3] = pose[:3, :3].T, -pose[:3, :3].T @ pose[:3, 3]
    return transform(points, inverse)


def _check(camera: Intrinsics) -> None:
    if camera.fx <= 0 or camera.fy <= 0:
        raise ValueError(f"focal lengths must be positive pixels, got fx={camera.fx}, fy={camera.fy}")
