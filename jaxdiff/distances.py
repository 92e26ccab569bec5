"""Distances between sets of points: how alike two sets of images, or of features, are."""

import numpy as np
from jaxtyping import Float, Float64


def moments(
    points: Float[np.ndarray, "N D"],
) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, "D D"]]:
    """Mean and covariance, the latter over N - 1."""
    points = np.asarray(points, np.float64)
    return points.mean(0), np.cov(points, rowvar=False)


def frechet(
    mean: Float64[np.ndarray, " D"],
    covariance: Float64[np.ndarray, "D D"],
    other_mean: Float64[np.ndarray, " D"],
    other_covariance: Float64[np.ndarray, "D D"],
) -> float:
    """Squared 2-Wasserstein distance of two Gaussians; singular covariances are fine.

    >>> frechet(np.zeros(2), np.eye(2), np.array([3.0, 0.0]), 4 * np.eye(2))
    11.0
    """
    # tr (C C')^(1/2) is the sum of the singular values of C^(1/2) C'^(1/2)
    cross = np.linalg.svd(_root(covariance) @ _root(other_covariance), compute_uv=False)
    gap = np.sum((mean - other_mean) ** 2)
    return float(gap + np.trace(covariance + other_covariance) - 2 * cross.sum())


def _root(matrix: Float64[np.ndarray, "D D"]) -> Float64[np.ndarray, "D D"]:
    """The root of a symmetric matrix; eigenvalues that are mere rounding count as 0."""
    value, vector = np.linalg.eigh(matrix)
    rounding = len(value) * np.finfo(np.float64).eps * value.max()
    return (vector * np.sqrt(np.where(value > rounding, value, 0))) @ vector.T
