"""Memorisation: do samples lie nearer to what was trained on than to what was not?

Of two halves of a data set, one trained on and one held out, a model that learnt their
law is as often nearest to one as to the other; one that copies is nearer to the first.
Distances of features or pixels, Frechet's, KID and coverage all reward copies.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, UInt8

from jaxdiff.distances.points import Points, checked_pair, nearest


@dataclass(frozen=True, eq=False)
class Memorisation:
    """How samples lie between train and holdout."""

    nearer: float
    """Share of the samples nearer to train, ties by half: 1/2 without memory."""
    error: float
    """Standard error of that share, of independent samples."""
    ratio: float
    """Median over samples of distance to train / to holdout: 1 without memory."""
    nearest: Int[np.ndarray, " N"]
    """Index of the nearest in train, of each sample."""


def memorisation(*, samples: Points, train: Points, holdout: Points) -> Memorisation:
    """How much nearer the samples are to train than to as large a holdout.

    Raises: ValueError unless the two have one size, since the larger set is the nearer.

    >>> train, holdout = np.array([[0.0], [4.0]]), np.array([[1.0], [5.0]])
    >>> m = memorisation(samples=np.array([[0.0], [5.0]]), train=train, holdout=holdout)
    >>> m.nearer, m.nearest.tolist()
    (0.5, [0, 1])
    """
    if len(train) != len(holdout):
        less = min(len(train), len(holdout))
        raise ValueError(
            f"{len(train)} points in train, {len(holdout)} in holdout: give as many of "
            f"both, such as {less} random ones of each"
        )
    checked_pair(train, holdout, ("train", "holdout"), least=1)
    to_train, to_holdout = nearest(samples, train), nearest(samples, holdout)
    a, b = to_train.distance[:, 0], to_holdout.distance[:, 0]
    wins = (a < b) + 0.5 * (a == b)
    share = wins.mean()
    return Memorisation(
        nearer=float(share),
        error=float(np.sqrt(share * (1 - share) / len(wins))),
        ratio=float(np.median(_ratio(a, b))),
        nearest=to_train.index[:, 0],
    )


def _ratio(
    a: Float64[np.ndarray, " N"], b: Float64[np.ndarray, " N"]
) -> Float64[np.ndarray, " N"]:
    """a / b, 1 where both are 0 and inf where b alone is."""
    ratio = np.divide(a, b, out=np.full_like(a, np.inf), where=b > 0)
    return np.where((a == 0) & (b == 0), 1.0, ratio)


def pixels8(images: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
    """Images as 8 x 8 area averages in [-1, 1], D = 64 C: colour and layout, no detail.

    >>> pixels8(np.full((1, 12, 20, 1), 255, np.uint8)).shape
    (1, 64)
    """
    _, high, wide, _ = images.shape
    down, across = _areas(high).astype(np.float32), _areas(wide).astype(np.float32)
    parts = [
        np.einsum("ih,nhwc,jw->nijc", down, part, across, optimize=True)
        for part in np.array_split(images, max(1, len(images) // 512))
    ]
    return np.concatenate(parts).reshape(len(images), -1) / 127.5 - 1


def _areas(size: int) -> Float64[np.ndarray, "8 size"]:
    """What share of each eighth of a side each of its pixels covers; rows sum to 1."""
    edge, pixel = np.arange(9) * size / 8, np.arange(size)
    low = np.maximum(edge[:-1, None], pixel)
    high = np.minimum(edge[1:, None], pixel + 1)
    return np.maximum(high - low, 0) * 8 / size
