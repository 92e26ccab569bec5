"""One step back: q(x_to | x_at, x0) between two levels, and a model's variance for it.

For any two levels of any path, `to` the one with less noise, let r^2 = alpha^2 + sigma^2
and g = 1 - snr_at / snr_to, the share of x0 that the step adds. Then

    mean     c_x0 x0 + c_x x,     c_x0 = alpha_to g,   c_x = (1 - g) alpha_to / alpha_at
    small    sigma_to^2 g                              the variance if x0 is known
    large    g r_to^2 sigma_at^2 / r_at^2              the variance if x0 ~ N(0, I)

which on a variance-preserving path are [DDPM eq. 7], beta-tilde and beta. Between them
lies what the variance of a reverse step can be for data of unit variance at most:
large / small = (1 + snr_to) / (1 + snr_at), so that both scale as x_to^2 along a ray and
a model of one path steps on another. All is exact at alpha_at = 0 and at sigma_to = 0.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.types import Leaf, NoiseLevel, Real, pytree
from jaxdiff.types.ranges import checked


@pytree
class Posterior:
    """q(x_to | x_at, x0) = N(c_x0 x0 + c_x x, small I), and the larger variance.

    Fields have the levels' shape. They are NumPy's where the levels are, so that a table's
    rows can be computed in float64 before they are rounded.
    """

    c_x0: Leaf
    c_x: Leaf
    small: Leaf
    """The variance given x0, beta-tilde; 0 on the data, but for `chain`."""
    large: Leaf
    """The variance for x0 ~ N(0, I), beta."""
    lands: Leaf
    """bool, whether the step ends on the data, sigma_to = 0."""

    def mean(self, x0: Real, x: Real) -> Real:
        """c_x0 x0 + c_x x."""
        return self.c_x0 * x0 + self.c_x * x


def posterior(at: NoiseLevel, to: NoiseLevel) -> Posterior:
    """The step from level `at` to level `to`, which has less noise: snr_to > snr_at.

    >>> posterior(NoiseLevel(0.0, 1.0), to=NoiseLevel(0.8, 0.6))
    Posterior(c_x0=0.8, c_x=0.0, small=0.36, large=1.0, lands=False)
    """
    ratio = (at.alpha * to.sigma) / (to.alpha * at.sigma)
    g = (1 - ratio) * (1 + ratio)
    return Posterior(
        c_x0=to.alpha * g,
        c_x=ratio * to.sigma / at.sigma,
        small=to.sigma**2 * g,
        large=g * _square(to) * at.sigma**2 / _square(at),
        lands=to.sigma == 0,
    )


def chain(levels: NoiseLevel) -> Posterior:
    """The T steps of a process with levels [T + 1], from data to noise: [T] rows.

    Row i goes from level i + 1 to level i. A row that lands on the data has no variance,
    and the model one of its decoder: `small` of row 1 stands in for that of row 0, as in
    [IDDPM]; `large`, if there is no row 1.
    """
    rows = posterior(at=levels[1:], to=levels[:-1])
    count = rows.small.shape[0]
    next_row = np.minimum(np.arange(count) + 1, count - 1)
    instead = rows.small[next_row] if count > 1 else rows.large
    small = rows.small + rows.lands * instead
    return Posterior(rows.c_x0, rows.c_x, small, rows.large, rows.lands)


@runtime_checkable
class Variance(Protocol):
    """The variance of a model's step: (Posterior, network's v or None) -> its logarithm.

    v is `Denoised.variance`, [B, ...]; the result broadcasts against x.
    """

    def __call__(self, between: Posterior, v: Any) -> Float[Array, "..."]:
        """ln variance of the step, from its posterior and the network's v [B, ...]."""
        ...


@dataclass(frozen=True)
@checked
class SmallVariance:
    """ln small: exact where the data are one point.

    >>> step = posterior(NoiseLevel(0.0, 1.0), to=NoiseLevel(0.8, 0.6))
    >>> round(float(jnp.exp(SmallVariance()(step))), 4)  # 0.6^2
    0.36
    """

    def __call__(self, between: Posterior, v: Any = None) -> Float[Array, "..."]:
        return _log(between.small)


@dataclass(frozen=True)
@checked
class LargeVariance:
    """ln large, exact where x0 ~ N(0, I); ln small on the data, for a sharper decoder.

    >>> step = posterior(NoiseLevel(0.0, 1.0), to=NoiseLevel(0.8, 0.6))
    >>> float(jnp.exp(LargeVariance()(step)))  # 0.8^2 + 0.6^2
    1.0
    """

    def __call__(self, between: Posterior, v: Any = None) -> Float[Array, "..."]:
        return _log(jnp.where(between.lands, between.small, between.large))


@dataclass(frozen=True)
@checked
class LearnedVariance:
    """f ln large + (1 - f) ln small, f = (v + 1) / 2 [IDDPM eq. 15].

    v is the network's output, unbounded: -1 is `small` and +1 is `large`.
    Being a rule between two levels, it holds on any grid of steps.

    >>> step = posterior(NoiseLevel(0.0, 1.0), to=NoiseLevel(0.8, 0.6))
    >>> round(float(jnp.exp(LearnedVariance()(step, v=0.0))), 4)  # their geometric mean
    0.6
    """

    def __call__(self, between: Posterior, v: Any) -> Float[Array, "..."]:
        if v is None:
            raise ValueError(
                "LearnedVariance needs a network with a variance head: set "
                "network.learned_variance = True, or use SmallVariance or LargeVariance"
            )
        f = (v + 1) / 2
        return f * _log(between.large) + (1 - f) * _log(between.small)


def _square(level: NoiseLevel) -> Any:
    return level.alpha**2 + level.sigma**2


def _log(variance: Any) -> Float[Array, "..."]:
    """ln, finite at 0."""
    variance = jnp.asarray(variance)
    return jnp.log(jnp.maximum(variance, jnp.finfo(variance.dtype).tiny))
