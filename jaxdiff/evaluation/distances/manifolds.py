"""Precision, recall, density and coverage: manifolds as unions of balls about points.

A point's ball reaches to the k-th nearest of its own set.

    precision   share of the fake that lie in a ball about a real one
    recall      share of the real that lie in a ball about a fake one
    density     how many of the balls about real ones hold a fake one, over k
    coverage    share of the real whose ball holds a fake one

The first two by [IPR], where a ball holds its surface; all four by [PRDC], where it does
not. That matters only where points coincide with others. None is enough alone: white
images lie in one wide ball about a real one, and have precision 1.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from jaxdiff.evaluation.distances.points import (
    Points,
    checked_pair,
    nearest,
    row_blocks,
    squared_distances,
    within,
)


@dataclass(frozen=True)
class Manifold:
    """Precision, recall and coverage in [0, 1]; density from 0, with 1 for equal laws.

    >>> same = np.arange(8.0)[:, None]
    >>> prdc(real=same, fake=same, k=1) == Manifold(1.0, 1.0, 1.0, 1.0)
    True
    """

    precision: float
    recall: float
    density: float
    coverage: float


def prdc(*, real: Points, fake: Points, k: int = 5, closed: bool = False) -> Manifold:
    """All four [PRDC]; `closed` counts the surface of a ball to it, as [IPR] does.

    >>> a = np.arange(8.0)[:, None]
    >>> prdc(real=a, fake=a + 3, k=1)
    Manifold(precision=0.625, recall=0.625, density=0.625, coverage=0.625)
    """
    held, holding, covered = _balls(real, fake, k, closed)
    return Manifold(
        precision=float(np.mean(held > 0)),
        recall=float(np.mean(holding > 0)),
        density=float(np.mean(held) / k),
        coverage=float(np.mean(covered > 0)),
    )


def precision_recall(*, real: Points, fake: Points, k: int = 3) -> tuple[float, float]:
    """Improved precision and recall [IPR]: of balls with their surface.

    >>> points = np.arange(10.0)[:, None]
    >>> precision_recall(real=points, fake=points)
    (1.0, 1.0)
    """
    both = prdc(real=real, fake=fake, k=k, closed=True)
    return both.precision, both.recall


def radii(points: Float64[np.ndarray, "N D"], k: int) -> Float64[np.ndarray, " N"]:
    """Each point's distance to the k-th nearest of the others."""
    return nearest(points, points, k, apart=True).distance[:, -1]


def _balls(
    real: Points, fake: Points, k: int, closed: bool
) -> tuple[Int[np.ndarray, " fake"], Int[np.ndarray, " real"], Int[np.ndarray, " real"]]:
    """Real balls about each fake; fake balls about each real; fake ones in each real's."""
    x, y = checked_pair(real, fake)
    reach_x, reach_y = radii(x, k), radii(y, k)
    held = np.zeros(len(y), int)
    holding, covered = np.zeros((2, len(x)), int)
    for rows in row_blocks(len(x), len(y)):
        squared = squared_distances(x[rows], y)
        inside = within(x[rows], y, squared, reach_x[rows, None], closed)
        held += inside.sum(0)
        covered[rows] = inside.sum(1)
        holding[rows] = within(x[rows], y, squared, reach_y, closed).sum(1)
    return held, holding, covered
