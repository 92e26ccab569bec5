"""What metrics of features reward: copies of the training images.

Generated images should be as near to the training images as to as many that training has
not seen. Distances are of pixels, of images brought to at most 32 pixels a side.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxdiff import distances
from jaxdiff.features.resizing import AREA, resize

SIDE = 32
"""Pixels a side above which images are averaged down."""


@dataclass(frozen=True, eq=False)
class Copies:
    """Of N images: how much nearer they lie to the training images than to others."""

    nearer: float
    """The share nearer to a training image than to any held-out one; 0.5 = no memory."""
    ratio: float
    """Median distance to training images over that to held-out ones; 1 = no memory."""
    nearest: Int[np.ndarray, " N"]
    """Of each image, the number of the training image nearest to it."""
    distance: Float[np.ndarray, " N"]


def copies(
    images: UInt8[np.ndarray, "N H W C"],
    train: UInt8[np.ndarray, "M H W C"],
    holdout: UInt8[np.ndarray, "K H W C"] | None = None,
) -> Copies:
    """The nearest of all training images, and by as many of them as are held out, memory.

    `nearer` and `ratio` are nan without a holdout of two images or more.
    """
    points, trained = flat(images), flat(train)
    near = distances.nearest(points, trained, 1)
    nearer = ratio = float("nan")
    if holdout is not None and len(holdout) > 1:
        size = min(len(train), len(holdout))
        some = np.linspace(0, len(train) - 1, size).astype(int)
        found = distances.memorisation(
            samples=points, train=trained[some], holdout=flat(holdout[:size])
        )
        nearer, ratio = found.nearer, found.ratio
    return Copies(nearer, ratio, near.index[:, 0], near.distance[:, 0])


def flat(images: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
    """Images as points of pixels in [-1, 1], of at most SIDE pixels a side."""
    if max(images.shape[1:3]) > SIDE:
        parts = np.array_split(images, max(1, len(images) // 256))
        images = np.concatenate([np.asarray(resize(part, SIDE, AREA)) for part in parts])
    return images.reshape(len(images), -1) / np.float32(127.5) - 1
