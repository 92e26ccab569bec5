"""Guidance towards higher probability: classifiers, and any other log p(x).

With score_w = score + w grad_x ln p(x) and D = (x + sigma^2 score) / alpha,

    D_w = D + w (sigma^2 / alpha) grad_x ln p(x),

which is `guide(D, (less_likely(log_prob), w))`: guidance away from the denoiser

    D_i = D - (sigma^2 / alpha) grad_x ln p(x)

of data that are less likely under p, so weights, intervals and rules apply as to all
guidance. With the p(y | x) of a noise-conditional classifier, this is the deterministic
form of classifier guidance [ADM alg. 2] with scale w. The exact p(y | x) and w = 1 turn an
unconditional denoiser into the class-conditional one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxdiff.schedules.posterior import Posterior, Variance, posterior
from jaxdiff.types import Condition, Denoised, NoiseLevel

LogProb = Callable[[Float[Array, "B ..."], NoiseLevel, Condition], Float[Array, " B"]]
"""(x [B, ...], level, condition) -> ln p of each image [B], in nats up to a constant."""

Logits = Callable[[Float[Array, "B ..."], NoiseLevel], Float[Array, "B classes"]]
"""(x [B, ...], level) -> unnormalised log-probabilities of the classes [B, classes]."""


@dataclass(frozen=True)
class LessLikely:
    """A weaker denoiser for `guide`, made from the denoiser that it guides.

    >>> normal = LessLikely(lambda x, at, cond: -(x**2).sum(-1) / 2)
    >>> zero, x = Denoised(jnp.zeros((1, 1))), jnp.full((1, 1), 3.0)
    >>> normal(zero, x, NoiseLevel(1.0, 2.0), Condition()).x0.tolist()  # 0 + 2^2 / 1 * 3
    [[12.0]]
    """

    log_prob: LogProb
    variance: Variance | None = None
    between: Posterior | None = None
    """The posterior of the current step; None outside a sampler."""

    def __call__(
        self, first: Denoised, x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition
    ) -> Denoised:
        """D_i, where `first` is the output of the guided denoiser."""
        at = jax.tree.map(jnp.asarray, at)
        idle = (at.alpha == 0) | (at.sigma == 0)
        level = jax.tree.map(lambda a: jnp.where(idle, 1, a), at)
        slope = jax.grad(lambda x: self.log_prob(x, level, cond).sum())(x)
        amount = jnp.where(idle, 0, self._amount(level, first))
        return Denoised(first.x0 - amount * slope)

    def init(self, x: Float[Array, "B ..."]) -> PyTree:
        return ()

    def during(self, at: NoiseLevel, to: NoiseLevel, memory: PyTree) -> "LessLikely":
        return self if self.variance is None else replace(self, between=posterior(at, to))

    def _amount(self, at: NoiseLevel, first: Denoised) -> Float[Array, "..."]:
        """The factor of the gradient."""
        if self.variance is None:
            return at.sigma**2 / at.alpha
        if self.between is None:
            raise ValueError(
                "less_likely with a variance moves each step by the step's own: sample "
                "with it, or tell the step with during(denoise, at, to)"
            )
        shift = jnp.exp(self.variance(self.between, first.variance)) / self.between.c_x0
        return jnp.where(self.between.lands, 0, shift)


def less_likely(log_prob: LogProb, variance: Variance | None = None) -> LessLikely:
    """The denoiser of data less likely under `log_prob`, for `guide` to point away from.

    At alpha = 0, where the rule has a pole and x is pure noise, and at sigma = 0 it equals
    the guided denoiser. Steps outside an `Interval` do not call log_prob.

    With the `variance` of `Ancestral`, the mean of each of its steps is shifted by
    w variance grad_x ln p instead, as for ADM's published ancestral samples [ADM alg. 1].
    In the limit of small steps both agree. The last step, whose variance is 0, is not
    shifted.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.sampling.guidance import guide, less_likely
    >>> bright = lambda x, at, cond: x.sum(1)  # grad ln p = 1
    >>> guided = guide(gaussian_denoiser(0.0, 1.0), (less_likely(bright), 2.0))
    >>> guided(jnp.zeros((1, 2)), NoiseLevel(0.5, 1.0)).x0
    Array([[4., 4.]], dtype=float32)
    """
    return LessLikely(log_prob, variance)


def class_log_prob(logits: Logits) -> LogProb:
    """ln p(label | x) of a classifier; 0 where the label is withheld.

    Labels in rows of weights [B, classes] give the weighted sum of ln p.

    >>> certain = class_log_prob(lambda x, at: jnp.asarray([[0.0, jnp.log(3.0)]]))
    >>> label = Condition(label=jnp.asarray([1]))
    >>> jnp.exp(certain(jnp.zeros((1, 1)), NoiseLevel(1.0, 1.0), label))
    Array([0.75], dtype=float32)
    """

    def log_prob(
        x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition
    ) -> Float[Array, " B"]:
        if cond.label is None:
            return jnp.zeros(x.shape[0], x.dtype)
        each = jax.nn.log_softmax(logits(x, at))
        label, classes = jnp.asarray(cond.label), each.shape[-1]
        weights = label if label.ndim == 2 else jax.nn.one_hot(label, classes)
        return (weights * each).sum(-1)

    return log_prob
