"""Numbers as people read them."""

import math

import pytest

from phys4d.report import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.104, "0.104"),
        (0.0123456, "0.0123"),
        (12.345, "12.3"),
        (0.9996, "1.00"),
        (1234.5, "1,234"),
        (-2.5, "−2.50"),
        (0.0, "0"),
        (4.5e-6, "4.50 × 10⁻⁶"),
        (3e9, "3.00 × 10⁹"),
        (math.nan, "n/a"),
        (-math.inf, "−∞"),
    ],
)
def test_three_significant_digits(value: float, text: str) -> None:
    assert numbers.number(value).replace("\N{THIN SPACE}", " ") == text


@pytest.mark.parametrize(
    ("mean", "spread", "text"),
    [
        (0.104, 0.0039, "0.104 ± 0.004"),
        (0.104, 0.00004, "0.10400 ± 0.00004"),
        (12.3, 0.04, "12.30 ± 0.04"),
        (0.5, None, "0.500"),
        (0.5, 0.0, "0.500 ± 0.000"),
    ],
)
def test_a_spread_never_reads_zero_unless_it_is(mean: float, spread: float | None, text: str) -> None:
    assert numbers.with_spread(mean, spread) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (59.7, "60 s"), (185, "3 min 05 s"), (3720, "1 h 02 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert numbers.duration(seconds).replace("\N{NO-BREAK SPACE}", " ") == text


@pytest.mark.parametrize(
    ("key", "words", "unit"),
    [
        ("chamfer_4d", "4D Chamfer", ""),
        ("iteration_s", "Iteration", "s"),
        ("val_depth_l1_m", "Held-out depth L1", "m"),
        ("kl", "KL", ""),
        ("s", "S", ""),
    ],
)
def test_keys_read_as_words_with_their_unit(key: str, words: str, unit: str) -> None:
    assert (numbers.phrase(key), numbers.unit_of(key)) == (words, unit)
