"""Line and dot charts as inline SVG; colours are CSS variables, so that one chart serves light and dark."""

import html
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phys4d.report.numbers import fixed, number
from phys4d.report.run import Points

WIDTH, HEIGHT = 380, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 10, 30
NUM_COLOURS = 6
SMOOTH_FROM = 40
"""Curves with at least so many points are drawn faintly, with their running mean on top."""


@dataclass(frozen=True, kw_only=True)
class Series:
    """A named curve."""

    name: str
    points: Points
    band: Sequence[float] | None = None
    """Half-height of a band around each point, e.g. a standard deviation."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """Maps values to pixels and carries the ticks."""

    low: float
    high: float
    start_px: float
    end_px: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log(self.low), math.log(self.high)) if self.logarithmic else (self.low, self.high)
        position = math.log(max(value, self.low)) if self.logarithmic else value
        return self.start_px + (position - low) / (high - low) * (self.end_px - self.start_px)


def ticks(low: float, high: float, about: int = 5) -> tuple[float, ...]:
    """Round numbers (1, 2, 5 times a power of ten) that cover [low, high]."""
    rough = (high - low) / max(1, about - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def value_axis(values: Sequence[float], start_px: float, end_px: float, *, may_be_log: bool = False) -> Axis:
    """An axis over the finite values; logarithmic, where allowed, if they span more than a factor 30."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if may_be_log and low > 0 and high / low > 30:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        all_ticks = tuple(10.0**p for p in powers)
        kept = all_ticks[:: max(1, len(all_ticks) // 5)]
        return Axis(
            low=low * 0.9, high=high * 1.1, start_px=start_px, end_px=end_px, ticks=kept, logarithmic=True
        )
    if high - low < 1e-12 * max(1.0, abs(high)):
        margin = abs(high) * 0.5 or 1.0
        low, high = low - margin, high + margin
    marks = ticks(low, high)
    return Axis(low=marks[0], high=marks[-1], start_px=start_px, end_px=end_px, ticks=marks)


def tick_texts(marks: Sequence[float], logarithmic: bool) -> list[str]:
    """Ticks with just the decimals that tell them apart; powers of ten from 0.001 to 10,000 in full."""
    largest = max((abs(mark) for mark in marks), default=0.0)
    if logarithmic or not 1e-2 <= largest < 1e6:
        return [number(mark, 1) if 1e-3 <= abs(mark) <= 1e4 else number(mark, 2) for mark in marks]
    step = min((b - a for a, b in itertools.pairwise(marks)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [fixed(mark, decimals) for mark in marks]


def running_mean(values: Sequence[float]) -> list[float]:
    """Mean in a Gaussian window with a standard deviation of 1/30 of the length; NaN has no weight."""
    if not values:
        return []
    array, place = np.asarray(values, np.float64), np.arange(len(values))
    weight = np.exp(-0.5 * ((place[:, None] - place) / (len(values) / 30)) ** 2) * np.isfinite(array)
    total = weight.sum(1)
    mean = weight @ np.nan_to_num(array, posinf=0.0, neginf=0.0) / np.where(total > 0, total, 1.0)
    return np.where(total > 0, mean, np.nan).tolist()


def path(points: Points, x: Axis, y: Axis) -> str:
    """SVG path of a curve; a value that is not finite interrupts it."""
    commands, pen_down = [], False
    for step, value in points:
        if math.isfinite(value):
            commands.append(f"{'L' if pen_down else 'M'}{x(step):.1f} {y(value):.1f}")
        pen_down = math.isfinite(value)
    return "".join(commands)


def line_chart(title: str, series: Sequence[Series], *, unit: str = "", x_label: str = "step") -> str:
    """A figure with one or more curves over steps, a legend if needed, and values on hover."""
    series = [s for s in series if any(math.isfinite(value) for _, value in s.points)]
    if not series:
        return ""
    steps = sorted({step for s in series for step, _ in s.points})
    covered = [value for s in series for _, value in s.points]
    for s in series:
        for (_, value), half in zip(s.points, s.band or [], strict=False):
            covered += [value - half, value + half]
    last = steps[-1] if steps[-1] > steps[0] else steps[0] + 1
    x = Axis(low=steps[0], high=last, start_px=LEFT, end_px=WIDTH - RIGHT, ticks=ticks(steps[0], last))
    y = value_axis(covered, HEIGHT - BOTTOM, TOP, may_be_log=True)
    marks = [_grid(x, y, x_label)]
    for index, s in enumerate(series):
        marks.append(_curve(s, x, y, index % NUM_COLOURS + 1))
    data = {
        "x": [round(x(step), 1) for step in steps],
        "steps": [f"{x_label} {step:,.0f}" for step in steps],
        "series": [{"name": s.name, **_hover(s, steps, y)} for s in series],
    }
    spoken = "; ".join(f"{s.name} from {number(s.points[0][1])} to {number(s.points[-1][1])}" for s in series)
    return _figure(title, unit, "".join(marks), data, f"{title}: {spoken}", _legend(series))


def dot_chart(
    title: str,
    columns: Sequence[tuple[str, Sequence[float]]],
    *,
    unit: str,
    references: Sequence[tuple[str, float]],
) -> str:
    """A figure with one column of dots (seeds) and their mean for each stage, and dashed reference lines."""
    values = [value for _, dots in columns for value in dots] + [value for _, value in references]
    if not any(math.isfinite(value) for value in values):
        return ""
    y = value_axis([*values, 0.0], HEIGHT - BOTTOM, TOP)
    marks = [_horizontal_grid(y)]
    for index, (name, value) in enumerate(references):
        if math.isfinite(value):
            anchor, x = ("end", WIDTH - RIGHT) if index % 2 == 0 else ("start", LEFT + 2)
            marks.append(
                f'<line class="reference" {_level(LEFT, WIDTH - RIGHT, y(value))}/>'
                f'<text class="reference {anchor}" x="{x}" y="{y(value) - 4:.1f}">'
                f"{html.escape(name)} {number(value)}</text>"
            )
    width = (WIDTH - LEFT - RIGHT) / max(1, len(columns))
    for index, (name, dots) in enumerate(columns):
        centre = LEFT + (index + 0.5) * width
        finite = [value for value in dots if math.isfinite(value)]
        if finite:
            mean = sum(finite) / len(finite)
            marks.append(
                f'<line class="mean" {_level(centre - 18, centre + 18, y(mean))}/>'
                f'<text class="value" x="{centre:.1f}" y="{y(max(finite)) - 9:.1f}">{number(mean)}</text>'
            )
        for place, value in enumerate(finite):
            shift = (place - (len(finite) - 1) / 2) * 7
            marks.append(f'<circle class="c1" cx="{centre + shift:.1f}" cy="{y(value):.1f}" r="4"/>')
        marks.append(f'<text class="tick" x="{centre:.1f}" y="{HEIGHT - 12}">{html.escape(name)}</text>')
    spoken = "; ".join(f"{name} {', '.join(map(number, dots))}" for name, dots in columns)
    return _figure(title, unit, "".join(marks), None, f"{title}: {spoken}", "")


def _level(start_px: float, end_px: float, y_px: float) -> str:
    return f'x1="{start_px:.1f}" x2="{end_px:.1f}" y1="{y_px:.1f}" y2="{y_px:.1f}"'


def _curve(s: Series, x: Axis, y: Axis, colour: int) -> str:
    marks = ""
    if s.band is not None:
        pairs = [(p, b) for p, b in zip(s.points, s.band, strict=True) if math.isfinite(p[1] + b)]
        upper = [f"{x(p[0]):.1f} {y(p[1] + b):.1f}" for p, b in pairs]
        lower = [f"{x(p[0]):.1f} {y(p[1] - b):.1f}" for p, b in reversed(pairs)]
        marks += f'<polygon class="band c{colour}" points="{" ".join([*upper, *lower])}"/>'
    if len(s.points) < SMOOTH_FROM:
        dots = "".join(
            f'<circle class="c{colour}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="2"/>'
            for step, value in s.points
            if math.isfinite(value)
        )
        return (
            marks
            + f'<path class="line c{colour}" d="{path(s.points, x, y)}"/>'
            + (dots if len(s.points) < 3 else "")
        )
    means = running_mean([value for _, value in s.points])
    smooth = [(step, mean) for (step, _), mean in zip(s.points, means, strict=True)]
    faint = f'<path class="line faint c{colour}" d="{path(s.points, x, y)}"/>'
    return marks + faint + f'<path class="line c{colour}" d="{path(smooth, x, y)}"/>'


def _hover(s: Series, steps: Sequence[float], y: Axis) -> dict[str, list[str | float | None]]:
    values = dict(s.points)
    there = [values.get(step, math.nan) for step in steps]
    return {
        "text": [number(value) if math.isfinite(value) else None for value in there],
        "y": [round(y(value), 1) if math.isfinite(value) else None for value in there],
    }


def _horizontal_grid(y: Axis) -> str:
    inside = [
        tick for tick in y.ticks if y.low * (1 - 1e-9) <= tick <= y.high * (1 + 1e-9) or not y.logarithmic
    ]
    return "".join(
        f'<line class="grid" {_level(LEFT, WIDTH - RIGHT, y(tick))}/>'
        f'<text class="tick y" x="{LEFT - 7}" y="{y(tick) + 3.5:.1f}">{text}</text>'
        for tick, text in zip(inside, tick_texts(inside, y.logarithmic), strict=True)
    )


def _grid(x: Axis, y: Axis, x_label: str) -> str:
    inside = [tick for tick in x.ticks if x.low <= tick <= x.high]
    columns = "".join(
        f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - 12}">{tick:,.10g}</text>'
        for tick in inside
        if x(tick) < WIDTH - RIGHT - 44
    )
    label = f'<text class="tick end" x="{WIDTH - RIGHT}" y="{HEIGHT - 12}">{html.escape(x_label)}</text>'
    return _horizontal_grid(y) + columns + label


def _legend(series: Sequence[Series]) -> str:
    if len(series) < 2:
        return ""
    items = "".join(
        f'<span><i class="c{index % NUM_COLOURS + 1}"></i>{html.escape(s.name)}</span>'
        for index, s in enumerate(series)
    )
    return f'<div class="legend">{items}</div>'


def _figure(title: str, unit: str, marks: str, data: object, spoken: str, legend: str) -> str:
    attribute = f' data-chart="{html.escape(json.dumps(data, separators=(",", ":")))}"' if data else ""
    shown_unit = f' <span class="unit">{html.escape(unit)}</span>' if unit else ""
    return (
        f'<figure class="chart"{attribute}><figcaption>{html.escape(title)}{shown_unit}</figcaption>{legend}'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(spoken)}">{marks}</svg>'
        "</figure>"
    )
