"""A study as tables in Markdown, and as a picture.

The tables stand between two markers of a page, so that they are replaced when they are
made again and the prose around them is not.
"""

import io
from collections.abc import Iterable, Sequence

import numpy as np

from jaxdiff.analysis import plots
from jaxdiff.evaluation.sanity.study import FRESH, Study
from jaxdiff.evaluation.sanity.verdict import (
    CAUGHT,
    JUDGED,
    caught,
    deviation,
    kind,
    sentences,
)

START, END = "<!-- begin: jaxdiff sanity writes this -->", "<!-- end -->"
SHOWN = (*JUDGED, "recall", "coverage", "brightness", "copied")
"""Kinds of metrics on the page; the JSON has all."""


def around(page: str, title: str) -> tuple[str, str]:
    """The parts of a page before and after the tables; of an empty page, a title.

    >>> around("", "Metrics")[0].splitlines()[0]
    '# Metrics'

    Raises:
        ValueError: the page does not have each of the markers once.
    """
    if not page:
        return f"# {title}\n\n{START}\n", f"{END}\n"
    if page.count(START) != 1 or page.count(END) != 1:
        raise ValueError(
            f"the page must have one {START} and one {END}, between which the tables go: "
            "add them, or give another --out"
        )
    before, rest = page.split(START)
    if END not in rest:
        raise ValueError(f"the page has {END} before {START}: swap them")
    return before + START + "\n", END + rest.split(END)[1]


def tables(study: Study, picture: str) -> str:
    """The results as Markdown; `picture` is the name of its file.

    >>> from jaxdiff.evaluation.sanity.study import FRESH, Fault
    >>> clean, worse = {"fd_pixels8": [1.0, 1.2]}, {"fd_pixels8": [2.0, 2.2]}
    >>> blur = {"blur": Fault("pixels", (0, 1), (clean, worse))}
    >>> study = Study(8, (8, 8, 3), ("pixels8",), 2, blur, {4: clean}, {FRESH: clean})
    >>> "* **fd_pixels8 grow with every fault, level by level.**" in tables(study, "a.png")
    True
    """
    failed, trapped = sentences(study)
    lines = [
        f"{study.images:,} images, {study.splits} random splits; the reference and the "
        f"degraded half have {study.half:,} images each.", "",
        f"![Metrics under faults]({picture})", "",
        "## Faults", "",
        *(f"* **{line}.**" for line in failed), "",
        "Means over splits; in brackets z = (mean − mean of clean) / sd of clean. Missing "
        "are the rarest classes or the commonest, of sets of one size, and so is their "
        "clean row.", "", *_faults(study), "",
        "## Half against half: the bias over N", "", *_sizes(study), "",
        "## Traps", "",
        f"As many as fresh images, a quarter, against half. Bold: more than {CAUGHT:g} "
        "standard deviations worse than fresh images, in every split.", "",
        *_traps(study), "",
        *(f"* {line}" for line in trapped), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _faults(study: Study) -> list[str]:
    """The first extractor's metrics; clean rows wherever they differ from those above."""
    others = tuple(f"_{name.removeprefix('inception_')}" for name in study.extractors[1:])
    names = [m for m in study.metrics if kind(m) in SHOWN and not m.endswith(others)]
    cells, clean = [], None
    for name, fault in study.faults.items():
        if fault.scores[0] != clean:
            which = f"clean, for {name}" if cells else "clean"
            clean = fault.scores[0]
            cells.append([which, "", "", *(_spread(clean[m]) for m in names)])
        for k, level in enumerate(fault.levels[1:], 1):
            texts = [_shift(fault.scores[k][m], clean[m]) for m in names]
            cells.append([name, f"{level:g}", fault.unit, *texts])
    return _table(["fault", "level", "unit", *names], cells, left=3)


def _sizes(study: Study) -> list[str]:
    names = [m for m in study.metrics if kind(m) in JUDGED]
    sizes = study.sizes.items()
    cells = ([f"{size:,}", *(_spread(v[m]) for m in names)] for size, v in sizes)
    return _table(["N", *names], cells)


def _traps(study: Study) -> list[str]:
    by, cells = caught(study), []
    for metric in (m for m in study.traps[FRESH] if kind(m) in SHOWN):
        cells.append([metric, _spread(study.traps[FRESH][metric])])
        for trap in by:
            mean = f"{np.mean(study.traps[trap][metric]):.3g}"
            cells[-1].append(f"**{mean}**" if metric in by[trap] else mean)
    return _table(["metric", FRESH, *by], cells)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)]


def _shift(values: Sequence[float], clean: Sequence[float]) -> str:
    z = deviation([float(np.mean(values))], clean)[0]
    return f"{np.mean(values):.3g} ({z:.{int(abs(z) < 9.95)}f})"


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"


def picture(study: Study) -> bytes:
    """z over level, a panel a fault, and the Frechet distance over N: a PNG.

    >>> from jaxdiff.evaluation.sanity.study import FRESH, Fault
    >>> clean, worse = {"fd_pixels8": [1.0, 1.2]}, {"fd_pixels8": [2.0, 2.2]}
    >>> blur = {"blur": Fault("pixels", (0, 1), (clean, worse))}
    >>> study = Study(8, (8, 8, 3), ("pixels8",), 2, blur, {4: clean}, {FRESH: clean})
    >>> picture(study)[1:4]
    b'PNG'
    """
    figure, panels = plots.panels("", 8.2, 3, 3)
    names = [m for m in study.metrics if kind(m) in JUDGED]
    look = dict(zip(names, plots.looks(names), strict=True))
    for axes, (name, fault) in zip(panels, study.faults.items(), strict=False):
        for m in names:
            z = deviation(fault.means(m), fault.scores[0][m])
            axes.plot(fault.levels, z, marker="o", ms=3, **look[m])
        axes.axhline(CAUGHT, color=plots.GREY, lw=0.7)
        axes.set_yscale("symlog", linthresh=CAUGHT)
        axes.set_ylim(bottom=-CAUGHT)
        axes.set(title=name, xlabel=fault.unit, ylabel="z   [sd of clean]")
    sizes, axes = list(study.sizes), panels[-1]
    for m in (m for m in names if kind(m) in ("fd", "fid")):
        means = [np.mean(values[m]) for values in study.sizes.values()]
        axes.loglog(sizes, means, marker="o", ms=3, **look[m])
        axes.loglog(sizes, means[0] * sizes[0] / np.array(sizes), color=plots.GREY, lw=0.7)
    axes.set(
        title="half against half",
        xlabel="N   (thin: 1 / N)",
        ylabel="Fréchet distance   [1]",
    )
    axes.set_xticks(sizes[::2], [str(n) for n in sizes[::2]])
    axes.minorticks_off()
    for axes in panels[len(study.faults) : -1]:
        axes.set_visible(False)
    figure.legend(
        panels[0].lines[: len(names)], names, loc="outside lower center", frameon=False,
        ncols=4, labelcolor=plots.INK, fontsize=plots.SIZES["legend"],
    )  # fmt: skip
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()
