"""Where the trained steps lie."""

import random
from typing import Literal

import pytest

from policy.config import RolloutConfig
from policy.windows import last_position, window


def test_a_random_window_visits_every_start_and_is_the_same_for_one_seed() -> None:
    config = RolloutConfig(num_steps=8, window_size=2, window_end=5)
    drawn = [window(config, 0, random.Random(seed)) for seed in range(50)]
    assert {w.start for w in drawn} == {0, 1, 2, 3} and {len(w) for w in drawn} == {2}
    assert drawn == [window(config, 7, random.Random(seed)) for seed in range(50)]


def test_a_fixed_window_stays_and_a_sliding_one_moves_towards_the_data_and_stops() -> None:
    shape = {"num_steps": 8, "window_size": 2, "window_end": 5, "window_start": 1}
    fixed = RolloutConfig(window="fixed", **shape)
    assert [window(fixed, i, random.Random(i)).start for i in range(4)] == [1, 1, 1, 1]
    sliding = RolloutConfig(window="sliding", window_interval=3, **shape)
    starts = [window(sliding, i, random.Random(i)).start for i in range(12)]
    assert starts == [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3]


def test_a_window_that_would_start_too_late_is_refused() -> None:
    with pytest.raises(ValueError, match="window_start must be in .* here at most 2, got 3"):
        RolloutConfig(window_size=2, window_end=4, window_start=3)


@pytest.mark.parametrize("kind", ["random", "fixed", "sliding"])
def test_the_last_position_is_the_last_that_any_group_trains(
    kind: Literal["random", "fixed", "sliding"],
) -> None:
    config = RolloutConfig(num_steps=8, window=kind, window_size=2, window_end=6, window_start=1)
    trained = {i for step in range(60) for i in window(config, step, random.Random(step))}
    assert max(trained) == last_position(config)
