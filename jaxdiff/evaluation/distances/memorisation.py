"""Memorisation: do samples lie nearer to what was trained on than to what was not?

With M points of a law to train on and K held out, the nearest of all M + K to a fresh draw
of the law is a training point with probability M / (M + K), as all are alike. A copy's is
one with certainty. So if a share c of the samples are copies,

    P(nearer to train) = c + (1 - c) M / (M + K).

Distances of features or pixels, Frechet's, KID and coverage all reward copies.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from jaxdiff.evaluation.distances.points import Points, checked_pair, nearest


@dataclass(frozen=True, eq=False)
class Memorisation:
    """Whether samples lie nearer to train than to holdout.

    >>> train, holdout = np.array([[0.0], [4.0]]), np.array([[1.0], [5.0]])
    >>> copied = memorisation(samples=train[[0, 1, 0, 1]], train=train, holdout=holdout)
    >>> copied.copied, copied.error  # 1 / sqrt(4), as train and holdout are of one size
    (1.0, 0.5)
    """

    nearer: float
    """Share of the samples nearer to train, ties by half."""
    copied: float
    """The estimated share of copies: 0 without memorisation, negative by chance."""
    error: float
    """Standard error of `copied` without memorisation, for independent samples."""
    nearest: Int[np.ndarray, " N"]
    """Index of the nearest in train, of each sample."""
    distance: Float64[np.ndarray, " N"]
    """The distance to it."""


def memorisation(*, samples: Points, train: Points, holdout: Points) -> Memorisation:
    """How much nearer the samples are to train than to the holdout, of any sizes.

    >>> train, holdout = np.array([[0.0], [4.0]]), np.array([[1.0], [5.0]])
    >>> m = memorisation(samples=np.array([[0.0], [5.0]]), train=train, holdout=holdout)
    >>> m.nearer, m.copied, m.nearest.tolist()
    (0.5, 0.0, [0, 1])
    """
    checked_pair(train, holdout, ("train", "holdout"), least=1)
    to_train, to_holdout = nearest(samples, train), nearest(samples, holdout)
    a, b = to_train.distance[:, 0], to_holdout.distance[:, 0]
    share = float(np.mean((a < b) + 0.5 * (a == b)))
    fair = len(train) / (len(train) + len(holdout))
    error = np.sqrt(fair * (1 - fair) / len(a)) / (1 - fair)
    copied = (share - fair) / (1 - fair)
    return Memorisation(share, copied, float(error), to_train.index[:, 0], a)
