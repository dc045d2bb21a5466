"""Curves as one SVG of log-log panels, with the fitted exponents in their legends."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

PANEL_W, PANEL_H = 400, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 78, 40
COLUMNS = 2
COLOURS = ("#0b6e99", "#d9730d", "#2d7d46", "#9065b0")


def draw_curves(curves: Sequence[Mapping[str, Any]]) -> str:
    """The picture of `CurveTiming`s as dictionaries: medians as dots, power laws as lines."""
    num_columns = min(COLUMNS, len(curves))
    width, height = PANEL_W * num_columns, PANEL_H * math.ceil(len(curves) / num_columns)
    panels = "".join(
        f'<g transform="translate({PANEL_W * (i % num_columns)} {PANEL_H * (i // num_columns)})">'
        f"{_panel(item)}</g>"
        for i, item in enumerate(curves)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="11"><rect width="100%" height="100%" '
        f'fill="#fff"/>{panels}</svg>\n'
    )


def _panel(item: Mapping[str, Any]) -> str:
    sizes = item["sizes"]
    lines = {name: _fit(sizes, values, item["exponents"][name]) for name, values in item["values"].items()}
    everything = [value for values in (*item["values"].values(), *lines.values()) for value in values]
    x = _Axis(sizes, LEFT + 12, PANEL_W - RIGHT - 12)
    y = _Axis(everything, PANEL_H - BOTTOM - 8, TOP + 8)
    marks = [_text(LEFT - 40, 18, item["name"], size=13), _grid(item, x, y)]
    for row, (name, values) in enumerate(item["values"].items()):
        colour = COLOURS[row % len(COLOURS)]
        exponent = item["exponents"][name]
        ends = zip((sizes[0], sizes[-1]), lines[name], strict=True)
        line = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in ends)
        marks.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        marks += [
            f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="3.5" fill="{colour}"/>'
            for s, v in zip(sizes, values, strict=True)
        ]
        marks.append(_text(LEFT - 40, 36 + 14 * row, f"{name}: exponent {exponent:.2f}", colour=colour))
    return "".join(marks)


def _fit(sizes: Sequence[int], values: Sequence[float], exponent: float) -> tuple[float, float]:
    """The power law of this exponent through the values' centre, at the smallest and the largest size."""
    logs = [math.log(v) - exponent * math.log(s) for s, v in zip(sizes, values, strict=True)]
    factor = math.exp(sum(logs) / len(logs))
    return factor * sizes[0] ** exponent, factor * sizes[-1] ** exponent


def _grid(item: Mapping[str, Any], x: Any, y: Any) -> str:
    marks = []
    soft = "#5c6470"
    for size in item["sizes"]:
        marks.append(_line(x(size), x(size), TOP, PANEL_H - BOTTOM))
        marks.append(_text(x(size), PANEL_H - BOTTOM + 14, f"{size:,}", anchor="middle", colour=soft))
    for tick in y.ticks:
        marks.append(_line(LEFT, PANEL_W - RIGHT, y(tick), y(tick)))
        marks.append(_text(LEFT - 5, y(tick) + 4, _shown(tick, item["unit"]), anchor="end", colour=soft))
    marks.append(
        _text(PANEL_W - RIGHT, PANEL_H - 8, f"{item['x']} ({item['unit']})", anchor="end", colour="#5c6470")
    )
    return "".join(marks)


def _line(x1: float, x2: float, y1: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" x2="{x2:.1f}" y1="{y1:.1f}" y2="{y2:.1f}" stroke="#e4e5e3"/>'


def _shown(value: float, unit: str) -> str:
    """A tick with a unit that suits it."""
    steps = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
    if unit != "bytes":
        steps = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
    factor, name = next(((f, n) for f, n in steps if value >= 0.999 * f), steps[-1])
    return f"{value / factor:.3g} {name}"


class _Axis:
    """Logarithmic place of a value, and round ticks: powers of ten, with 2 and 5 where there are few."""

    def __init__(self, values: Sequence[float], start_px: float, end_px: float) -> None:
        low, high = min(values), max(values)
        if high < 1.05 * low:
            low, high = 0.7 * low, 1.4 * high
        self._low, self._span = math.log(low), math.log(high / low)
        self._start, self._length = start_px, end_px - start_px
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
            self.ticks = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
            if len(self.ticks) >= 3:
                break

    def __call__(self, value: float) -> float:
        return self._start + (math.log(value) - self._low) / self._span * self._length


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#1b1e23", size: int = 11
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}">'
        f"{html.escape(text)}</text>"
    )
