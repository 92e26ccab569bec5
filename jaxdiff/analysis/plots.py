"""Plots of what `analysis` computes: plain results in, a matplotlib figure out.

Conventions of all plots, here and elsewhere (tests/test_figures.py). Figures are made by
`panels` or `figure` and are as wide as a page at most, so that their text can be read on
one. Axes have names and units, and are logarithmic where values span decades. The axis of
log SNR runs from noise at the left to data at the right (`logsnr_axis`), as sampling does.
A method has one colour in all figures (`looks`), from the table `METHODS`: "EDM" and
"Karras (EDM)" share theirs. Colours are Okabe and Ito's, which people with any colour
vision can tell apart, and every curve also has its name beside it. Names are texts, and no
part of them is read as mathematics. Save with
`figure.savefig(path)`; a notebook shows a figure that ends a cell.
"""

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.analysis.curves import Effective, LogSNRDensity, Path, Steps
from jaxdiff.analysis.image_grid import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
INK, GREY, PALE, LINES = "#333333", "#999999", "#CCCCCC", "#E6E6E6"
PAPER = "#FFFFFF"
"""Of text, of axes and references, of filled data, of the lines behind curves; of paper."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))
"""Line styles of the curves of one figure that share a colour."""

METHODS = {
    "path": {
        "cosine": VERMILION, "flow": GREEN, "EDM": ORANGE, "Karras": ORANGE, "DDPM": BLUE,
        "Stable Diffusion": PURPLE, "SD": PURPLE,
    },
    "prediction": {
        "eps": BLUE, "ε": BLUE, "v": PURPLE, "x0": SKY, "x₀": SKY, "score": BLACK,
    },
    "weighting": {
        "constant": BLUE, "P2": VERMILION, "min-SNR": GREEN, "Debias": PURPLE,
        "sigmoid": ORANGE, "ELBO": SKY,
    },
    "solver": {
        "EulerMaruyama": SKY, "Euler–Maruyama": SKY, "Euler": BLUE, "Heun": VERMILION,
        "DDIM": GREEN, "DPMSolverPP": PURPLE, "UniPC": ORANGE, "Ancestral": BLACK,
        "Midpoint": BLUE,
        "RungeKutta": VERMILION, "DEIS": GREEN, "DPMSolverPP2S": PURPLE, "LMS": ORANGE,
        "StochasticHeun": SKY, "Adaptive": BLACK,
    },
    "grid": {"leading": BLUE, "linspace": VERMILION, "trailing": GREEN},
    "objective": {"simple": BLUE, "hybrid": VERMILION, "vlb": GREEN},
    "configuration": {
        "config A": BLUE, "config B": VERMILION, "config C": GREEN, "config D": PURPLE,
        "config E": ORANGE, "config F": SKY, "config G": BLACK,
    },
}  # fmt: skip
"""The colour of each method, by what it is one of. A name has that of the first of these
words in it; in one figure, methods of one colour differ in their dashes."""

PATHS = METHODS["path"]

LOGSNR = "log SNR = 2 ln(α / σ)   [nats]"

_REMEMBERED: dict[str, str] = {}
"""The colours that other names were given in this program."""


def looks(names: Iterable[str]) -> list[dict[str, object]]:
    """How the curves of one figure are drawn: a name has its colour, whatever the figure.

    A name without a word of `METHODS` in it takes the next colour when it is first seen,
    and keeps it. Names that share a colour differ in their dashes.

    >>> [(look["color"], look["ls"]) for look in looks(["EDM", "flow"])]
    [('#E69F00', '-'), ('#009E73', '-')]
    """
    seen: dict[str, int] = {}
    drawn = []
    for name in names:
        colour = _colour(name)
        count = seen[colour] = seen.get(colour, -1) + 1
        width, dash = 1.8 / (1 + count // len(DASHES)), DASHES[count % len(DASHES)]
        drawn.append({"color": colour, "ls": dash, "lw": width})
    return drawn


def _colour(name: str) -> str:
    for word, colour in PATHS.items():
        if re.search(rf"\b\w*{word}\b", name):
            return colour
    for family in METHODS.values():
        for word, colour in family.items():
            if re.search(rf"(?<!\w){word}(?!\w)", name):
                return colour
    free = [c for c in COLOURS if c not in PATHS.values()] + list(COLOURS)
    return _REMEMBERED.setdefault(name, free[len(_REMEMBERED) % len(free)])


def logsnr_axis(axes: "Axes", low: float | None = None, high: float | None = None) -> None:
    """Makes the horizontal axis one of log SNR: noise at the left, data at the right."""
    axes.set_xlabel(f"← noise      {LOGSNR}      data →")
    axes.set_xlim(low, high)
    left, right = axes.get_xlim()
    axes.set_xlim(min(left, right), max(left, right))


def schedules(paths: Mapping[str, Path], span: float = 15.0) -> "Figure":
    """log SNR, alpha and sigma of schedules over t."""
    title = "Noise schedules: from data (t = 0) to noise (t = 1)"
    figure, (left, middle, right) = panels(title, 3.9, columns=3, ratios=(1.4, 1.0, 1.0))
    for path, look in zip(paths.values(), looks(paths), strict=True):
        left.plot(path.t, np.clip(path.logsnr, -3 * span, 3 * span), **look)
        middle.plot(path.t, path.alpha, **look)
        right.plot(path.t, np.minimum(path.sigma, 2), **look)
    left.axhline(0, color=INK, lw=0.6, alpha=0.5)
    left.set(title="Signal-to-noise ratio", ylabel=LOGSNR, ylim=(-span, span))
    middle.set(title="Signal amplitude", ylabel="α   [1]", ylim=(-0.03, 1.08))
    right.set(title="Noise amplitude", ylabel="σ   [units of the data]", ylim=(-0.03, 1.08))
    for axes in (left, middle, right):
        axes.set(xlabel="t   [fraction of the path]", xlim=(0, 1))
    _legend(figure, paths)
    return figure


def densities(laws: Mapping[str, LogSNRDensity]) -> "Figure":
    """Where on the logsnr axis training spends its draws."""
    figure, (axes,) = panels("Where training looks: density of log SNR", 4.2)
    for law, look in zip(laws.values(), looks(laws), strict=True):
        logsnr, drawn = _with_ends(law)
        axes.plot(logsnr, drawn, **look)
        axes.fill_between(logsnr, drawn, color=look["color"], alpha=0.05, lw=0)
    top = max(float(law.drawn.max()) for law in laws.values())
    axes.set(ylabel="density   [1 / nat]", ylim=(0, 1.08 * top))
    logsnr_axis(axes, *_range(laws))
    _legend(figure, laws)
    return figure


def _with_ends(law: LogSNRDensity) -> tuple[np.ndarray, np.ndarray]:
    """The curve, with the jumps at the ends of its support where they are on the axis."""
    logsnr, drawn = law.logsnr, law.drawn
    inner = np.flatnonzero((logsnr >= law.ends[0]) & (logsnr <= law.ends[1]))
    for end, node, at in ((law.ends[0], inner[:1], 0), (law.ends[1], inner[-1:], 1)):
        if logsnr[0] < end < logsnr[-1] and node.size:
            jump = [0.0, drawn[node[0]]] if at == 0 else [drawn[node[0]], 0.0]
            place = np.searchsorted(logsnr, end)
            logsnr = np.insert(logsnr, place, [end, end])
            drawn = np.insert(drawn, place, jump)
            inner = inner + 2
    return logsnr, drawn


def _range(curves: Mapping[str, LogSNRDensity | Effective]) -> tuple[float, float]:
    """The first and the last logsnr of the first curve."""
    logsnr = next(iter(curves.values())).logsnr
    return float(logsnr[0]), float(logsnr[-1])


def weightings(
    recipes: Mapping[str, Effective], on: Sequence[str] = ("eps", "x0")
) -> "Figure":
    """Law times weighting of whole recipes, each scaled to 1 where SNR = 1."""
    titles = {"eps": "noise ε", "x0": "data x₀", "v": "velocity v", "flow": "flow ε − x₀"}
    title, rows = "What training minimises: law of t × weighting", -(-len(on) // 2)
    figure, over = panels(title, 3.9 * rows, rows, -(-len(on) // rows))
    for axes in over[len(on) :]:
        axes.remove()
    for axes, prediction in zip(over, on, strict=False):
        for recipe, look in zip(recipes.values(), looks(recipes), strict=True):
            weight = getattr(recipe, prediction)
            known = np.isfinite(weight)
            at_one = np.interp(0, recipe.logsnr[known], weight[known])
            axes.plot(recipe.logsnr, weight / at_one, **look)
        axes.set(title=f"on the error of the {titles[prediction]}", yscale="log")
        axes.set_ylim(0.02, np.clip(axes.get_ylim()[1], 10, 500))
        axes.yaxis.set_major_formatter("{x:g}")
        logsnr_axis(axes, *_range(recipes))
    for axes in over[:: -(-len(on) // rows)]:
        axes.set(ylabel="weight per nat   [1 at SNR = 1]")
    _legend(figure, recipes)
    return figure


def grids(named: Mapping[str, Steps], span: float = 16.0) -> "Figure":
    """Where grids put their levels, how long their steps are, and what that costs."""
    title = "Sampling grids: what each step does"
    figure, (left, middle, right) = panels(title, 3.8, columns=3, ratios=(1.5, 1.0, 1.0))
    colours = [look["color"] for look in looks(named)]
    for i, (steps, look) in enumerate(zip(named.values(), looks(named), strict=True)):
        look |= {"marker": "o", "ms": 3.5, "mec": "white", "mew": 0.4}
        count = len(steps.h)
        nodes = np.clip(steps.logsnr, -span, span)
        left.plot(nodes, np.full(count + 1, -i), **{**look, "lw": 0.8, "ls": "-", "ms": 5})
        start, centre = np.arange(count), np.isfinite(steps.h)
        middle.plot(start[centre] + 1, steps.h[centre], **look)
        right.plot(start + 1, 100 * (steps.error / steps.exact - 1), **look)
    left.set(title="Levels", ylim=(-len(named) + 0.4, 0.6))
    logsnr_axis(left, -span - 1, span + 1)
    left.set_yticks(-np.arange(len(named)), [plain(name) for name in named], size=9.5)
    for label, colour in zip(left.get_yticklabels(), colours, strict=True):
        label.set_color(colour)
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


PAGE = 9.2
"""Inches; no figure is wider, so that text is as large on a page as it is here."""
SIZES = {"title": 10.0, "label": 9.5, "ticks": 9.0, "legend": 9.0}
"""Points."""


def panels(
    title: str,
    height: float,
    rows: int = 1,
    columns: int = 1,
    *,
    width: float = PAGE,
    ratios: Sequence[float] | None = None,
    dpi: int = 120,
    **more: Any,
) -> "tuple[Figure, tuple[Axes, ...]]":
    """An empty figure with its panels, row by row, quiet axes and a title at the left.

    `width` and `height` are inches, `ratios` the relative widths of the columns, `dpi` dots
    an inch; `more` are other arguments of Matplotlib's `subplots`.

    >>> whole, axes = panels("Two", 3.0, columns=2)
    >>> len(axes), float(whole.get_figwidth()) == PAGE
    (2, True)
    """
    whole = figure(title, height, width=width, dpi=dpi)
    grid = whole.subplots(rows, columns, width_ratios=ratios, squeeze=False, **more)
    for axes in grid.flat:
        quiet(axes)
    return whole, tuple(grid.flat)


def figure(title: str, height: float, *, width: float = PAGE, dpi: int = 120) -> "Figure":
    """An empty figure of inches and dots an inch, with a title at the left.

    >>> figure("Wide", 3.0, width=20.0)
    Traceback (most recent call last):
    ValueError: a figure of 20.0 inches is wider than a page of 9.2: use more rows
    """
    if width > PAGE:
        text = f"a figure of {width} inches is wider than a page of {PAGE}: use more rows"
        raise ValueError(text)
    whole = _kind()(figsize=(width, height), dpi=dpi, layout="constrained")
    whole.get_layout_engine().set(w_pad=0.08, h_pad=0.08, wspace=0.03, hspace=0.03)
    if title:
        look = {"size": 12, "weight": "bold", "color": INK}
        whole.suptitle(plain(title), x=0.012, ha="left", **look)
    return whole


def quiet(axes: "Axes") -> None:
    """Axes in grey, behind the curves.

    >>> (axes,) = figure("", 3.0).subplots(1, 1, squeeze=False)[0]
    >>> quiet(axes)
    >>> axes.spines["top"].get_visible()
    False
    """
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(which="both", color=GREY, labelcolor=INK, labelsize=SIZES["ticks"])
    axes.grid(color=LINES, lw=0.7)
    axes.set_axisbelow(True)
    axes.title.set(color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=INK, size=SIZES["label"])


def legend(axes: "Axes", **where: Any) -> None:
    """The names of the curves, without a frame.

    >>> (axes,) = panels("", 3.0)[1]
    >>> _ = axes.plot([0, 1], label="a line")
    >>> legend(axes, loc="upper left")
    >>> [text.get_text() for text in axes.get_legend().texts]
    ['a line']
    """
    axes.legend(frameon=False, labelcolor=INK, fontsize=SIZES["legend"], **where)


@cache
def _kind() -> "type[Figure]":
    """Figures that a notebook shows, with `%matplotlib inline` or without."""
    from matplotlib.figure import Figure

    class Shown(Figure):
        def draw(self, renderer: Any) -> None:
            for axes in self.axes:
                axes.title.set(size=SIZES["title"])  # `set_title` forgets it
            super().draw(renderer)

        def _repr_png_(self) -> bytes:
            file = io.BytesIO()
            self.savefig(file, format="png")
            return file.getvalue()

    return Shown


def _legend(figure: "Figure", names: Mapping[str, object]) -> None:
    """Names below the panels, in the order of the curves."""
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], **look) for look in looks(names)]
    look = {"labelcolor": INK, "handlelength": 3.2, "fontsize": SIZES["legend"]}
    where = {"loc": "outside lower center", "ncols": min(3, len(lines))}
    figure.legend(lines, [plain(name) for name in names], frameon=False, **look, **where)
