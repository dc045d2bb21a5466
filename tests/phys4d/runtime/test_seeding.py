"""Seeds are the same everywhere, and different for different uses."""

import random

import numpy as np
import pytest

from phys4d.runtime.seeding import derive_seed, seed_everything


def test_a_derived_seed_does_not_depend_on_the_process() -> None:
    """The first 63 bits of SHA-256 of `int:0 US str:rollout US int:3`, computed with sha256sum."""
    assert derive_seed(0, "rollout", 3) == 0x61B6FC8608909BAC >> 1


def test_parts_do_not_run_into_one_another() -> None:
    assert (
        len(
            {
                derive_seed("a", "bc"),
                derive_seed("ab", "c"),
                derive_seed("abc"),
                derive_seed(1),
                derive_seed("1"),
            }
        )
        == 5
    )


def test_the_same_seed_gives_the_same_draws() -> None:
    draws = []
    for _ in range(2):
        seed_everything(2**40 + 1)
        draws.append((random.random(), np.random.rand()))  # noqa: NPY002
    assert draws[0] == draws[1]


def test_a_seed_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2\^63\), got -1"):
        seed_everything(-1)
