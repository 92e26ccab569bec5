"""The Frechet distance: squared 2-Wasserstein distance of two Gaussians.

    |m - m'|^2 + tr C + tr C' - 2 tr (C C')^(1/2)                        [FID eq. 6]

With C = L L' and C' = M M' the last trace is |L' M|_*, the sum of the singular values,
which needs neither the root of a product nor an inverse: it is right for singular
covariances, where a root by Schur's method is off in the fourth digit, and needs no eps.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from jaxdiff.evaluation.distances.points import Points, checked, checked_pair
from jaxdiff.types import reprs


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian by its mean and a factor of its covariance, C = L L'.

    Make that of the reference once, if many are compared with it.

    >>> real, fake = (Gaussian.of_moments(np.full(2, m), np.eye(2)) for m in (0.0, 3.0))
    >>> real.frechet(real), real.frechet(fake)
    (0.0, 18.0)
    """

    __repr__ = reprs.fields

    mean: Float64[np.ndarray, " D"]
    factor: Float64[np.ndarray, "D R"]

    @classmethod
    def of_moments(
        cls, mean: Float64[np.ndarray, "..."], covariance: Float64[np.ndarray, "..."]
    ) -> "Gaussian":
        """From mean and covariance; eigenvalues as small as rounding count as 0.

        Raises: ValueError unless they are finite, [D] and [D, D], and C symmetric and
            not negative.
        """
        if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
            raise ValueError(
                f"a mean {mean.shape} with a covariance {covariance.shape}: give [D] and "
                f"[D, D], as moments(points) does"
            )
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise ValueError("mean or covariance is not finite: check the features")
        if np.abs(covariance - covariance.T).max() > 1e-5 * np.abs(covariance).max():
            raise ValueError("the covariance is not symmetric: is it that of features?")
        value, vector = np.linalg.eigh(covariance)
        most = np.abs(value).max()
        if value[0] < -1e-4 * most:
            raise ValueError(
                f"not a covariance: it has a negative eigenvalue, {value[0]:.3g}, beside "
                f"{most:.3g}"
            )
        kept = value > len(value) * np.finfo(np.float64).eps * most
        return cls(mean, vector[:, kept] * np.sqrt(value[kept]))

    @classmethod
    def of(cls, points: Points) -> "Gaussian":
        """From N points, without forming their covariance: accurate to the last digits.

        The factor is their centred transpose, over (N - 1)^(1/2); or, of more points
        than dimensions, the triangle of its QR decomposition.
        """
        points = checked(points, "points")
        mean = points.mean(0)
        rows = (points - mean) / np.sqrt(len(points) - 1)
        return cls(mean, (np.linalg.qr(rows, "r") if len(rows) > len(mean) else rows).T)

    def frechet(self, other: "Gaussian") -> float:
        """|m - m'|^2 + |L|^2 + |M|^2 - 2 |L' M|_*, to rounding below 0 where both are one.

        Raises: ValueError where they differ in dimension.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f"Gaussians of {len(self.mean)} and {len(other.mean)} dimensions: take "
                f"both from one extractor"
            )
        cross = np.linalg.svd(self.factor.T @ other.factor, compute_uv=False)
        gap = np.sum((self.mean - other.mean) ** 2)
        traces = np.sum(self.factor**2) + np.sum(other.factor**2)
        return float(gap + traces - 2 * cross.sum())


def frechet(
    mean: Float64[np.ndarray, "..."],
    covariance: Float64[np.ndarray, "..."],
    other_mean: Float64[np.ndarray, "..."],
    other_covariance: Float64[np.ndarray, "..."],
) -> float:
    """The distance by moments, [D] and [D, D]; singular covariances are fine.

    >>> frechet(np.zeros(2), np.eye(2), np.array([3.0, 0.0]), 4 * np.eye(2))
    11.0
    """
    one, other = (mean, covariance), (other_mean, other_covariance)
    return Gaussian.of_moments(*one).frechet(Gaussian.of_moments(*other))


def frechet_of_points(real: Points, fake: Points) -> float:
    """The distance from points; preferable where they are fewer than dimensions.

    >>> round(frechet_of_points(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]])), 12)
    9.0
    """
    real, fake = checked_pair(real, fake)
    return Gaussian.of(real).frechet(Gaussian.of(fake))
