"""Sets of points: checks, pairwise distances in blocks, and nearest neighbours.

Sets of points meet as blocks of pairs, some rows of x against all of y, so that memory
never holds all N M pairs. Of a block, the matrix product gives all distances at once,

    |x - y|^2 = |x|^2 + |y|^2 - 2 x . y,        off by some eps D (|x|^2 + |y|^2),

and differences, which are exact for equal points and symmetric, give the few that decide
a comparison.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Real

Points = Real[np.ndarray, "..."]
"""[N, D], N points of D finite numbers each; `checked` rejects anything else."""

BLOCK = 1 << 22
"""Pairs in a block: 32 MB."""


@dataclass(frozen=True)
class Estimate:
    """A number that was estimated from samples, and its standard error, nan if unknown.

    >>> Estimate(value=0.25, error=0.01).value
    0.25
    """

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Of each of N points, the k nearest among others, the nearest first.

    >>> among = np.array([[0.0], [3.0], [7.0]])
    >>> of_2: Neighbours = nearest(np.array([[2.0]]), among, k=2)
    >>> of_2.index.tolist(), of_2.distance.tolist()
    ([[1, 0]], [[1.0, 2.0]])
    """

    index: Int[np.ndarray, "N k"]
    distance: Float64[np.ndarray, "N k"]


def checked(points: Points, name: str, least: int = 2) -> Float64[np.ndarray, "N D"]:
    """The points in float64.

    Raises: ValueError unless they are [N, D], N >= least, D >= 1, and finite.
    """
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(
            f"{name} have shape {points.shape}: give [N, D], one row per point, such as "
            f"images.reshape(len(images), -1)"
        )
    if len(points) < least:
        raise ValueError(f"{name} are {len(points)}: give {least} or more")
    points = np.asarray(points, np.float64)
    if not np.isfinite(points).all():
        bad = np.flatnonzero(~np.isfinite(points).all(1))
        raise ValueError(
            f"{name} are not finite in {len(bad)} of {len(points)} rows, the first row "
            f"{bad[0]}: check how they were made"
        )
    return points


def checked_pair(
    real: Points, fake: Points, names: tuple[str, str] = ("real", "fake"), least: int = 2
) -> tuple[Float64[np.ndarray, "N D"], Float64[np.ndarray, "M D"]]:
    """Both sets in float64.

    Raises: ValueError as `checked` does, or where they differ in D.
    """
    x, y = checked(real, names[0], least), checked(fake, names[1], least)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} have {x.shape[1]} numbers a point, {names[1]} {y.shape[1]}: take "
            f"both from one extractor"
        )
    return x, y


def row_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of the rows, each of at most `BLOCK` numbers, or of one row."""
    step = max(1, BLOCK // columns)
    return (slice(i, min(i + step, rows)) for i in range(0, rows, step))


def squared_distances(
    x: Float64[np.ndarray, "n D"], y: Float64[np.ndarray, "m D"]
) -> Float64[np.ndarray, "n m"]:
    """|x_i - y_j|^2 by the matrix product, about the mean of y."""
    x, y = _centred(x, y)
    out = x @ y.T
    out *= -2
    out += _squares(x)[:, None]
    out += _squares(y)
    return np.maximum(out, 0, out=out)


def nearest(points: Points, among: Points, k: int = 1, apart: bool = False) -> Neighbours:
    """The k nearest of `among` to each point, the nearest first.

    `apart` is for `points` that are `among`, row by row: none is its own neighbour.

    Raises: ValueError where `among` has too few.

    >>> nearest(np.array([[2.0], [9.0]]), np.array([[0.0], [3.0], [7.0]])).index.tolist()
    [[1], [2]]
    """
    x, y = checked_pair(points, among, ("points", "among"), least=1)
    others = len(y) - apart
    if not 1 <= k <= others:
        raise ValueError(f"k = {k} of {others} others: give k from 1 to {others}")
    index, distance = np.empty((len(x), k), np.int64), np.empty((len(x), k))
    spare = min(k + 4, others)
    for rows in row_blocks(len(x), max(len(y), spare * y.shape[1])):
        about = squared_distances(x[rows], y)
        if apart:
            np.fill_diagonal(about[:, rows], np.inf)
        candidates = np.sort(np.argpartition(about, spare - 1, axis=1)[:, :spare], axis=1)
        exact = np.sum((x[rows, None] - y[candidates]) ** 2, axis=-1)
        order = np.argsort(exact, axis=1, kind="stable")[:, :k]
        index[rows] = np.take_along_axis(candidates, order, 1)
        distance[rows] = np.sqrt(np.take_along_axis(exact, order, 1))
    return Neighbours(index, distance)


def within(
    x: Float64[np.ndarray, "n D"],
    y: Float64[np.ndarray, "m D"],
    squared: Float64[np.ndarray, "n m"],
    radius: Float64[np.ndarray, "..."],
    closed: bool,
) -> Bool[np.ndarray, "n m"]:
    """Whether |x_i - y_j| < radius, or <= if closed; near ties are decided by differences.

    `squared` is `squared_distances(x, y)`; the radius broadcasts against it.
    """
    inside = squared < radius**2
    about_0 = _centred(x, y)
    size = _squares(about_0[0])[:, None] + _squares(about_0[1])
    rounding = 8 * x.shape[1] * np.finfo(np.float64).eps * size
    i, j = np.nonzero(np.abs(squared - radius**2) <= rounding)
    radii = np.broadcast_to(radius, inside.shape)
    step = max(1, BLOCK // x.shape[1])
    for some in (slice(a, a + step) for a in range(0, len(i), step)):
        distance = np.sqrt(np.sum((x[i[some]] - y[j[some]]) ** 2, axis=-1))
        limit = radii[i[some], j[some]]
        inside[i[some], j[some]] = distance <= limit if closed else distance < limit
    return inside


def _squares(x: Float64[np.ndarray, "n D"]) -> Float64[np.ndarray, " n"]:
    """|x_i|^2."""
    return np.einsum("nd,nd->n", x, x)


def _centred(
    x: Float64[np.ndarray, "n D"], y: Float64[np.ndarray, "m D"]
) -> tuple[Float64[np.ndarray, "n D"], Float64[np.ndarray, "m D"]]:
    """Both less the mean of y."""
    middle = y.mean(0)
    return x - middle, y - middle
