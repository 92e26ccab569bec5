"""Conclusions of a study: which metrics grow with which fault, and catch which trap."""

from collections import ChainMap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from jaxdiff.evaluation.metrics import BETTER
from jaxdiff.evaluation.sanity.study import FRESH, Study

JUDGED = ("fd", "fid", "kid", "rbf")
"""Kinds of metrics that should grow with every fault."""
GOOD: Mapping[str, int] = ChainMap({"copied": -1}, BETTER)
"""The good direction of a metric; of `copied` only more is bad: fresh images have none."""
CAUGHT = 3.0
"""Standard deviations worse than fresh images, in every split."""


def kind(metric: str) -> str:
    """The kind of a metric, without its extractor.

    >>> kind("fd_lite0"), kind("copied")
    ('fd', 'copied')
    """
    return metric.split("_")[0]


def grows(study: Study) -> dict[str, dict[str, bool]]:
    """Of the first extractor's distances and each fault: the mean grows at every level.

    >>> from jaxdiff.evaluation.sanity.study import Fault
    >>> clean, worse = {"fd_pixels8": [1.0, 1.2]}, {"fd_pixels8": [2.0, 2.2]}
    >>> faults = {
    ...     "blur": Fault("pixels", (0, 1), (clean, worse)),
    ...     "noise": Fault("grey levels", (0, 5), (clean, clean)),
    ... }
    >>> grows(Study(8, (8, 8, 3), ("pixels8",), 2, faults, {4: clean}, {FRESH: clean}))
    {'fd_pixels8': {'blur': True, 'noise': False}}
    """
    first = study.extractors[0].removeprefix("inception_")
    judged = [m for m in study.metrics if kind(m) in JUDGED and m.endswith(f"_{first}")]
    return {
        m: {name: bool(np.all(np.diff(f.means(m)) > 0)) for name, f in study.faults.items()}
        for m in judged
    }


def caught(study: Study) -> dict[str, list[str]]:
    """Of each trap, the metrics that catch it.

    >>> from jaxdiff.evaluation.sanity.study import Fault
    >>> clean, bad = {"fd_pixels8": [1.0, 1.2]}, {"fd_pixels8": [0.1, 0.2]}
    >>> traps = {FRESH: clean, "copies": bad, "white": {"fd_pixels8": [9.0, 8.0]}}
    >>> caught(Study(8, (8, 8, 3), ("pixels8",), 2, {}, {4: clean}, traps))
    {'copies': [], 'white': ['fd_pixels8']}
    """
    fresh = study.traps[FRESH]
    return {
        trap: [m for m in fresh if worse(m, values[m], fresh[m]) > CAUGHT]
        for trap, values in study.traps.items()
        if trap != FRESH
    }


def worse(metric: str, values: Sequence[float], clean: Sequence[float]) -> float:
    """How many standard deviations worse than clean a metric is, where it is least so.

    >>> worse("density_lite0", [2.0, 6.0], [7.0, 8.0, 9.0])
    2.0
    """
    z, sign = deviation(values, clean), GOOD[kind(metric)]
    return float(np.min(-sign * z if sign else np.abs(z)))


def deviation(values: Sequence[float], clean: Sequence[float]) -> Float64[np.ndarray, " S"]:
    """z = (values - mean of clean) / standard deviation of clean; 0 where both are 0.

    >>> deviation([5.0], [1.0, 2.0, 3.0]).tolist()
    [3.0]
    """
    gap, sd = np.array(values) - np.mean(clean), np.std(clean, ddof=1)
    far = np.where(gap == 0, 0.0, np.copysign(np.inf, gap))
    return np.divide(gap, sd, out=far, where=sd > 0)


def sentences(study: Study) -> tuple[list[str], list[str]]:
    """The results of `grows` and of `caught`, in sentences.

    >>> from jaxdiff.evaluation.sanity.study import Fault
    >>> clean, worse = {"fd_pixels8": [1.0, 1.2]}, {"fd_pixels8": [2.0, 2.2]}
    >>> blur = {"blur": Fault("pixels", (0, 1), (clean, worse))}
    >>> traps = {FRESH: clean, "white": worse}
    >>> sentences(Study(8, (8, 8, 3), ("pixels8",), 2, blur, {4: clean}, traps))
    (['fd_pixels8 grow with every fault, level by level'], ['white: caught by fd_pixels8'])
    """
    grown = grows(study)
    failed = [
        f"{metric} does not grow with {name}: "
        + ", ".join(f"{mean:.4g}" for mean in study.faults[name].means(metric))
        for metric, by_fault in grown.items()
        for name, well in by_fault.items()
        if not well
    ]
    whole = f"{', '.join(grown)} grow with every fault, level by level"
    traps = caught(study).items()
    lines = [f"{trap}: caught by {', '.join(by) or 'NO METRIC'}" for trap, by in traps]
    return failed or [whole], lines
