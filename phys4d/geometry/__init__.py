"""Projection, rigid motion, warping and carrying of points; NumPy arrays and torch tensors alike."""

from phys4d.geometry.camera import (
    camera_from_world,
    pixel_centres,
    project,
    transform,
    unproject_depth,
    world_from_camera,
)
from phys4d.geometry.motion import carry_points, scene_flow, warp_depth
from phys4d.geometry.sampling import footprint_is_uniform, sample_bilinear

__all__ = [
    "camera_from_world",
    "carry_points",
    "footprint_is_uniform",
    "pixel_centres",
    "project",
    "sample_bilinear",
    "scene_flow",
    "transform",
    "unproject_depth",
    "warp_depth",
    "world_from_camera",
]
