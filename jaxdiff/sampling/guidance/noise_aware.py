"""Noise awareness guidance by an estimator of the noise level [NAG].

score_w = score + w grad_x ln g(u | x),  u = ln(sigma / alpha) = -logsnr / 2, so that

    D_w = (x + sigma^2 score_w) / alpha = D + w (sigma^2 / alpha) grad_x ln g(u | x)

with g(u | x) = N(u; mean(x), exp(logvar(x))). u is the same on every ray, and noise in n
dimensions tells it to 1 / sqrt(2 n) at every level. But x is what the sampler holds, and
its marginal over levels, hence g, is another on another path: sample on the path that the
estimator was trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxdiff.denoisers import during, initial
from jaxdiff.sampling.guidance.weights import Switch, Weight, decided, value
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, Denoiser, NoiseLevel
from jaxdiff.types.arguments import require_denoiser

LevelEstimator = Callable[
    [Float[Array, "B ..."]], tuple[Float[Array, " B"], Float[Array, " B"]]
]
"""x [B, ...] -> (mean, logvar) of u = ln(sigma / alpha), both [B]; it knows no level."""


@dataclass(frozen=True, eq=False)
class NoiseAware:
    """D + w (sigma^2 / alpha) grad_x ln g(u | x); made by `noise_aware`."""

    denoise: Denoiser
    estimator: LevelEstimator
    w: Weight

    def __call__(
        self, x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        out, level = self.denoise(x, at, cond), jax.tree.map(jnp.asarray, at)
        w = jnp.where(level.alpha == 0, 0, value(self.w, at))
        level = NoiseLevel(jnp.where(w == 0, 1, level.alpha), level.sigma)
        ascend = lambda: out.x0 + w * _ascent(self.estimator, x, level)
        if isinstance(self.w, Switch) and not self.w.on.ndim:
            return replace(out, x0=jax.lax.cond(self.w.on, ascend, lambda: out.x0))
        return replace(out, x0=ascend())

    def init(self, x: Float[Array, "B ..."]) -> PyTree:
        return initial(self.denoise, x)

    def during(self, at: NoiseLevel, to: NoiseLevel, memory: PyTree) -> "NoiseAware":
        inner = during(self.denoise, at, to, memory)
        return NoiseAware(inner, self.estimator, decided(self.w, at, to))


def noise_aware(denoise: Denoiser, estimator: LevelEstimator, w: Weight) -> NoiseAware:
    """Guidance towards states whose estimated noise level is the level they have [NAG].

    w is 0 at alpha = 0. The rule has a pole there, and x is pure noise, which no step
    before it can have made too noisy or too clean.
    """
    require_denoiser(denoise)
    return NoiseAware(denoise, estimator, w)


def _ascent(
    estimator: LevelEstimator, x: Float[Array, "B ..."], at: NoiseLevel
) -> Float[Array, "B ..."]:
    """(sigma^2 / alpha) grad_x ln g(u | x)."""
    u = -at.logsnr / 2

    def log_density(x: Float[Array, "B ..."]) -> Float[Array, ""]:
        mean, logvar = estimator(x)
        error = jnp.reshape(u, (-1,)) - mean
        return -(logvar + error**2 * jnp.exp(-logvar)).sum() / 2

    return at.sigma**2 / at.alpha * jax.grad(log_density)(x)
