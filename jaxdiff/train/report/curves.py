"""Which charts a run has: of its metrics, scores, magnitudes and sweeps."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jaxdiff.evaluation.metrics import BETTER
from jaxdiff.evaluation.sweep_report import MAIN
from jaxdiff.train.report.charts import Chart, Series
from jaxdiff.train.report.contents import LAYERS, Contents, Row, number

MOST = 1000
"""Points of a curve; of more, every k-th is drawn, and the last."""

SMOOTH = 50
"""Lines of metrics from which the loss has a running mean, over a twentieth of them."""

TIMES = {"goodput": "goodput", "data_wait": "waiting for data"}
"""Shares of the time, drawn in one chart."""

KNOWN: Mapping[str, tuple[str, str, bool]] = {
    "loss": ("Loss", "loss of an image   [1]", True),
    "grad_norm": ("Gradient", "norm of the gradient   [1]", True),
    "learning_rate": ("Learning rate", "learning rate   [1]", True),
    "images_per_s": ("Throughput", "speed   [images / s]", False),
    "seconds_per_step": ("Time of a step", "duration   [s]", False),
    "memory_mib": ("Device memory, peak", "memory   [MiB]", False),
    "skipped_steps": ("Steps skipped, not finite", "number   [steps]", False),
    "skipped_images": ("Images skipped, unreadable", "number   [images]", False),
}
"""Title, y axis with its unit, and whether that may be logarithmic, of each metric."""

ARROWS = {-1: "less is better", 1: "more is better", 0: "as real images have it"}


def thinned(rows: Sequence[Row]) -> Sequence[Row]:
    """At most about MOST of the rows, evenly, the last among them."""
    each = math.ceil(len(rows) / MOST) or 1
    return [*rows[: len(rows) - 1 : each], *rows[-1:]]


def of_training(contents: Contents) -> Iterator[Chart]:
    """Charts of metrics.jsonl: loss, rates, shares of the time, and what else is there."""
    rows, marks = thinned(contents.metrics), contents.resumed
    names = dict.fromkeys(name for row in rows for name in row if name != "step")
    for name in [*(k for k in KNOWN if k in names), *(n for n in names if n not in KNOWN)]:
        if name in TIMES:
            continue
        title, unit, log = KNOWN.get(name, (name, name, False))
        series = [_series(title, rows, name)]
        if name == "loss" and len(rows) >= SMOOTH:
            wide = len(rows) // 20
            smooth = running_mean(series[0].y, wide)
            mean = Series(f"mean of {wide} lines", series[0].x, smooth)
            series = [Series("loss", series[0].x, series[0].y, 5, strength=0.55), mean]
        yield Chart(title, series, unit, log_y=log, marks=marks)
        if name == "loss":
            yield from of_losses(contents)
    shares = [
        _series(text, rows, name, colour, 100.0)
        for colour, (name, text) in enumerate(TIMES.items())
        if name in names
    ]
    if shares:
        yield Chart("Where the time goes", shares, "share of the time   [%]", marks=marks)


def running_mean(values: Sequence[float], wide: int) -> list[float]:
    """The mean of the finite values among each value and the wide - 1 before it.

    >>> running_mean([1.0, 3.0, math.nan, 5.0], 2)
    [1.0, 2.0, 3.0, 5.0]
    """
    y = np.asarray(values, float)
    known = np.isfinite(y)
    sums = np.cumsum(np.where(known, y, 0.0))
    counts = np.cumsum(known)
    first = np.maximum(np.arange(len(y)) - wide, -1)
    less = lambda a: a - np.where(first >= 0, a[first], 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (less(sums) / less(counts)).tolist()


def of_scores(contents: Contents) -> Iterator[Chart]:
    """A chart for each score measured in training."""
    rows = thinned(contents.scores)
    for name in dict.fromkeys(name for row in rows for name in row if name != "step"):
        series = [_series(name, rows, name)]
        yield Chart(name, series, _unit(name), log_y=True, marks=contents.resumed)


def of_losses(contents: Contents) -> Iterator[Chart]:
    """The loss by log SNR in equal parts of the training, the last in full colour."""
    rows = contents.levels
    count = min(PARTS, len(rows))
    ends = np.linspace(0, len(rows), count + 1).round().astype(int).tolist() if rows else []
    series = []
    for k, (first, last) in enumerate(itertools.pairwise(ends)):
        sums: dict[float, list[float]] = {}
        for row in rows[first:last]:
            for name, loss in row["loss"].items():
                images = number(row["images"].get(name))
                total = sums.setdefault(_float(name), [0.0, 0.0])
                total[0] += number(loss) * images
                total[1] += images
        x = sorted(level for level in sums if math.isfinite(level))
        y = [sums[m][0] / sums[m][1] if sums[m][1] >= ENOUGH else math.nan for m in x]
        until = f"to step {rows[last - 1]['step']:,}"
        series.append(Series(until, x, y, strength=0.3 + 0.7 * (k + 1) / count))
    if series:
        yield Chart("Loss by noise level", series, "loss of an image   [1]", LOGSNR)


PARTS, ENOUGH = 5, 16
"""Parts of the training that are drawn, and images from which a mean is."""

LOGSNR = "← noise      log SNR   [nats]      data →"


def _unit(metric: str) -> str:
    """A metric's y axis: which way is better."""
    better = BETTER.get(metric.split("_")[0])
    return metric if better is None else f"{metric}   [{ARROWS[better]}]"


def of_magnitudes(contents: Contents) -> Iterator[Chart]:
    """Geometric means over layers, and bands from the smallest to the largest layer."""
    rows = thinned(contents.magnitudes)
    units = {"updates": "relative change in a step   [1]"}
    for kind in LAYERS if rows else ():
        parts: dict[str, list[str]] = {}
        for layer in dict.fromkeys(name for row in rows for name in row[kind]):
            part = layer.split("/")[0]
            part = part if part in ("enc", "dec") else "others"
            parts.setdefault(part, []).append(layer)
        names = {"enc": ("encoder", 0), "dec": ("decoder", 4), "others": ("others", 2)}
        series = [
            _spread(
                *names[part], rows, [[row[kind].get(n) for n in layers] for row in rows]
            )
            for part in names
            if (layers := parts.get(part))
        ]
        unit = units.get(kind, "root mean square   [1]")
        yield Chart(kind.capitalize(), series, unit, log_y=True, marks=contents.resumed)


def _spread(
    name: str, colour: int, rows: Sequence[Row], values: Sequence[Sequence[Any]]
) -> Series:
    """The geometric mean of each row's positive values, and their range as a band."""
    found = [[v for v in map(number, row) if 0 < v < math.inf] for row in values]
    mean = [math.exp(np.mean(np.log(some))) if some else math.nan for some in found]
    low, high = ([f(some, default=math.nan) for some in found] for f in (min, max))
    return Series(name, [float(row["step"]) for row in rows], mean, colour, low, high)


def of_sweep(sweep: Row) -> Iterator[Chart]:
    """Each distance and recall over the sweep's first axis, if its values are numbers.

    `blocks` of a point are scores of several sets of seeds: their mean is drawn, with a
    band from the least to the largest.
    """
    lines: dict[str, dict[str, list[tuple[float, list[float]]]]] = {}
    axis = ""
    for row in sweep["rows"]:
        point, blocks = _part(row, "point", dict), _part(row, "blocks", list)
        blocks = [block for block in blocks or () if isinstance(block, dict)]
        if not point or not blocks:
            continue
        axis, *others = point
        x, line = _float(point[axis]), ", ".join(f"{n} {point[n]}" for n in others)
        for metric in blocks[0]:
            values = [number(block.get(metric)) for block in blocks]
            lines.setdefault(metric, {}).setdefault(line, []).append((x, values))
    for metric, each in lines.items():
        if metric.split("_")[0] not in MAIN:
            continue
        series = [
            _line(name or metric, k % 7, points)
            for k, (name, points) in enumerate(each.items())
        ]
        title = f"{metric} over {AXES.get(axis, axis)}"
        x = f"{AXES.get(axis, axis)}   [{'fraction of training' if axis == 'std' else '1'}]"
        yield Chart(title, series, _unit(metric), x, log_x=axis in ("std", "steps"))


AXES = {"std": "EMA length"}
"""What an axis of a sweep is called."""


def _line(name: str, colour: int, points: list[tuple[float, list[float]]]) -> Series:
    points = sorted((p for p in points if math.isfinite(p[0])), key=lambda point: point[0])
    x, values = [p[0] for p in points], [p[1] for p in points]
    mean, low, high = ([f(v) for v in values] for f in (np.mean, min, max))
    return Series(name, x, list(map(float, mean)), colour, low, high)


def of_levels(bins: Sequence[Any]) -> Iterator[Chart]:
    """Mean squared errors of x0 and eps by log SNR, as `jaxdiff evaluate` measures them."""
    rows = [row for row in bins if isinstance(row, dict) and _part(row, "logsnr", list)]
    if not rows:
        return
    middle = [float(np.mean(list(map(number, row["logsnr"])))) for row in rows]
    errors = (("x0_mse", "data x0"), ("eps_mse", "noise eps"))
    series = [
        Series(
            text,
            middle,
            [number((_part(r, name, dict) or {}).get("mean")) for r in rows],
            k,
        )
        for k, (name, text) in enumerate(errors)
    ]
    unit = "mean squared error   [1]"
    yield Chart("Error by noise level", series, unit, LOGSNR, log_y=True)


def _series(
    name: str, rows: Sequence[Row], key: str, colour: int = 0, scale: float = 1.0
) -> Series:
    kept = [row for row in rows if key in row]
    y = [scale * number(row[key]) for row in kept]
    return Series(name, [float(row["step"]) for row in kept], y, colour)


def _part(row: Any, name: str, kind: type) -> Any:
    """A field of an object if it is of this kind, else None."""
    value = row.get(name) if isinstance(row, dict) else None
    return value if isinstance(value, kind) else None


def _float(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
