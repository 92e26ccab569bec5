"""Sliced Wasserstein distance: that of the points' shadows on lines, over many lines.

On a line the best plan is the sorted one. With quantile functions q and q',

    W^p = integral over u in (0, 1) of |q(u) - q'(u)|^p du

a sum over the at most N + M - 1 stretches of u on which both are constant, for any N, M.
Lines come in orthonormal frames, turned at random: a frame's D lines measure a shift
exactly, sum (theta . d)^2 = |d|^2.
"""

import numpy as np
from jaxtyping import Float64

from jaxdiff.evaluation.distances.points import BLOCK, Points, checked_pair


def directions(dims: int, count: int, seed: int) -> Float64[np.ndarray, "count D"]:
    """Unit vectors, each uniform on the sphere, every `dims` in a row orthogonal."""
    draw = np.random.default_rng(seed)
    frames = []
    for start in range(0, count, dims):
        q, r = np.linalg.qr(draw.standard_normal((dims, min(dims, count - start))))
        frames.append((q * np.sign(np.diag(r))).T)
    return np.concatenate(frames)


def sliced_wasserstein(
    *, real: Points, fake: Points, lines: int = 256, seed: int = 0, power: int = 2
) -> float:
    """(mean over lines of W^p)^(1/p), in units of the points; p is `power`.

    A shift by d has |d| / D^(1/2) for p = 2, exactly where D divides `lines`.

    >>> a = np.array([[0.0], [1.0]])
    >>> sliced_wasserstein(real=a, fake=a + 3)
    3.0
    """
    x, y = checked_pair(real, fake, least=1)
    if lines < 1 or power < 1:
        raise ValueError(f"{lines} lines, power {power}: give at least 1 of each")
    thetas = directions(x.shape[1], lines, seed)
    step = max(1, BLOCK // (len(x) + len(y)))
    some = [thetas[i : i + step] for i in range(0, lines, step)]
    total = sum(wasserstein(x @ t.T, y @ t.T, power).sum() for t in some)
    return float((total / lines) ** (1 / power))


def wasserstein(
    x: Float64[np.ndarray, "n lines"], y: Float64[np.ndarray, "m lines"], power: int
) -> Float64[np.ndarray, " lines"]:
    """W^p of each column of x against that of y, exact for any n and m."""
    n, m = len(x), len(y)
    ends = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)  # u, in units of 1/(n m)
    begin, width = ends[:-1], np.diff(ends) / (n * m)
    gap = np.sort(x, 0)[begin // m] - np.sort(y, 0)[begin // n]
    return width @ np.abs(gap) ** power
