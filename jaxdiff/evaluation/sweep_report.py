"""The results of a sweep: tables, verdicts along its axes, and a picture."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.analysis import image_grid, plots
from jaxdiff.evaluation import report
from jaxdiff.evaluation.metrics import summary
from jaxdiff.evaluation.sweep_axes import SURE, Axis, Point, better, verdict
from jaxdiff.runtime.files import PathLike, write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DISTANCES = ("fd", "fid", "kid", "rbf")
MAIN = (*DISTANCES, "recall", "coverage")
"""What is drawn and judged, of each extractor."""

NAMES = {
    "std": "std of the EMA   [fraction of training]",
    "guidance": "weight of guidance   [1]",
    "steps": "sampling steps",
}
"""Axes with their units."""

Row = Mapping[str, Any]
"""{"point", "blocks": the metrics of each block of seeds, …}."""


def by_extractor(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The names of metrics by what follows their first part; "" has the others."""
    groups: dict[str, list[str]] = {}
    for name in rows[0]["blocks"][0]:
        groups.setdefault(name.partition("_")[2], []).append(name)
    return groups


def best(rows: Sequence[Row], metric: str) -> int | None:
    """Which row has the best mean; None where a metric has no better and worse."""
    values = np.array([[block[metric] for block in row["blocks"]] for row in rows])
    sign = better(metric)
    return int((sign * values).mean(1).argmax()) if sign else None


def tables(axes: Sequence[Axis], rows: Sequence[Row]) -> str:
    """In Markdown, one an extractor: mean ± spread over blocks, the best point in bold."""
    texts = []
    for extractor, metrics in by_extractor(rows).items():
        heads = [f"{m.partition('_')[0]} {report.arrow(m)}" for m in metrics]
        lines = [
            [*(axis.name for axis in axes), *heads],
            ["---:"] * (len(axes) + len(heads)),
        ]
        first = {metric: best(rows, metric) for metric in metrics}
        for i, row in enumerate(rows):
            means = summary(row["blocks"])
            cells = [_cell(means[metric], i == first[metric]) for metric in metrics]
            lines.append([*(row["point"][axis.name] for axis in axes), *cells])
        text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        texts.append(f"## {extractor or 'pixels'}\n\n{text}")
    return "\n\n".join(texts)


def _cell(metric: Mapping[str, float], bold: bool) -> str:
    text = f"{metric['mean']:.4g}"
    if np.isfinite(metric["spread"]):
        text += f" ± {metric['spread']:.2g}"
    return f"**{text}**" if bold else text


def main_metrics(rows: Sequence[Row]) -> list[str]:
    """Those of `MAIN`, in its order within each extractor."""
    key = lambda name: MAIN.index(name.partition("_")[0])
    groups = by_extractor(rows).values()
    return [
        m
        for g in groups
        for m in sorted((m for m in g if m.split("_")[0] in MAIN), key=key)
    ]


def verdicts(axes: Sequence[Axis], rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Of each main metric and ordered axis: where the best is, through the best point."""
    for metric in main_metrics(rows):
        there = rows[best(rows, metric)]["point"]
        for axis in (one for one in axes if one.numbers):
            line = _line(rows, axis.name, there)
            values = np.array([[block[metric] for block in row["blocks"]] for row in line])
            numbers = np.array([float(row["point"][axis.name]) for row in line])
            judged = verdict(numbers, values, better(metric))
            others = {name: v for name, v in there.items() if name != axis.name}
            ends = {"ends": [numbers.min().item(), numbers.max().item()], "others": others}
            yield {
                "metric": metric,
                "axis": axis.name,
                **ends,
                **dataclasses.asdict(judged),
            }


def _line(rows: Sequence[Row], axis: str, there: Point) -> list[Row]:
    """The rows that differ from a point on one axis alone."""
    others = lambda point: {name: v for name, v in point.items() if name != axis}
    return [row for row in rows if others(row["point"]) == others(there)]


def sentence(judged: Mapping[str, Any]) -> str:
    """A verdict as a line of text."""
    at = "".join(f", {name} {value}" for name, value in judged["others"].items())
    least = "least" if better(judged["metric"]) < 0 else "most"
    ends = zip(judged["ends"], (judged["low"], judged["high"]), strict=True)
    worse = [
        f"{end:g} is worse by {mean:.2g}" + f" ± {spread:.1g}" * bool(np.isfinite(spread))
        for end, (mean, spread) in ends
        if end != judged["best"]
    ]
    where = SAID[judged["at"]] if len(worse) == 2 or judged["at"] == "unknown" else (
        "the best is an end, and the other is "
        + "not " * (judged["at"] == "flat") + "significantly worse"
    )  # fmt: skip
    return (
        f"{judged['metric']}: {least} at {judged['axis']} {judged['best']:g}{at}; "
        f"{', '.join(worse) or 'there is no other'}: {where}"
    )


SAID = {
    "inside": "the best is inside",
    "low end": "the low end is not significantly worse",
    "high end": "the high end is not significantly worse",
    "flat": "neither end is significantly worse",
    "unknown": "one block gives no standard deviation",
}
"""Each place, in words."""


NOTE = (
    f"An end is significantly worse if its difference from the best is more than {SURE:g} "
    "spreads over blocks, which have the same seeds and labels at every point."
)


def save_picture(
    path: PathLike, axes: Sequence[Axis], rows: Sequence[Row], title: str
) -> None:
    """Draws each main metric over the first axis, a line for each value of the second.

    Bars are the spread over blocks.

    Raises:
        ValueError: there are more than two axes.
    """
    if len(axes) > 2:
        raise ValueError(f"a picture has one axis or two, not {len(axes)}")
    metrics = main_metrics(rows)
    groups = [[m for m in metrics if m in g] for g in by_extractor(rows).values()]
    lines = [group[i : i + 3] for group in groups for i in range(0, len(group), 3)]
    columns = max(map(len, lines))
    width, height = plots.PAGE * columns / 3, 2.5 * len(lines) + 0.5
    figure, panels = plots.panels(title, height, len(lines), columns, width=width)
    for i, line in enumerate(lines):
        for panel in panels[i * columns + len(line) : (i + 1) * columns]:
            panel.axis("off")
        for panel, metric in zip(panels[i * columns :], line, strict=False):
            _draw(panel, axes, rows, metric)
    if len(axes) > 1:
        plots.legend(panels[0], title=axes[1].name)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _draw(panel: "Axes", axes: Sequence[Axis], rows: Sequence[Row], metric: str) -> None:
    """One metric: a line for each value of the second axis."""
    first, *second = axes
    values = second[0].values if second else ("",)
    looks = plots.looks(values) if second else [{"color": plots.BLUE, "ls": "-", "lw": 1.8}]
    for value, look in zip(values, looks, strict=True):
        line = [row for row in rows if not second or row["point"][second[0].name] == value]
        if first.numbers:
            line = sorted(line, key=lambda row: float(row["point"][first.name]))
            x = np.array([float(row["point"][first.name]) for row in line])
        else:
            x = np.arange(len(line))
            panel.set_xticks(x, first.values, rotation=20, ha="right")
        points = [summary(row["blocks"])[metric] for row in line]
        mean, spread = (np.array([f[key] for f in points]) for key in ("mean", "spread"))
        look |= {"ls": look["ls"] if first.numbers else "", "marker": "o", "ms": 3.5}
        bars = np.nan_to_num(spread)
        panel.errorbar(x, mean, bars, capsize=2, label=image_grid.plain(value), **look)
    if first.name in ("std", "steps"):
        panel.set_xscale("log")
        panel.set_xticks(x, [f"{v:g}" for v in x], rotation=45 if len(x) > 4 else 0)
        panel.minorticks_off()
    panel.set_title(f"{metric} {report.arrow(metric)}")
    panel.set_xlabel(NAMES.get(first.name, first.name))
    values = np.array([b[metric] for row in rows for b in row["blocks"]])
    if metric.startswith(DISTANCES) and 0 < 10 * values.min() < values.max():
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter("{x:g}")
        panel.yaxis.set_minor_formatter("")
