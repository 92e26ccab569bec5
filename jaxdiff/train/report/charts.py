"""Curves as inline SVG, and the numbers behind them as plain values.

A chart's numbers are drawn as text of a page: no script is needed to see them. `numbers`
gives the same values and the axes' ranges, for whatever shows them at the pointer.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from jaxdiff.runtime.files import printable

WIDTH, HEIGHT = 360, 216
"""Of a chart, in its own units: a phone's width."""
LEFT, RIGHT, TOP, BOTTOM = 66.0, 350.0, 8.0, 176.0
"""The frame of the curves."""
FEW = 40
"""Points up to which each is a dot."""
FLAT = 1e-3
"""Least range of an axis as a fraction of its values: rounding errors look flat."""
DECADE = 10.0
"""Largest over smallest value from which an axis is logarithmic, where it may be."""


@dataclass(frozen=True)
class Series:
    """A curve y(x); `low` and `high` bound a band around it, and are as long or empty."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    """Its place in `analysis.plots.COLOURS`."""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    strength: float = 1.0
    """Its opacity; a curve below 1 is thin, too."""


@dataclass(frozen=True)
class Chart:
    """Curves over one axis, with names and units for both."""

    title: str
    series: Sequence[Series]
    y: str
    x: str = "step"
    log_y: bool = False
    """Allows a logarithmic axis, where the values are positive and span a decade."""
    log_x: bool = False
    marks: Sequence[float] = ()
    """Places on the x axis with a vertical line: where the run was resumed."""
    note: str = ""


@dataclass(frozen=True)
class Axis:
    """A range of values, and the two ends of the pixels that show it.

    >>> axis = Axis(0.0, 10.0, 100.0, 200.0, log=False)
    >>> axis(5.0), [tick for tick, _ in axis.ticks()]
    (150.0, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0])
    """

    low: float
    high: float
    start: float
    end: float
    log: bool

    def __call__(self, value: float) -> float:
        """Where a value is, in pixels."""
        low, high, value = (
            map(math.log10, (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Round values inside the range, with their texts."""
        values = _decades(self.low, self.high) if self.log else _round(self.low, self.high)
        yield from ((v, _short(v)) for v in values)


def _decades(low: float, high: float) -> list[float]:
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    each = max(1, math.ceil((last - first + 1) / 6))
    values = [10.0**k for k in range(first, last + 1, each)]
    if len(values) < 3:
        many = (m * 10.0**k for k in range(first - 1, last + 1) for m in (1, 2, 5))
        values = [v for v in many if low * 0.999 <= v <= high * 1.001]
    return values


def _round(low: float, high: float) -> list[float]:
    """About five multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def _short(value: float) -> str:
    """A number of an axis in few letters.

    >>> [_short(v) for v in (0.0, 0.001, -4e-4, 1500.0, 20000.0, 3e6, -0.5)]
    ['0', '0.001', '-4e-4', '1,500', '20k', '3M', '-0.5']
    """
    size = abs(value)
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= max(unit, 1e4):
            return f"{value / unit:.6g}{letter}"
    if 0 < size < 1e-3:
        digits, _, power = f"{value:.6e}".partition("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:,.6g}"


def axes(chart: Chart) -> tuple[Axis, Axis] | None:
    """The two axes of a chart; None where no point is finite."""
    points = [p for s in chart.series for p in _points(s) if p]
    if not points:
        return None
    x, y = zip(*points, strict=True)
    bounds = [v for s in chart.series for v in (*s.low, *s.high) if math.isfinite(v)]
    return (
        _axis([*x, *(m for m in chart.marks)], LEFT, RIGHT, chart.log_x, pad=0.02),
        _axis([*y, *bounds], BOTTOM, TOP, chart.log_y, pad=0.05),
    )


def _axis(values: Sequence[float], start: float, end: float, log: bool, pad: float) -> Axis:
    low, high = min(values), max(values)
    log = log and low > 0 and high / low >= DECADE
    if log:
        room = (high / low) ** pad
        return Axis(low / room, high * room, start, end, log)
    least = FLAT * max(abs(low), abs(high))
    room = max(pad * (high - low), (least - (high - low)) / 2)
    room = room or abs(high) * 0.1 or 1.0
    if not math.isfinite(high - low) or low - room == high + room:  # huge numbers
        return Axis(-1.7e308, 1.7e308, start, end, log)
    return Axis(low - room, high + room, start, end, log)


def numbers(chart: Chart) -> dict[str, Any]:
    """The chart's curves, and the ranges of its axes, as plain values."""
    frame = axes(chart)
    ranges = [[a.low, a.high, a.start, a.end, a.log] for a in frame] if frame else []
    return {
        "title": chart.title,
        "x": chart.x,
        "y": chart.y,
        "axes": ranges,
        "series": [{"name": s.name, "x": list(s.x), "y": list(s.y)} for s in chart.series],
    }


def svg(chart: Chart) -> str:
    """The chart as an SVG element; a line of text where there is nothing to draw."""
    frame = axes(chart)
    if frame is None:
        return '<p class="none">No finite value yet.</p>'
    x, y = frame
    parts = [*_frame(x, y), *(_mark(x, step) for step in chart.marks)]
    for series in chart.series:
        parts += _curve(series, x, y)
    middle = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
    parts += [
        f'<text x="{middle[0]:g}" y="{HEIGHT - 6}" class="label">{_text(chart.x)}</text>',
        f'<text transform="translate(11 {middle[1]:g}) rotate(-90)" class="label">'
        f"{_text(chart.y)}</text>",
        f"{_upright('cursor', LEFT)}</line>",
    ]
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{_text(chart.title)} '
        f'over {_text(chart.x)}">{"".join(parts)}</svg>'
    )


def _frame(x: Axis, y: Axis) -> Iterator[str]:
    last = -math.inf
    for value, text in x.ticks():
        at = x(value)
        if at - last < 8 + 6 * len(text):  # no room beside the one before
            continue
        last = at
        yield f"{_upright('grid', at)}</line>"
        yield f'<text class="tick" x="{at:.1f}" y="{BOTTOM + 15:g}">{text}</text>'
    for value, text in y.ticks():
        at = y(value)
        yield f'<path class="grid" d="M{LEFT:g} {at:.1f}H{RIGHT:g}"/>'
        yield f'<text class="tick end" x="{LEFT - 5:g}" y="{at + 3.5:.1f}">{text}</text>'
    yield f'<path class="axis" d="M{LEFT:g} {TOP:g}V{BOTTOM:g}H{RIGHT:g}"/>'


def _mark(x: Axis, step: float) -> str:
    return f"{_upright('mark', x(step))}<title>resumed at step {step:g}</title></line>"


def _upright(kind: str, at: float) -> str:
    """The start of a vertical line through the frame."""
    return f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP:g}" y2="{BOTTOM:g}">'


def _points(series: Series) -> list[tuple[float, float] | None]:
    """The finite points, None for each other."""
    pairs = zip(series.x, series.y, strict=True)
    return [(a, b) if math.isfinite(a) and math.isfinite(b) else None for a, b in pairs]


def _curve(series: Series, x: Axis, y: Axis) -> Iterator[str]:
    """A line through neighbouring finite points, dots for lone ones, and the band."""
    kind = look(series)
    if series.low:
        there = range(len(series.x))
        edge = [(series.x[i], series.high[i]) for i in there]
        edge += [(series.x[i], series.low[i]) for i in reversed(there)]
        finite = [(x(a), y(b)) for a, b in edge if math.isfinite(b)]
        corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in finite)
        yield f'<polygon class="c{series.colour} band" points="{corners}"/>'
    points = _points(series)
    few = sum(p is not None for p in points) <= FEW and series.strength == 1
    path, dots, pen = [], [], "M"
    for i, point in enumerate(points):
        if point is None:
            pen = "M"
            continue
        at = f"{x(point[0]):.1f} {y(point[1]):.1f}"
        path.append(pen + at)
        around = (
            points[i - 1] if i else None,
            points[i + 1] if i + 1 < len(points) else None,
        )
        if few or around == (None, None):
            dots.append(at)
        pen = "L"
    yield f'<path {kind} d="{"".join(path)}"/>'
    for at in dots:
        a, b = at.split()
        yield f'<circle {kind} cx="{a}" cy="{b}" r="2"/>'


def look(series: Series) -> str:
    """The attributes that a curve, its dots and its name have in common."""
    if series.strength == 1:
        return f'class="c{series.colour}"'
    return f'class="c{series.colour} faint" opacity="{series.strength:g}"'


def _text(text: str) -> str:
    return escape(printable(text))
