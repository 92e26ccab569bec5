"""Traps: useless images that some metric rewards."""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8

from jaxdiff.evaluation.sanity.corruptions import Images, Seed, grey


def gaussian(images: Images, number: int, seed: Seed = 0) -> UInt8[np.ndarray, "M H W C"]:
    """Draws from the Gaussian with the pixels' mean and covariance.

    With Z of independent normals, mean + Z (x - mean) / (N - 1)^(1/2) has that law.
    """
    points = images.reshape(len(images), -1).astype(np.float32)
    mean, rng = points.mean(0), np.random.default_rng(seed)
    z = rng.standard_normal((number, len(points)), np.float32)
    drawn = mean + z @ (points - mean) / (len(points) - 1) ** 0.5
    return grey(drawn).reshape(number, *images.shape[1:])


def blended(images: Images, share: float, seed: Seed = 0) -> Images:
    """(1 - share) x_i + share x_j, each image with another one that shows through."""
    order = np.random.default_rng(seed).permutation(len(images))
    other = np.empty_like(images)
    other[order] = images[np.roll(order, 1)]
    return grey((1 - np.float32(share)) * images + np.float32(share) * other)


TRAPS: Mapping[str, Callable[[Images, UInt8[np.ndarray, "M H W C"], Seed], Images]] = {
    "copies": lambda train, fresh, seed: train[: len(fresh)],
    "Gaussian fit": lambda train, fresh, seed: gaussian(train, len(fresh), seed),
    "white": lambda train, fresh, seed: np.full_like(fresh, 255),
    "averages of two": lambda train, fresh, seed: blended(fresh, 0.5, seed),
    "5 % ghosts": lambda train, fresh, seed: blended(fresh, 0.05, seed),
}
"""(training images, images they do not hold, seed) -> as many that a generator could make.

Copies and the fit are of the former, averages and ghosts of the latter.
"""
