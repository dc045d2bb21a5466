"""Following generated motion: (du px, dv px, dz m) at frame t carries a point to frame t + 1."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float

from phys4d.geometry.arrays import like, namespace, whole
from phys4d.geometry.camera import Intrinsics, pixel_centres, unproject
from phys4d.geometry.sampling import bilinear_footprint, sample_bilinear, take_pixels

GATE_M = 0.15
"""Pixels whose depth differs more from a point's show another surface that moves otherwise."""
LEAST_WEIGHT = 1e-3


def scene_flow(
    depth: Float[Any, "*batch height width"],
    motion: Float[Any, "*batch height width 3"],
    camera: Intrinsics,
) -> Float[Any, "*batch height width 3"]:
    """3D displacement in metres, camera frame, of the point seen at each pixel.

    The point goes from (u, v, depth) to (u + du, v + dv, depth + dz).
    """
    uv = like(pixel_centres(*depth.shape[-2:]), depth)
    before = unproject(uv, depth, camera)
    return unproject(uv + motion[..., :2], depth + motion[..., 2], camera) - before


def warp_depth(
    depth_next: Float[Any, "*batch height width"], motion: Float[Any, "*batch height width 3"]
) -> tuple[Float[Any, "*batch height width"], Bool[Any, "*batch height width"]]:
    """Depth at t + 1 where each pixel of frame t went, pulled back to frame t, and where that is sound.

    For a point visible in both frames it equals depth(t) + dz.
    """
    height, width = depth_next.shape[-2:]
    uv = like(pixel_centres(height, width), motion) + motion[..., :2]
    flat = uv.reshape((*uv.shape[:-3], height * width, 2))
    values, sound = sample_bilinear(depth_next[..., None], flat)
    return values[..., 0].reshape(depth_next.shape), sound.reshape(depth_next.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class Carried:
    """Points of frame 0 at every frame; NumPy or torch, as what they were carried by."""

    uv: Float[Any, "frames points 2"]
    """Pixels."""
    lifted_m: Float[Any, "frames points"]
    """z-depth read off the depth map at the point."""
    carried_m: Float[Any, "frames points"]
    """z-depth of frame 0 plus the motion's dz."""
    present: Bool[Any, "frames points"]
    """False from the frame on at which a point left the image, came to the camera or met no finite value."""


def carry_points(
    uv: Float[Any, "points 2"],
    depth: Float[Any, "frames height width"],
    motion: Float[Any, "frames-1 height width 3"],
) -> Carried:
    """Follow points of frame 0 along a video's motion.

    At each frame, motion and depth are read bilinearly from the four pixels around a point, without those
    whose depth is 0.15 m or more from the point's, if any remain: beside an object's edge lies the
    background, which does not move along. The point's depth is what was lifted at the frame before plus
    dz, in frame 0 that of the pixel it lies in.

    Args:
        uv: places in frame 0, pixels.
        depth: z-depth, metres.
        motion: (du px, dv px, dz m) to the next frame.
    """
    xp = namespace(depth)
    num_frames, height, width = depth.shape
    column, row = (whole(uv[:, i].clip(0, size - 1)) for i, size in enumerate((width, height)))
    expected = take_pixels(depth[0], (row * width + column)[:, None])[:, 0]
    frames, z_carried, inside = [], None, True
    for t in range(num_frames):
        index, weights, _ = bilinear_footprint(uv, height, width)
        near = take_pixels(depth[t], index)
        gated = weights * (xp.abs(near - expected[:, None]) < GATE_M)
        total = gated.sum(-1)[:, None]
        weights = xp.where(total > LEAST_WEIGHT, gated / total.clip(LEAST_WEIGHT), weights)
        z_lifted = _weighted(weights, near[..., None])[:, 0]
        z_carried = z_lifted if z_carried is None else z_carried
        u, v = uv[:, 0], uv[:, 1]
        inside = (
            inside & (u >= 0) & (u <= width) & (v >= 0) & (v <= height) & (z_lifted > 0) & (z_carried > 0)
        )
        frames.append((uv, z_lifted, z_carried, inside))
        if t + 1 < num_frames:
            step = _weighted(weights, take_pixels(motion[t], index))
            uv, expected, z_carried = uv + step[:, :2], z_lifted + step[:, 2], z_carried + step[:, 2]
    uv, z_lifted, z_carried, inside = (xp.stack(parts) for parts in zip(*frames, strict=True))
    return Carried(uv=uv, lifted_m=z_lifted, carried_m=z_carried, present=inside)


def _weighted(
    weights: Float[Any, "points 4"], values: Float[Any, "points 4 channels"]
) -> Float[Any, "points channels"]:
    """Weighted sum; a pixel without weight has no say, also where it is not finite."""
    xp = namespace(values)
    product = weights[..., None] * values
    return xp.where(weights[..., None] > 0, product, like(0.0, product)).sum(1)
