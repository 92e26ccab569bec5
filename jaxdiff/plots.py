"""Plots of what `analysis` computes: plain results in, a matplotlib figure out.

Colours are Okabe and Ito's, which people with any colour vision can tell apart, and every
curve also has its name beside it. Save with `figure.savefig(path)`.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxdiff.analysis import Density, Effective, Path, Steps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
"""Curves beyond the seventh take the same colours, dashed, then dotted."""

INK = "#333333"
LOGSNR = "log SNR = 2 ln(α / σ)   [nats]"


def schedules(paths: Mapping[str, Path], span: float = 15.0) -> "Figure":
    """log SNR, alpha and sigma of schedules over t."""
    figure, (left, middle, right) = _figure(
        "Noise schedules: from data (t = 0) to noise (t = 1)", 12.4, 4.3, (1.5, 1.0, 1.0)
    )
    for i, path in enumerate(paths.values()):
        left.plot(path.t, np.clip(path.logsnr, -3 * span, 3 * span), **_look(i))
        middle.plot(path.t, path.alpha, **_look(i))
        right.plot(path.t, np.minimum(path.sigma, 2), **_look(i))
    left.axhline(0, color=INK, lw=0.6, alpha=0.5)
    left.set(title="Signal-to-noise ratio", ylabel=LOGSNR, ylim=(-span, span))
    middle.set(title="Signal amplitude", ylabel="α   [1]", ylim=(-0.03, 1.08))
    right.set(title="Noise amplitude", ylabel="σ   [units of the data]", ylim=(-0.03, 1.08))
    for axes in (left, middle, right):
        axes.set(xlabel="t   [fraction of the path]", xlim=(0, 1))
    _legend(figure, paths)
    return figure


def densities(laws: Mapping[str, Density]) -> "Figure":
    """Where on the logsnr axis training spends its draws."""
    figure, (axes,) = _figure("Where training looks: density of log SNR", 8.6, 4.2)
    for i, law in enumerate(laws.values()):
        axes.plot(law.logsnr, law.drawn, **_look(i))
        axes.fill_between(law.logsnr, law.drawn, color=_look(i)["color"], alpha=0.05, lw=0)
    top = max(float(law.drawn.max()) for law in laws.values())
    axes.set(ylabel="density   [1 / nat]", ylim=(0, 1.08 * top))
    _logsnr_axis(axes, next(iter(laws.values())).logsnr)
    _legend(figure, laws)
    return figure


def weightings(
    recipes: Mapping[str, Effective], on: Sequence[str] = ("eps", "x0")
) -> "Figure":
    """Law times weighting of whole recipes, each scaled to 1 where SNR = 1."""
    titles = {"eps": "noise ε", "x0": "data x₀", "v": "velocity v", "flow": "flow ε − x₀"}
    figure, panels = _figure(
        "What training minimises: law of t × weighting",
        2 + 4.6 * len(on),
        4.2,
        (1.0,) * len(on),
    )
    for axes, prediction in zip(panels, on, strict=True):
        for i, recipe in enumerate(recipes.values()):
            weight = getattr(recipe, prediction)
            known = np.isfinite(weight)
            at_one = np.interp(0, recipe.logsnr[known], weight[known])
            axes.plot(recipe.logsnr, weight / at_one, **_look(i))
        axes.set(title=f"on the error of the {titles[prediction]}", yscale="log")
        axes.set_ylim(0.02, np.clip(axes.get_ylim()[1], 10, 500))
        axes.yaxis.set_major_formatter("{x:g}")
        _logsnr_axis(axes, next(iter(recipes.values())).logsnr)
    panels[0].set(ylabel="weight per nat   [1 at SNR = 1]")
    _legend(figure, recipes)
    return figure


def grids(named: Mapping[str, Steps], span: float = 16.0) -> "Figure":
    """Where grids put their levels, how long their steps are, and what that costs."""
    figure, (left, middle, right) = _figure(
        "Sampling grids: what each step does", 13.0, 4.3, (1.15, 1.0, 1.0)
    )
    for i, steps in enumerate(named.values()):
        look = {**_look(i), "marker": "o", "ms": 3.5, "mec": "white", "mew": 0.4}
        count = len(steps.h)
        nodes = np.clip(steps.logsnr, -span, span)
        left.plot(nodes, np.full(count + 1, -i), **{**look, "lw": 0.8, "ls": "-", "ms": 5})
        start, centre = np.arange(count), np.isfinite(steps.h)
        middle.plot(start[centre] + 1, steps.h[centre], **look)
        right.plot(start + 1, 100 * (steps.error / steps.exact - 1), **look)
    left.set(title="Levels, from noise (left) to data (right)", xlabel=LOGSNR)
    left.set(xlim=(-span - 1, span + 1), ylim=(-len(named) + 0.4, 0.6))
    left.set_yticks(-np.arange(len(named)), list(named), size=9.5)
    for i, label in enumerate(left.get_yticklabels()):
        label.set_color(COLOURS[i % len(COLOURS)])
    left.spines["left"].set_visible(False)
    left.tick_params(axis="y", length=0)
    left.grid(visible=False, axis="y")
    middle.set(title="Length of each step", ylabel="h = Δ ln(α / σ)   [nats]")
    right.set(
        title="Error of one Euler step", ylabel="spread after the step, against exact   [%]"
    )
    right.axhline(0, color=INK, lw=0.6, alpha=0.5)
    for axes in (middle, right):
        axes.set(xlabel="step, from noise to data")
        axes.xaxis.get_major_locator().set_params(integer=True)
    middle.set_ylim(bottom=0)
    return figure


def _look(i: int) -> dict[str, object]:
    dash = DASHES[i // len(COLOURS) % len(DASHES)]
    return {"color": COLOURS[i % len(COLOURS)], "ls": dash, "lw": 1.8}


def _figure(
    title: str, width: float, height: float, ratios: Sequence[float] = (1.0,)
) -> "tuple[Figure, tuple[Axes, ...]]":
    """An empty figure with its panels, quiet axes and a title at the left."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08, wspace=0.04)
    figure.suptitle(title, x=0.012, ha="left", size=13, weight="bold", color=INK)
    panels = figure.subplots(1, len(ratios), width_ratios=ratios, squeeze=False)[0]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#999999")
        axes.tick_params(color="#999999", labelcolor=INK, labelsize=9)
        axes.grid(color="#E6E6E6", lw=0.7)
        axes.set_axisbelow(True)
        axes.title.set(size=10.5, color=INK)
        axes.xaxis.label.set(color=INK)
        axes.yaxis.label.set(color=INK)
    return figure, tuple(panels)


def _logsnr_axis(axes: "Axes", logsnr: np.ndarray) -> None:
    """A logsnr axis that says which end is which."""
    axes.set(xlabel=LOGSNR, xlim=(logsnr[0], logsnr[-1]))
    ends = {"x": (0.01, 0.99), "ha": ("left", "right"), "s": ("← noise", "data →")}
    for x, ha, text in zip(*ends.values(), strict=True):
        axes.text(x, 0.98, text, transform=axes.transAxes, ha=ha, va="top", size=8.5,
                  color="#777777")  # fmt: skip


def _legend(figure: "Figure", names: Mapping[str, object]) -> None:
    """Names beside the panels, in the order of the curves."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], **_look(i)) for i in range(len(names))]
    figure.legend(
        lines, list(names), loc="outside right center", frameon=False, fontsize=9.5,
        labelcolor=INK, handlelength=2.2, labelspacing=0.7,
    )  # fmt: skip
