"""Loss terms: (Denoised, Noised) -> [B], a mean over the elements of each image.

Frozen values rather than closures, so that an experiment can be saved with its loss:

    WeightedError(w)         w(at) (D(x) - x0)^2
    Uncertain(term)          term exp(-u) + u,  u the learned log-variance [EDM2 eq. 14]
    VariationalBound(table)  one term of the bound on -log p(x0), in bits/dim [IDDPM eq. 4]
    LevelLikelihood()        -ln p(ln(sigma / alpha) | x), an estimator's [NAG]
    CrossEntropy()           -ln p(label | x), a classifier's [ADM]
    Total(((a, term), ...))  a term + ...

Improved DDPM's objectives, T the table's number of steps:

    L_simple     WeightedError(UniformOnNetwork(Eps()))
    L_hybrid     Total(((1.0, L_simple), (T / 1000, VariationalBound(table))))
    L_vlb        Total(((T, VariationalBound(table, stop_mean=False)),))
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.objectives.weightings import weight_of_each
from jaxdiff.schedules import Table
from jaxdiff.schedules.posterior import (
    LearnedVariance,
    Posterior,
    SmallVariance,
    Variance,
    chain,
)
from jaxdiff.types import Denoised, LossTerm, Noised, NoiseLevel, Weighting
from jaxdiff.types.ranges import Finite, Items, Limit, checked

Elements = Float[Array, "B ..."]
"""A number of each element of each image."""

LogVariance = Float[Array, "..."]
"""A log-variance that broadcasts against the elements."""


@dataclass(frozen=True)
@checked
class WeightedError:
    """The squared x0 error, weighted by the level it was made at.

    >>> from jaxdiff.objectives.weightings import MinSNR
    >>> at, zero = NoiseLevel(*jnp.full((2, 2, 1), 0.6)), jnp.zeros((2, 3))
    >>> noised = Noised(zero, zero, zero, 0.5, at)  # two images, of SNR 1
    >>> WeightedError(MinSNR(5.0))(Denoised(zero + 2.0), noised).tolist()
    [4.0, 4.0]

    Raises:
        ValueError: the weights are not shaped as the level.
    """

    weighting: Weighting

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        weight = weight_of_each(self.weighting, noised.at)
        return _per_image(weight * (denoised.x0 - noised.x0) ** 2)


@dataclass(frozen=True)
@checked
class Uncertain:
    """A term balanced by its own learned log-variance u(level) [EDM2 eq. 14].

    At the optimum u is the log of the term's expectation at that level, so that every
    level contributes alike. Needs a network with an uncertainty head.

    >>> from jaxdiff.objectives.weightings import MinSNR
    >>> at, zero = NoiseLevel(*jnp.full((2, 2, 1), 0.6)), jnp.zeros((2, 3))
    >>> noised = Noised(zero, zero, zero, 0.5, at)  # two images, of SNR 1
    >>> certain = Denoised(zero + 2.0, uncertainty=jnp.log(jnp.full(2, 4.0)))
    >>> loss = Uncertain(WeightedError(MinSNR(5.0)))(certain, noised)
    >>> round(float(loss[0]), 3)  # 4 / 4 + ln 4, the least for an error of 4
    2.386
    """

    of: LossTerm

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        if denoised.uncertainty is None:
            raise ValueError(
                "Uncertain needs a network with an uncertainty head: set "
                "network.uncertainty = True, or use the term without Uncertain"
            )
        u = denoised.uncertainty
        return self.of(denoised, noised) * jnp.exp(-u) + u


@dataclass(frozen=True)
@checked
class Total:
    """A weighted sum of terms.

    >>> from jaxdiff.objectives.weightings import MinSNR
    >>> at, zero = NoiseLevel(*jnp.full((2, 2, 1), 0.6)), jnp.zeros((2, 3))
    >>> noised = Noised(zero, zero, zero, 0.5, at)  # two images, of SNR 1
    >>> term = WeightedError(MinSNR(5.0))
    >>> Total(((2.0, term), (0.5, term)))(Denoised(zero + 2.0), noised).tolist()
    [10.0, 10.0]
    """

    terms: Annotated[tuple[tuple[Finite, LossTerm], ...], Items(1, 100)]

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        return sum(scale * term(denoised, noised) for scale, term in self.terms)


@runtime_checkable
class Decoder(Protocol):
    """-ln p(x0 | x_1) of each element in nats: (x0, mean, log-variance) -> [B, ...]."""

    def __call__(self, x0: Elements, mean: Elements, log_variance: LogVariance) -> Elements:
        """-ln p(x0 | x_1) of each element, in nats."""
        ...


@dataclass(frozen=True)
@checked
class PixelDecoder:
    """The mass of N(mean, variance) in x0's bin, for 256 values in [-1, 1] [DDPM eq. 13].

    Bins are 2 / 255 wide and the two at the ends go on for ever. Phi is
    (1 + tanh(sqrt(2 / pi) (y + 0.044715 y^3))) / 2, and no mass is below 1e-12.
    """

    def __call__(self, x0: Elements, mean: Elements, log_variance: LogVariance) -> Elements:
        scale = jnp.exp(-log_variance / 2)
        centre, half = scale * (x0 - mean), scale / 255
        # both tails from the side where Phi is small, which loses no digits
        mass = _phi(half - jnp.abs(centre)) - _phi(-half - jnp.abs(centre))
        mass = jnp.where(x0 < -0.999, _phi(half + centre), mass)
        mass = jnp.where(x0 > 0.999, _phi(half - centre), mass)
        return -jnp.log(jnp.maximum(mass, 1e-12))


@dataclass(frozen=True)
@checked
class DensityDecoder:
    """The density of N(mean, variance) at x0, for data that have one."""

    def __call__(self, x0: Elements, mean: Elements, log_variance: LogVariance) -> Elements:
        square = (x0 - mean) ** 2 * jnp.exp(-log_variance)
        return (math.log(2 * math.pi) + log_variance + square) / 2


def bound_term(
    denoised: Denoised,
    x0: Elements,
    between: Posterior,
    variance: Variance,
    decoder: Decoder,
) -> Float[Array, " B"]:
    """The bound's term of one step, in bits/dim [IDDPM eq. 5-7].

    KL(q(x_to | x, x0) || N(mean at D, variance)), or the decoder's -ln p(x0 | x) where the
    step lands on the data. Both are finite in value and gradient at every level.
    """
    log_variance = variance(between, denoised.variance)
    gap = between.c_x0 * (x0 - denoised.x0)
    log_ratio = SmallVariance()(between) - log_variance
    excess = jnp.expm1(log_ratio) - log_ratio  # of close variances, its digits kept
    kl = (excess + gap**2 * jnp.exp(-log_variance)) / 2
    nll = decoder(x0, denoised.x0, log_variance)
    return _per_image(jnp.where(between.lands, nll, kl)) / math.log(2)


@dataclass(frozen=True)
@checked
class LevelLikelihood:
    """(ln v + (u - m)^2 / v) / 2, u = ln(sigma / alpha), the network predicting N(m, v).

    u is held to +-limit, beyond which nothing of the data, or of the noise, can be seen.
    """

    limit: Limit = 10.0

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        if denoised.level is None:
            raise ValueError(
                "LevelLikelihood trains a networks.LevelEstimator, but this network has no "
                "level output: wrap it, networks.LevelEstimator(backbone)"
            )
        u = jnp.clip(-noised.at.logsnr / 2, -self.limit, self.limit).reshape(-1)
        mean, log_variance = jnp.moveaxis(denoised.level, -1, 0)
        return (log_variance + (u - mean) ** 2 * jnp.exp(-log_variance)) / 2


@dataclass(frozen=True)
@checked
class CrossEntropy:
    """-ln p(label | x), in nats, of a network that says the class at every level [ADM].

    An image without a label, -1, teaches nothing: its term is 0.
    """

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        if denoised.logits is None:
            raise ValueError(
                "CrossEntropy trains a networks.Classifier, but this network says no "
                "class: wrap it, networks.Classifier(backbone)"
            )
        if noised.label is None:
            raise ValueError(
                "CrossEntropy needs the labels of the images: give Noised its label"
            )
        known = jax.nn.one_hot(noised.label, denoised.logits.shape[-1])
        return -(known * jax.nn.log_softmax(denoised.logits)).sum(-1)


@dataclass(frozen=True)
@checked
class VariationalBound:
    """One term of the bound on -log p(x0) for a table, in bits/dim [IDDPM eq. 4-7].

    For entry i = t T - 1: KL for i > 0, the decoder's for i = 0, no prior; its mean over
    the T entries, times T, is the bound less the prior. t is rounded to the nearest entry,
    so draw it from the entries. With `stop_mean` no gradient goes to x0, so that the bound
    trains the variance alone. With `clip` x0 is held to [-1, 1], as sampling and evaluation
    hold it; [IDDPM] does not in training.

    >>> from jaxdiff.schedules import CosineBetas
    >>> bound = VariationalBound(Table(CosineBetas(steps=100)))
    >>> bound.table.steps, bound.variance == LearnedVariance()
    (100, True)
    """

    table: Table
    variance: Variance = LearnedVariance()
    decoder: Decoder = PixelDecoder()
    stop_mean: bool = True
    clip: bool = False

    def __call__(self, denoised: Denoised, noised: Noised) -> Float[Array, " B"]:
        rows = _rows(self.table)
        count = rows.small.size
        entry = jnp.round(jnp.asarray(noised.t) * count).astype(jnp.int32) - 1
        entry = jnp.clip(entry, 0, count - 1)
        between = jax.tree.map(lambda row: jnp.asarray(row)[entry], rows)
        x0 = jax.lax.stop_gradient(denoised.x0) if self.stop_mean else denoised.x0
        x0 = jnp.clip(x0, -1, 1) if self.clip else x0
        denoised = Denoised(x0, denoised.variance, denoised.uncertainty)
        return bound_term(denoised, noised.x0, between, self.variance, self.decoder)


@lru_cache(maxsize=64)
def _rows(table: Table) -> Posterior:
    """The table's steps in float64, row i from its entry i; level 0 is the data."""
    alpha_bar = np.r_[1.0, np.cumprod(1 - table.betas())]
    return chain(NoiseLevel(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)))


def _phi(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """The normal CDF, nearly: (1 + tanh(z)) / 2 is sigmoid(2 z), exact in the lower tail.

    Beyond 10 it is 0 or 1 to any precision, and y^3 must not overflow.
    """
    y = jnp.clip(y, -10, 10)
    return jax.nn.sigmoid(2 * math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))


def _per_image(elements: Elements) -> Float[Array, " B"]:
    return jnp.mean(elements, axis=tuple(range(1, elements.ndim)))
