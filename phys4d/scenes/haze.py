"""Smoke in pictures: a field absorbs the light behind it and adds its own colour (Beer and Lambert)."""

import numpy as np
from jaxtyping import Float64, UInt8
from scipy.ndimage import map_coordinates

from phys4d.scenes.rays import pixel_rays
from phys4d.scenes.trajectory import Field
from phys4d.types import Camera

NUM_SAMPLES = 64
"""Places along each ray at which the field is read."""


def add_haze(
    rgb: UInt8[np.ndarray, "frames height width 3"],
    depth: Float64[np.ndarray, "frames height width"],
    field: Field,
    camera: Camera,
    light: float,
) -> UInt8[np.ndarray, "frames height width 3"]:
    """Draw a field as smoke over a video.

    Args:
        depth: z-depth of what is behind the smoke; NaN is nothing.
        light: brightness in [0, 1] of smoke in its own colour.
    """
    assert field.smoke_rgb is not None
    transparency = np.exp(-optical_depth(depth, field, camera))[..., None]
    colour = 255.0 * light * np.asarray(field.smoke_rgb)
    return np.round(rgb * transparency + colour * (1 - transparency)).clip(0, 255).astype(np.uint8)


def optical_depth(
    depth: Float64[np.ndarray, "frames height width"], field: Field, camera: Camera
) -> Float64[np.ndarray, "frames height width"]:
    """Absorption times value, integrated along each pixel's ray up to the depth; outside is nothing."""
    rotation, translation = camera.camera_from_world[:3, :3], camera.camera_from_world[:3, 3]
    rays = pixel_rays(camera).reshape(-1, 3)
    directions, origin = rays @ rotation, -rotation.T @ translation
    shape = field.values.shape[1:]
    low = np.asarray(field.origin_m)
    high = low + field.spacing_m * np.asarray(shape)
    with np.errstate(divide="ignore"):
        ends = np.stack([(low - origin) / directions, (high - origin) / directions])
    enter = np.maximum(ends.min(axis=0).max(axis=-1), 0.0)
    leave = ends.max(axis=0).min(axis=-1)
    total = np.zeros(depth.shape)
    share = (np.arange(NUM_SAMPLES) + 0.5) / NUM_SAMPLES
    for frame, values in enumerate(field.values):
        behind = np.nan_to_num(depth[frame].ravel(), nan=np.inf)
        until = np.minimum(leave, behind)
        through = np.flatnonzero(until > enter)
        span = (until - enter)[through]
        t = enter[through, None] + span[:, None] * share
        place = (origin + directions[through, None] * t[..., None] - low) / field.spacing_m - 0.5
        read = map_coordinates(values, place.reshape(-1, 3).T, order=1, mode="nearest")
        length = span * np.linalg.norm(directions[through], axis=1)
        total[frame].ravel()[through] = read.reshape(t.shape).mean(axis=1) * length * field.absorption_per_m
    return total
