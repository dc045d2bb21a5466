"""Which steps of a group are stochastic and trained."""

from __future__ import annotations

import random

from policy.config import RolloutConfig


def window(config: RolloutConfig, iteration: int, rng: random.Random) -> range:
    """Positions of one group; all siblings of a prompt train the same.

    A sliding window moves from `window_start` towards the data, one position each `window_interval`
    iterations, and stays where it meets `window_end`. Source: Li et al. 2025 (MixGRPO).

    Args:
        rng: draws a random window; not used by the others.
    """
    last = config.window_end - config.window_size
    if config.window == "fixed":
        first = config.window_start
    elif config.window == "sliding":
        first = min(config.window_start + iteration // config.window_interval, last)
    else:
        first = rng.randint(0, last)
    return range(first, first + config.window_size)


def last_position(config: RolloutConfig) -> int:
    """The last position that any group's window can hold."""
    if config.window == "fixed":
        return config.window_start + config.window_size - 1
    return config.window_end - 1
