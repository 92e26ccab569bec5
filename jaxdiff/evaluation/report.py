"""One page on a set of images: metrics, samples, and the training images near them."""

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxdiff.analysis import image_grid, plots
from jaxdiff.evaluation.metrics import BETTER
from jaxdiff.runtime.files import PathLike, printable, write_atomically

SHOWN, PAIRS = 64, 12
"""Samples in the grid, and pairs of a sample and its nearest training image."""
WIDE = 78
"""Letters in a line of notes."""
ARROWS = {-1: "↓", 1: "↑", 0: "·"}


def table(scores: Mapping[str, Any]) -> str:
    """The metrics in Markdown: ↓ less is better, ↑ more, · as real images have it."""
    beside = _beside(scores)
    head = "| metric | mean | spread | min | max |" + "".join(f" {n} |" for n in beside)
    lines = [head, "| --- |" + " ---: |" * (head.count("|") - 2)]
    for name, row in scores["metrics"].items():
        numbers = [row[key] for key in ("mean", "spread", "min", "max")]
        numbers += [values.get(name, float("nan")) for values in beside.values()]
        cells = " | ".join("" if np.isnan(v) else f"{v:.4g}" for v in numbers)
        lines.append(f"| {name} {arrow(name)} | {cells} |")
    return "\n".join(lines)


def markdown(text: object) -> str:
    """A text that comes from data, for Markdown: no part of it is markup.

    >>> markdown("a|b <i> `c`")
    'a\\\\|b \\\\<i\\\\> \\\\`c\\\\`'
    """
    return re.sub(r"([\\`*\[\]<>|$])", r"\\\1", printable(text))


def _beside(scores: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    """Held-out images and as many of the drawn ones, named with their number."""
    if "held_out" not in scores:
        return {}
    size = scores["as_many"]
    return {f"{size} drawn": scores["drawn"], f"{size} held out": scores["held_out"]}


def arrow(metric: str) -> str:
    """Which way a metric is better.

    >>> arrow("fd_lite0"), arrow("recall_lite0"), arrow("brightness")
    ('↓', '↑', '·')
    """
    return ARROWS[BETTER[metric.split("_")[0]]]


def save_page(
    path: PathLike,
    scores: Mapping[str, Any],
    images: UInt8[np.ndarray, "N H W C"],
    near: UInt8[np.ndarray, "M H W C"] | None,
    bins: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Draws the page as a PNG.

    `near` are the training images nearest to the first images, and `bins` what
    jaxdiff likelihood measures by logSNR: both are left out where there are none.
    """
    figure = plots.figure(scores["title"], 7.2)
    left, right = figure.subfigures(1, 2, width_ratios=(0.85, 1.15))
    rows = 3 if near is not None else 1
    panels = left.subplots(rows, 1, height_ratios=[5, 1, 1][:rows], squeeze=False)[:, 0]
    _show(panels[0], images[:SHOWN], 8, f"{min(len(images), SHOWN)} of {scores['images']}")
    if near is not None:
        _show(panels[1], images[: len(near)], len(near), "samples")
        _show(panels[2], near, len(near), "nearest training images")
    panels = right.subplots(2 if bins else 1, 1, squeeze=False)[:, 0]
    panels[0].axis("off")
    panels[0].text(
        0, 1, image_grid.plain(_plain(scores)), family="monospace", size=6.5, va="top"
    )
    if bins:
        _losses(panels[1], bins)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _show(
    axes: Any, images: UInt8[np.ndarray, "N H W C"], columns: int, title: str
) -> None:
    picture = image_grid.grid(images, columns)
    axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axes.set_title(title, fontsize=8, loc="left")
    axes.axis("off")


def _losses(axes: Any, bins: Sequence[Mapping[str, Any]]) -> None:
    middle = [np.mean(row["logsnr"]) for row in bins]
    plots.quiet(axes)
    for name, look in zip(("x0", "eps"), plots.looks(["x0", "eps"]), strict=True):
        errors = [row[f"{name}_mse"]["mean"] for row in bins]
        axes.plot(middle, errors, marker="o", ms=3, label=name, **look)
    axes.set(yscale="log", title="mean squared error by level", ylabel="[data units²]")
    plots.logsnr_axis(axes)
    plots.legend(axes)


def _plain(scores: Mapping[str, Any]) -> str:
    beside = _beside(scores)
    lines = [f"{'':22}{'mean':>11}{'spread':>11}" + "".join(f"{n:>15}" for n in beside)]
    for name, row in scores["metrics"].items():
        others = "".join(f"{_short(v.get(name, np.nan)):>15}" for v in beside.values())
        cells = f"{_short(row['mean']):>11}{_short(row['spread']):>11}{others}"
        lines.append(f"{name + ' ' + arrow(name):22}{cells}")
    notes = (textwrap.fill(note, WIDE, subsequent_indent="  ") for note in scores["notes"])
    return "\n".join([*lines, "", *notes])


def _short(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3g}"
