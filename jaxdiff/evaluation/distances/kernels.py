"""Maximum mean discrepancies: how far apart two sets are, as measured by a kernel k.

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

Estimated without pairs of a point with itself it is unbiased [KID sec. 4], so it may be
negative; with them it is biased upward, by some 1/N. All that any of it needs are the
sums of k over each point's pairs, which are gathered block by block.

The standard error is the jackknife's, from the estimates that lack one point each. It is
right to first order where the sets differ; where they don't it is too wide, by up to
2^(1/2), so it never promises too much.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from jaxdiff.evaluation.distances.points import (
    Estimate,
    Points,
    checked,
    checked_pair,
    row_blocks,
    squared_distances,
)


@runtime_checkable
class Kernel(Protocol):
    """(x [n, D], y [m, D]) -> k(x_i, y_j) [n, m]."""

    def __call__(
        self, x: Float64[np.ndarray, "n D"], y: Float64[np.ndarray, "m D"]
    ) -> Float64[np.ndarray, "n m"]:
        """k of all pairs of rows."""
        ...


@dataclass(frozen=True)
class Polynomial:
    """k = (x . y / D + 1)^3, KID's kernel [KID sec. 4].

    >>> Polynomial()(np.ones((1, 2)), np.ones((1, 2)))  # (2 / 2 + 1)^3
    array([[8.]])
    """

    def __call__(
        self, x: Float64[np.ndarray, "n D"], y: Float64[np.ndarray, "m D"]
    ) -> Float64[np.ndarray, "n m"]:
        base = x @ y.T
        base /= x.shape[1]
        base += 1
        cube = base * base
        cube *= base
        return cube


@dataclass(frozen=True)
class RBF:
    """k = exp(-|x - y|^2 / (2 bandwidth^2)), the bandwidth in units of the points.

    >>> RBF(bandwidth=1.0)(np.zeros((1, 1)), np.full((1, 1), 2.0)).round(4)  # exp(-2)
    array([[0.1353]])
    """

    bandwidth: float

    def __call__(
        self, x: Float64[np.ndarray, "n D"], y: Float64[np.ndarray, "m D"]
    ) -> Float64[np.ndarray, "n m"]:
        power = squared_distances(x, y)
        power /= -2 * self.bandwidth**2
        return np.exp(power, out=power)


def kernel_sums(
    kernel: Kernel,
    x: Float64[np.ndarray, "n D"],
    y: Float64[np.ndarray, "m D"],
    apart: bool = False,
) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " m"]]:
    """sum_j k(x_i, y_j) of each i, and sum_i of each j; `apart`, those of i != j alone."""
    rows, columns = np.empty(len(x)), np.zeros(len(y))
    for block in row_blocks(len(x), len(y)):
        values = kernel(x[block], y)
        if apart:
            np.fill_diagonal(values[:, block], 0)
        rows[block] = values.sum(1)
        columns += values.sum(0)
    return rows, columns


def mmd(kernel: Kernel, *, real: Points, fake: Points) -> Estimate:
    """MMD^2 without pairs of a point with itself: unbiased, and negative at times.

    >>> same = np.arange(6.0)[:, None]
    >>> mmd(RBF(1.0), real=same, fake=same).value < 0
    True
    """
    x, y = checked_pair(real, fake)
    xx, yy = (kernel_sums(kernel, a, a, apart=True)[0] for a in (x, y))
    xy, yx = kernel_sums(kernel, x, y)
    n, m, cross = len(x), len(y), xy.sum()
    among = lambda sums: sums.sum() / (len(sums) * (len(sums) - 1))
    value = among(xx) + among(yy) - 2 * cross / (n * m)
    if min(n, m) < 3:
        return Estimate(float(value), np.nan)
    variance = 0.0
    for within, across, many, others in ((xx, xy, n, m), (yy, yx, m, n)):
        left = (within.sum() - 2 * within) / ((many - 1) * (many - 2))
        left -= 2 * (cross - across) / ((many - 1) * others)
        variance += (many - 1) * left.var()
    return Estimate(float(value), float(np.sqrt(variance)))


def biased_mmd(kernel: Kernel, *, real: Points, fake: Points) -> float:
    """MMD^2 with pairs of a point with itself: 0 at least, and some 1/N too large.

    >>> points = np.arange(4.0)[:, None]
    >>> round(biased_mmd(RBF(1.0), real=points, fake=points), 6)
    0.0
    """
    x, y = checked_pair(real, fake)
    mean = lambda a, b: kernel_sums(kernel, a, b)[0].sum() / (len(a) * len(b))
    return float(mean(x, x) + mean(y, y) - 2 * mean(x, y))


def kid(*, real: Points, fake: Points) -> Estimate:
    """Kernel inception distance of all points, unbiased [KID]; not multiplied by 1000.

    >>> kid(real=np.zeros((3, 1)), fake=np.ones((3, 1))).value  # 1 + 8 - 2
    7.0
    """
    return mmd(Polynomial(), real=real, fake=fake)


def kid_of_subsets(
    *, real: Points, fake: Points, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> Estimate:
    """KID as torch-fidelity has it: the mean over random subsets, and its error.

    Each subset draws `size` of the fake, then of the real, without replacement, from
    NumPy's RandomState(seed). Subsets overlap, so the error, that of the mean over
    subsets, is only of the choice of subsets: `kid` has the error of the samples.

    >>> kid_of_subsets(real=np.zeros((4, 1)), fake=np.ones((4, 1)), subsets=5, size=3)
    Estimate(value=7.0, error=0.0)

    Raises: ValueError where a set is smaller than a subset.
    """
    x, y = checked_pair(real, fake)
    if not 2 <= size <= min(len(x), len(y)):
        raise ValueError(
            f"subsets of {size} from {len(x)} real and {len(y)} fake points: give size "
            f"from 2 to {min(len(x), len(y))}, or use kid, which takes all"
        )
    draw, values = np.random.RandomState(seed), []
    for _ in range(subsets):
        drawn = y[draw.choice(len(y), size, replace=False)]
        values.append(kid(real=x[draw.choice(len(x), size, replace=False)], fake=drawn))
    each = np.array([v.value for v in values])
    return Estimate(float(each.mean()), float(each.std() / np.sqrt(subsets)))


def rbf_mmd(*, real: Points, fake: Points, bandwidth: float | None = None) -> Estimate:
    """MMD^2 of a Gaussian kernel, unbiased; its bandwidth that of `median_distance(real)`.

    >>> apart = rbf_mmd(real=np.zeros((3, 1)), fake=np.ones((3, 1)), bandwidth=1.0)
    >>> round(apart.value, 4)  # 2 - 2 exp(-1 / 2)
    0.7869

    Raises: ValueError unless the bandwidth is positive.
    """
    x, y = checked_pair(real, fake)
    width = median_distance(x) if bandwidth is None else bandwidth
    if not 0 < width < np.inf:
        raise ValueError(
            f"a bandwidth of {width}: give a positive one, in units of the points (the "
            f"default is 0 where half of the real ones' distances are)"
        )
    return mmd(RBF(float(width)), real=x, fake=y)


def cmmd(*, real: Points, fake: Points) -> float:
    """1000 MMD^2 of directions x / |x|, bandwidth 10, biased [CMMD].

    >>> round(cmmd(real=np.ones((3, 2)), fake=np.ones((3, 2))), 6)
    0.0

    Raises: ValueError where a point is 0 and has no direction.
    """
    unit = []
    for points in checked_pair(real, fake):
        length = np.linalg.norm(points, axis=1, keepdims=True)
        if not length.all():
            raise ValueError(f"point {np.argmin(length)} is 0 and has no direction")
        unit.append(points / length)
    return 1000 * biased_mmd(RBF(10.0), real=unit[0], fake=unit[1])


def median_distance(points: Points, most: int = 2000) -> float:
    """The median distance of two of the points, of `most` evenly spaced ones if more.

    >>> median_distance(np.array([[0.0], [1.0], [10.0]]))
    9.0
    """
    x = checked(points, "points")
    x = x[np.linspace(0, len(x) - 1, min(len(x), most)).astype(int)]
    pairs = squared_distances(x, x)[np.triu_indices(len(x), 1)]
    return float(np.median(np.sqrt(pairs)))
