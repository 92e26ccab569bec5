"""Loss weightings, each once, as a weight on the squared x0 error.

Since every prediction is affine in x0 at fixed x, a weight w_F on the error of a
network's output F is the weight w_F / c_out^2 on the x0 error, whatever F is. So

    a weighting published for   is the weight on x0
    eps                         SNR w_eps
    v (variance-preserving)     (SNR + 1) w_v
    F of EDM                    w_F (alpha^2 sigma_data^2 + sigma^2) / (sigma sigma_data)^2

and trains the same thing under every parameterization. SNR is held to
[e^-40, e^40] so that weight times error stays finite at both ends of every path.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import NoiseLevel, Parameterization

LIMIT = 40.0
"""Bound on |logsnr| inside weightings, in nats."""


@dataclass(frozen=True)
class UniformOnNetwork:
    """Weight 1 on the network's own output: 1 / c_out^2.

    `UniformOnNetwork(EDM(0.5))` is EDM's lambda(sigma), `UniformOnNetwork(Eps())` is
    L_simple of [DDPM], `UniformOnNetwork(Flow())` the plain flow-matching loss.
    """

    parameterization: Parameterization

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        c_out = self.parameterization(at).c_out
        return 1 / jnp.maximum(c_out**2, jnp.exp(-LIMIT))


@dataclass(frozen=True)
class UniformOnX0:
    """Weight 1 on the x0 error."""

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return jnp.ones_like(at.sigma)


@dataclass(frozen=True)
class Debias:
    """1 / sqrt(SNR) on the eps error, so sqrt(SNR) on the x0 error [Debias]."""

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return jnp.sqrt(_snr(at))


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) on the x0 error [MinSNR]."""

    gamma: float = 5.0

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return jnp.minimum(_snr(at), self.gamma)


def _snr(at: NoiseLevel) -> Float[Array, "..."]:
    floor = jnp.exp(-LIMIT / 2)
    sigma = jnp.maximum(at.sigma, at.alpha * floor)
    alpha = jnp.maximum(at.alpha, at.sigma * floor)
    return (alpha / sigma) ** 2
