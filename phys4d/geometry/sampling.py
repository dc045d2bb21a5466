"""Bilinear sampling that says where its 2x2 footprint is sound."""

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from phys4d.geometry.arrays import like, namespace, whole


def bilinear_footprint(uv: Any, height: int, width: int) -> tuple[Any, Any, Any]:
    """Flat index of the 4 pixels about each position, their weights, and whether it lies among centres.

    Corner order: top left, top right, bottom left, bottom right. Positions outside the rectangle of the pixel
    centres take the nearest place on its border.
    """
    if height < 2 or width < 2:
        raise ValueError(f"bilinear sampling needs at least 2 x 2 pixels, got {height} x {width}")
    xp = namespace(uv)
    x, y = uv[..., 0] - 0.5, uv[..., 1] - 0.5
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    # A position that is not finite is outside; any pixel stands in for it.
    zero = like(0.0, uv)
    x = xp.where(xp.isfinite(x), x, zero).clip(0, width - 1)
    y = xp.where(xp.isfinite(y), y, zero).clip(0, height - 1)
    left, top = xp.floor(x).clip(0, width - 2), xp.floor(y).clip(0, height - 2)
    a, b = x - left, y - top
    weights = xp.stack([(1 - a) * (1 - b), a * (1 - b), (1 - a) * b, a * b], -1)
    first = whole(top) * width + whole(left)
    index = xp.stack([first, first + 1, first + width, first + width + 1], -1)
    return index, weights, inside


def take_pixels(image: Any, index: Any) -> Any:
    """Pixels of `*batch height width *rest` at flat `index` of `*batch points 4`."""
    batch = index.shape[:-2]
    height, width = image.shape[len(batch) : len(batch) + 2]
    rest = tuple(image.shape[len(batch) + 2 :])
    count = math.prod(batch)
    flat = image.reshape((count * height * width, *rest))
    offset = np.arange(count).reshape((*batch, 1, 1)) * (height * width)
    return flat[index + like(offset, index)]


def sample_bilinear(
    image: Float[Any, "*batch height width channels"], uv: Float[Any, "*batch points 2"]
) -> tuple[Float[Any, "*batch points channels"], Bool[Any, "*batch points"]]:
    """Interpolate an image at positions in pixels.

    Returns:
        The values, and whether each is sound: the position lies between pixel centres and the 4 pixels
        about it are finite. A position outside takes the value at the nearest place on the border.
    """
    xp = namespace(image)
    index, weights, inside = bilinear_footprint(uv, image.shape[-3], image.shape[-2])
    corners = take_pixels(image, index)
    values = (corners * weights[..., None]).sum(-2)
    return values, inside & xp.isfinite(corners).all(-1).all(-1)


def footprint_is_uniform(
    ids: Integer[Any, "*batch height width"],
    uv: Float[Any, "*batch points 2"],
    expected: Integer[Any, "*batch points"],
) -> Bool[Any, "*batch points"]:
    """Whether the 4 pixels about each position all show the expected instance.

    Interpolated depth means nothing where the footprint spans two objects.
    """
    index, _, inside = bilinear_footprint(uv, ids.shape[-2], ids.shape[-1])
    return inside & (take_pixels(ids, index) == expected[..., None]).all(-1)
