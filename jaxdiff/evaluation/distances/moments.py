"""Mean and covariance of any number of points, piece by piece.

Pieces merge exactly [Chan et al.]: with n = a + b points and d the gap of the two means,

    mean = (a mean_a + b mean_b) / n,     scatter = scatter_a + scatter_b + (a b / n) d d'

where scatter = sum (x - mean)(x - mean)' and the covariance is scatter / (n - 1). The
average of the pieces' covariances lacks the gaps between means.

On a device a batch leaves its sums about some fixed shift, (sum 1, sum y, sum y y') with
y = x - shift: these add up, by + or by a psum, over batches, devices and hosts, and rows
that are mere padding leave nothing. A shift near the mean makes float32 enough.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float64

from jaxdiff.evaluation.distances.points import Points, checked
from jaxdiff.types import Leaf, pytree, reprs


@pytree
class Sums:
    """The sums of a batch; those of several batches add up by +.

    >>> of_2 = Sums(jnp.int32(1), total=jnp.array([2.0]), outer=jnp.array([[4.0]]))
    >>> of_4 = Sums(jnp.int32(1), total=jnp.array([4.0]), outer=jnp.array([[16.0]]))
    >>> both = Moments.of_sums(of_2 + of_4, shift=jnp.zeros(1))
    >>> both.mean.tolist(), both.covariance.tolist()
    ([3.0], [[2.0]])
    """

    count: Leaf
    """[] int32, the rows that are not padding."""
    total: Leaf
    """[D] float32, sum of x - shift."""
    outer: Leaf
    """[D, D] float32, sum of (x - shift)(x - shift)'."""

    def __add__(self, other: "Sums") -> "Sums":
        return jax.tree.map(jnp.add, self, other)


def sums(
    features: Float[Array, "B D"], mask: Bool[Array, " B"], shift: Float[Array, " D"]
) -> Sums:
    """The sums of the rows where the mask is True, about the shift.

    The others may hold anything.

    >>> s = sums(jnp.ones((3, 2)), jnp.array([True, True, False]), jnp.zeros(2))
    >>> int(s.count), s.total.tolist()
    (2, [2.0, 2.0])
    """
    y = jnp.where(mask[:, None], features - shift, 0)
    outer = jnp.matmul(y.T, y, precision=jax.lax.Precision.HIGHEST)
    return Sums(jnp.sum(mask, dtype=jnp.int32), jnp.sum(y, 0), outer)


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and scatter of points; + merges those of two sets into those of both.

    >>> both = Moments.of(np.array([[0.0], [2.0]])) + Moments.of(np.array([[7.0]]))
    >>> both.count, both.mean.tolist(), both.covariance.tolist()
    (3, [3.0], [[13.0]])
    """

    __repr__ = reprs.fields

    count: int
    mean: Float64[np.ndarray, " D"]
    scatter: Float64[np.ndarray, "D D"]

    @property
    def covariance(self) -> Float64[np.ndarray, "D D"]:
        """scatter / (count - 1). Raises: ValueError of fewer than two points."""
        if self.count < 2:
            raise ValueError(f"{self.count} points have no covariance: give 2 or more")
        return self.scatter / (self.count - 1)

    @classmethod
    def of(cls, points: Points) -> "Moments":
        """Those of points [N, D], N >= 1."""
        points = checked(points, "points", least=1)
        mean = points.mean(0)
        return cls(len(points), mean, (points - mean).T @ (points - mean))

    @classmethod
    def of_sums(cls, sums: Sums, shift: Float[Array | np.ndarray, " D"]) -> "Moments":
        """Those of the points that left these sums about this shift.

        Raises: ValueError where the sums are not finite.
        """
        total, outer = (np.asarray(a, np.float64) for a in (sums.total, sums.outer))
        if not (np.isfinite(total).all() and np.isfinite(outer).all()):
            raise ValueError(
                f"the sums of {int(sums.count)} points are not finite: features that are "
                f"nan or infinite, or too large for float32 about this shift"
            )
        count = int(sums.count)
        gap = total / max(count, 1)
        return cls(count, np.asarray(shift, np.float64) + gap, outer - np.outer(gap, total))

    def __add__(self, other: "Moments") -> "Moments":
        count = self.count + other.count
        gap, share = other.mean - self.mean, other.count / max(count, 1)
        between = self.count * share * np.outer(gap, gap)
        return Moments(
            count, self.mean + share * gap, self.scatter + other.scatter + between
        )


def moments(
    points: Points,
) -> tuple[Float64[np.ndarray, " D"], Float64[np.ndarray, "D D"]]:
    """Mean and covariance, the latter over N - 1.

    >>> moments(np.array([[0.0], [2.0]]))
    (array([1.]), array([[2.]]))
    """
    whole = Moments.of(points)
    return whole.mean, whole.covariance
