"""Following generated motion: (du px, dv px, dz m) at frame t carries a point to frame t + 1."""

from typing import Any

from jaxtyping import Bool, Float

from phys4d.geometry.arrays import like, namespace
from phys4d.geometry.camera import Intrinsics, pixel_centres, unproject
from phys4d.geometry.sampling import sample_bilinear


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


def carry_points(
    uv: Float[Any, "points 2"],
    depth: Float[Any, "height width"],
    motion: Float[Any, "steps height width 3"],
) -> tuple[Float[Any, "steps+1 points 3"], Bool[Any, "steps+1 points"]]:
    """Follow points of frame 0 along a video's motion.

    At each step the motion is interpolated at the point's current place and added to it.

    Args:
        uv: places in frame 0, pixels.
        depth: z-depth of frame 0, metres.
        motion: (du, dv, dz) of the T - 1 steps.

    Returns:
        (u, v, z) of every point at T frames; and whether the point was followed soundly so far: once it
        has left the image or met a value that is not finite, it stays unsound.
    """
    xp = namespace(motion)
    z, sound = sample_bilinear(depth[..., None], uv)
    points = [xp.stack([uv[..., 0], uv[..., 1], z[..., 0]], -1)]
    valid = [sound]
    for step in range(motion.shape[0]):
        delta, sound = sample_bilinear(motion[step], points[-1][..., :2])
        points.append(points[-1] + delta)
        valid.append(valid[-1] & sound)
    return xp.stack(points), xp.stack(valid)
