"""Means over the pixels that a metric compares."""

import numpy as np
from jaxtyping import Bool, Float


class NothingToCompareError(ValueError):
    """A metric has nothing to say of a video: no pixel to compare, no object to follow."""


def masked_mean(values: Float[np.ndarray, "*shape"], use: Bool[np.ndarray, "*shape"], metric: str) -> float:
    """Mean of the values where `use` is.

    Raises:
        NothingToCompareError: `use` is empty, or a value on it is not finite; begins with `metric`.
    """
    if not use.any():
        raise NothingToCompareError(f"{metric}: no pixel to compare")
    if not np.isfinite(values[use]).all():
        raise NothingToCompareError(
            f"{metric}: values are not finite on the mask; leave pixels without depth out of it"
        )
    return float(values[use].mean(dtype=np.float64))
