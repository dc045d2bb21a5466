"""Axes have round ticks that cover the data, and what cannot be drawn is left out, not guessed."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phys4d.report.charts import (
    Series,
    dot_chart,
    line_chart,
    path,
    running_mean,
    tick_texts,
    ticks,
    value_axis,
)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_ticks_cover_the_range_in_2_to_8_round_steps(low: float, width: float) -> None:
    marks = ticks(low, low + width)
    assert 2 <= len(marks) <= 8
    assert marks[0] <= low + 1e-6 * abs(low) + 1e-6 * width
    assert marks[-1] >= low + width - 1e-6 * abs(low) - 1e-6 * width


def test_ticks_show_the_decimals_that_tell_them_apart() -> None:
    assert tick_texts([1.006, 1.008, 1.01], False) == ["1.006", "1.008", "1.010"]
    assert tick_texts([0.0, 20.0, 40.0], False) == ["0", "20", "40"]
    assert tick_texts([0.01, 0.1, 1.0], True) == ["0.01", "0.1", "1"]


def test_a_constant_curve_has_an_axis_around_it() -> None:
    axis = value_axis([2.0, 2.0], 100, 0)
    assert axis.low < 2.0 < axis.high and axis(2.0) == pytest.approx(50)


def test_a_logarithmic_axis_places_the_geometric_mean_in_the_middle() -> None:
    axis = value_axis([0.001, 1.0], 100, 0, may_be_log=True)
    assert axis.logarithmic and axis(math.sqrt(0.001 * 0.9 * 1.1)) == pytest.approx(50)


def test_not_a_number_interrupts_a_curve() -> None:
    axis = value_axis([0.0, 10.0], 0, 10)
    assert path([(0, 1), (1, 2), (2, math.nan), (3, 3), (4, 4)], axis, axis).count("M") == 2


def test_the_running_mean_of_a_line_is_the_line_away_from_its_ends() -> None:
    values = [0.5 * i for i in range(90)]
    assert running_mean(values)[20:70] == pytest.approx(values[20:70], abs=1e-3)


def test_the_running_mean_passes_over_what_is_not_a_number() -> None:
    values = [1.0] * 60
    values[30] = math.nan
    assert running_mean(values) == pytest.approx([1.0] * 60)


def test_charts_without_a_finite_value_are_left_out() -> None:
    assert line_chart("Loss", [Series(name="loss", points=[(0, math.nan)])]) == ""
    assert dot_chart("Error", [("Base", [math.nan])], unit="m", references=[]) == ""


def test_the_mean_is_written_above_all_its_dots() -> None:
    figure = dot_chart("Error", [("Base", [1.0, 2.0, 9.0])], unit="m", references=[])
    dots = [float(y) for y in re.findall(r'<circle[^>]* cy="([0-9.]+)"', figure)]
    assert len(dots) == 3
    written = re.search(r'class="value"[^>]* y="([0-9.]+)">4.00<', figure)
    assert written is not None
    assert float(written[1]) < min(dots) - 4, "the radius of a dot"


def test_a_chart_says_its_values_aloud() -> None:
    figure = line_chart("Loss", [Series(name="loss", points=[(0, 1.5), (10, 0.25)])])
    assert 'aria-label="Loss: loss from 1.50 to 0.250"' in figure
