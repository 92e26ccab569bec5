"""Noise awareness guidance by an estimator of the noise level [NAG].

score_w = score + w grad_x ln g(u | x),  u = ln(sigma / alpha) = -logsnr / 2, so that

    D_w = (x + sigma^2 score_w) / alpha = D + w (sigma^2 / alpha) grad_x ln g(u | x)

with g(u | x) = N(u; mean(x), exp(logvar(x))). u is the same on every ray, and noise in n
dimensions determines it to 1 / sqrt(2 n) at every level. But the marginal of x over levels,
and so g, depends on the path: sample on the path that the estimator was trained on.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.sampling.guidance.guide import Guided, guide
from jaxdiff.sampling.guidance.less_likely import LogProb, less_likely
from jaxdiff.sampling.guidance.weights import Weight
from jaxdiff.sampling.signature import State
from jaxdiff.types import Condition, Denoiser, NoiseLevel
from jaxdiff.types.arguments import require_denoiser

LevelEstimator = Callable[[State], tuple[Float[Array, " B"], Float[Array, " B"]]]
"""x [B, ...] -> (mean, logvar) of u = ln(sigma / alpha), both [B]; takes no level."""


def noise_aware(denoise: Denoiser, estimator: LevelEstimator, w: Weight) -> Guided:
    """Guidance towards states whose estimated noise level is the nominal one [NAG].

    It does nothing at alpha = 0, where x is pure noise and no earlier step can have made
    it too noisy or too clean.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> says = lambda x: (jnp.zeros(len(x)), jnp.zeros(len(x)))  # sigma / alpha = 1, always
    >>> toy = noise_aware(gaussian_denoiser(1.0, 0.5), says, 1.0)
    >>> x0 = toy(jnp.zeros((1, 2)), NoiseLevel(1.0, 0.5)).x0
    >>> x0.tolist()  # no state is more likely than another, so nothing changes
    [[0.5, 0.5]]
    """
    require_denoiser(denoise)
    return guide(denoise, (less_likely(level_log_prob(estimator)), w))


def level_log_prob(estimator: LevelEstimator) -> LogProb:
    """ln g(u | x), without the constant -ln(2 pi) / 2.

    >>> says = lambda x: (jnp.zeros(len(x)), jnp.zeros(len(x)))  # sigma / alpha = 1, always
    >>> x, at = jnp.zeros((1, 2)), NoiseLevel(1.0, jnp.e)
    >>> log_prob = level_log_prob(says)(x, at, Condition())
    >>> round(float(log_prob[0]), 4)  # 1 off, with a variance of 1
    -0.5
    """

    def log_prob(x: State, at: NoiseLevel, cond: Condition) -> Float[Array, " B"]:
        mean, logvar = estimator(x)
        error = jnp.reshape(-at.logsnr / 2, (-1,)) - mean
        return -(logvar + error**2 * jnp.exp(-logvar)) / 2

    return log_prob
