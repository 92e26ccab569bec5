"""Solvers that remember nothing from step to step.

Along any path dx = D d(alpha) + eps_hat d(sigma), eps_hat = (x - alpha D) / sigma. One
step from (alpha, sigma) to (alpha', sigma'):

    left endpoint     x' = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) D

which is DDIM on a variance-preserving path, Euler on EDM's and on the rectified flow.
It is exact arithmetic at alpha = 0 and at sigma' = 0, where it returns alpha' D.

    trapezoid         x' = x + (D + D') (alpha' - alpha)/2 + (eps + eps') (sigma' - sigma)/2

which is Heun's rule, with D' and eps' at the left-endpoint step's end.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxdiff.parameterizations import eps_from_x0
from jaxdiff.types import Denoised, NoiseLevel, pytree

Denoise = Callable[[Float[Array, "B ..."], NoiseLevel], Denoised]
"""A denoiser with its condition already given."""


@pytree
class Interval:
    """One step's two levels."""

    at: NoiseLevel
    to: NoiseLevel


@dataclass(frozen=True)
class Euler:
    """The left-endpoint rule, order 1, N evaluations: DDIM, Euler, flow Euler."""

    def init(self, x: Float[Array, "B ..."], levels: NoiseLevel) -> tuple[PyTree, Interval]:
        return (), _intervals(levels)

    def step(
        self,
        denoise: Denoise,
        x: Float[Array, "B ..."],
        memory: PyTree,
        row: Interval,
        noise: Float[Array, "B ..."],
    ) -> tuple[Float[Array, "B ..."], PyTree]:
        return _left_endpoint(x, denoise(x, row.at).x0, row.at, row.to), memory


@dataclass(frozen=True)
class Heun:
    """The trapezoid rule, order 2, 2 N - 1 evaluations when it lands on the data.

    With churn > 0 each step first adds noise, up to sqrt(2) times the level, where
    churn_min <= sigma / alpha <= churn_max: EDM's stochastic sampler [EDM alg. 2].
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = math.inf
    churn_noise: float = 1.0

    def __post_init__(self) -> None:
        if self.churn < 0:
            raise ValueError(f"churn must not be negative, got {self.churn}")

    def init(
        self, x: Float[Array, "B ..."], levels: NoiseLevel
    ) -> tuple[PyTree, tuple[Interval, Float[Array, " N"]]]:
        row = _intervals(levels)
        gamma = min(self.churn / row.at.sigma.shape[0], math.sqrt(2) - 1)
        ratio = row.at.sigma / row.at.alpha
        churned = (self.churn_min <= ratio) & (ratio <= self.churn_max)
        gamma = jnp.where(churned, gamma, 0.0)
        added = row.at.sigma * jnp.sqrt(gamma * (2 + gamma)) * self.churn_noise
        up = NoiseLevel(row.at.alpha, row.at.sigma * (1 + gamma))
        return (), (Interval(up, row.to), added)

    def step(
        self,
        denoise: Denoise,
        x: Float[Array, "B ..."],
        memory: PyTree,
        row: tuple[Interval, Float[Array, ""]],
        noise: Float[Array, "B ..."],
    ) -> tuple[Float[Array, "B ..."], PyTree]:
        levels, added = row
        at, to = levels.at, levels.to
        x = x + added * noise
        x0 = denoise(x, at).x0
        euler = _left_endpoint(x, x0, at, to)

        def corrected() -> Float[Array, "B ..."]:
            x0_to = denoise(euler, to).x0
            eps, eps_to = eps_from_x0(x, x0, at), eps_from_x0(euler, x0_to, to)
            along = (x0 + x0_to) * (to.alpha - at.alpha)
            return x + (along + (eps + eps_to) * (to.sigma - at.sigma)) / 2

        return jax.lax.cond(to.sigma > 0, corrected, lambda: euler), memory


@dataclass(frozen=True)
class DDIM:
    """The left-endpoint rule with part of eps_hat replaced by fresh noise [DDIM eq. 12].

    s = eta (sigma'/sigma) sqrt(sigma^2 - sigma'^2 alpha^2/alpha'^2),
    x' = alpha' D + sqrt(sigma'^2 - s^2) eps_hat + s noise.
    eta = 0 is `Euler`; eta = 1 is ancestral sampling with [DDPM]'s smaller variance.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1], got {self.eta}")

    def init(
        self, x: Float[Array, "B ..."], levels: NoiseLevel
    ) -> tuple[PyTree, tuple[Interval, Float[Array, " N"]]]:
        row = _intervals(levels)
        at, to = row.at, row.to
        kept = (to.sigma * at.alpha) / (at.sigma * to.alpha)
        fresh = self.eta * to.sigma * jnp.sqrt(jnp.maximum(1 - kept**2, 0))
        return (), (row, fresh)

    def step(
        self,
        denoise: Denoise,
        x: Float[Array, "B ..."],
        memory: PyTree,
        row: tuple[Interval, Float[Array, ""]],
        noise: Float[Array, "B ..."],
    ) -> tuple[Float[Array, "B ..."], PyTree]:
        levels, fresh = row
        down = NoiseLevel(levels.to.alpha, jnp.sqrt(levels.to.sigma**2 - fresh**2))
        x0 = denoise(x, levels.at).x0
        return _left_endpoint(x, x0, levels.at, down) + fresh * noise, memory


def _left_endpoint(
    x: Float[Array, "B ..."],
    x0: Float[Array, "B ..."],
    at: NoiseLevel,
    to: NoiseLevel,
) -> Float[Array, "B ..."]:
    ratio = to.sigma / at.sigma
    return ratio * x + (to.alpha - at.alpha * ratio) * x0


def _intervals(levels: NoiseLevel) -> Interval:
    return Interval(levels[:-1], levels[1:])
