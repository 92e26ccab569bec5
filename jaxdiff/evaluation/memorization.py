"""Memorization check: copies of training images, which metrics of features reward.

Generated images should be as near to the training images as to as many held-out ones.
Distances are of pixels, of images reduced to at most 16 pixels a side.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxdiff.data.pixel_values import to_float
from jaxdiff.evaluation import distances
from jaxdiff.evaluation.extractors.resizing import AREA, resize
from jaxdiff.types import reprs

SIDE = 16
"""Pixels a side above which images are averaged down."""


@dataclass(frozen=True, eq=False)
class Copies:
    """Of N images: the share of copies, and the nearest training images.

    >>> old, new = np.zeros((2, 4, 4, 1), np.uint8), np.full((2, 4, 4, 1), 255, np.uint8)
    >>> [copies(images, train=old, holdout=new).copied for images in (old, new)]
    [1.0, -1.0]
    """

    __repr__ = reprs.fields

    copied: float
    """The share of copies, as `distances.memorisation` estimates it; nan without others."""
    error: float
    """Its standard error if there are no copies; larger if few images are held out."""
    nearest: Int[np.ndarray, " N"]
    """Of each image, the number of the training image nearest to it."""
    distance: Float[np.ndarray, " N"]


def copies(
    images: UInt8[np.ndarray, "N H W C"],
    train: UInt8[np.ndarray, "M H W C"],
    holdout: UInt8[np.ndarray, "K H W C"] | None = None,
) -> Copies:
    """The nearest of the training images, and what share are copies of them.

    >>> train = np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1)
    >>> near = copies(train[2:], train)
    >>> near.nearest.tolist(), near.distance.tolist()
    ([2], [0.0])
    """
    points, trained = flat(images), flat(train)
    if holdout is None:
        near, unknown = distances.nearest(points, trained, 1), float("nan")
        return Copies(unknown, unknown, near.index[:, 0], near.distance[:, 0])
    near = distances.memorisation(samples=points, train=trained, holdout=flat(holdout))
    return Copies(near.copied, near.error, near.nearest, near.distance)


def flat(images: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N D"]:
    """Images as points of pixels in [-1, 1], of at most SIDE pixels a side."""
    if max(images.shape[1:3]) <= SIDE:
        return to_float(images).reshape(len(images), -1)
    parts = np.array_split(images, max(1, len(images) // 256))
    grey = np.concatenate([np.asarray(resize(part, SIDE, AREA)) for part in parts])
    return grey.reshape(len(images), -1) / np.float32(127.5) - 1
