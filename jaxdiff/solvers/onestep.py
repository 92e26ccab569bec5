"""Solvers that remember nothing from step to step.

Along any path dx = D d(alpha) + eps_hat d(sigma), eps_hat = (x - alpha D) / sigma. One
step from (alpha, sigma) to (alpha', sigma'):

    left endpoint     x' = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) D

which is DDIM on a variance-preserving path, Euler on EDM's and on the rectified flow.
It is exact arithmetic at alpha = 0 and at sigma' = 0, where it returns alpha' D.

    trapezoid         x' = x + (D + D') (alpha' - alpha)/2 + (eps + eps') (sigma' - sigma)/2

which is Heun's rule, with D' at the left-endpoint step's end y. There eps' is
(y - alpha' D') / sigma', so that the rule is one correction of y,

    trapezoid         x' = y + (alpha' sigma/sigma' - alpha) (D' - D) / 2
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxdiff.ranges import Fraction, NonNegative, Range, checked
from jaxdiff.types import Denoised, Leaf, NoiseLevel, pytree

Denoise = Callable[[Float[Array, "B ..."], NoiseLevel], Denoised]
"""A denoiser with its condition already given."""

Noise = Callable[[int], Float[Array, "B ..."]]
"""A step's unit normal draws: noise(0), noise(1) if it needs another, ..."""


@pytree
class Interval:
    """One step's two levels."""

    at: NoiseLevel
    to: NoiseLevel


@dataclass(frozen=True)
@checked
class Euler:
    """The left-endpoint rule, order 1, N evaluations: DDIM, Euler, flow Euler.

    It is DPM-Solver++ and LMS of order 1 as well. With churn it is the stochastic sampler
    of [EDM alg. 2] without its correction; the fields are those of `Heun`.
    """

    churn: NonNegative = 0.0
    churn_min: NonNegative = 0.0
    churn_max: Annotated[float, Range(0, infinite=True)] = math.inf
    churn_noise: NonNegative = 1.0

    def __post_init__(self) -> None:
        _check_churn(self)

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(
        self, x: Float[Array, "B ..."], levels: NoiseLevel
    ) -> tuple[PyTree, tuple[Interval, Float[Array, " N"]]]:
        return (), _churned(self, levels)

    def step(
        self,
        denoise: Denoise,
        x: Float[Array, "B ..."],
        memory: PyTree,
        row: tuple[Interval, Float[Array, ""]],
        noise: Noise,
    ) -> tuple[Float[Array, "B ..."], PyTree, Denoised]:
        levels, added = row
        x = x + added * noise(0) if self.churn else x
        first = denoise(x, levels.at)
        return left_endpoint(x, first.x0, levels.at, levels.to), memory, first


@dataclass(frozen=True)
@checked
class Heun:
    """The trapezoid rule, order 2, 2 N - 1 evaluations when it lands on the data.

    With churn > 0 each step first adds noise, up to sqrt(2) times the level, where
    churn_min <= sigma / alpha <= churn_max: EDM's stochastic sampler [EDM alg. 2].
    """

    churn: NonNegative = 0.0
    churn_min: NonNegative = 0.0
    churn_max: Annotated[float, Range(0, infinite=True)] = math.inf
    churn_noise: NonNegative = 1.0

    def __post_init__(self) -> None:
        _check_churn(self)

    def evaluations(self, lands: bool) -> int:
        return 1 if lands else 2

    def init(
        self, x: Float[Array, "B ..."], levels: NoiseLevel
    ) -> tuple[PyTree, tuple[Interval, Float[Array, " N"], Float[Array, " N"]]]:
        row, added = _churned(self, levels)
        return (), (row, _trapezoid(row), added)

    def step(
        self,
        denoise: Denoise,
        x: Float[Array, "B ..."],
        memory: PyTree,
        row: tuple[Interval, Float[Array, ""], Float[Array, ""]],
        noise: Noise,
    ) -> tuple[Float[Array, "B ..."], PyTree, Denoised]:
        levels, correction, added = row
        at, to = levels.at, levels.to
        x = x + added * noise(0) if self.churn else x
        first = denoise(x, at)
        euler = left_endpoint(x, first.x0, at, to)
        corrected = lambda: euler + correction * (denoise(euler, to).x0 - first.x0)
        return jax.lax.cond(to.sigma > 0, corrected, lambda: euler), memory, first


@dataclass(frozen=True)
@checked
class DDIM:
    """The left-endpoint rule with part of eps_hat replaced by fresh noise [DDIM eq. 12].

    s = eta (sigma'/sigma) sqrt(sigma^2 - sigma'^2 alpha^2/alpha'^2),
    x' = alpha' D + sqrt(sigma'^2 - s^2) eps_hat + s noise.
    eta = 0 is `Euler`; eta = 1 is ancestral sampling with [DDPM]'s smaller variance, which
    is Euler ancestral of k-diffusion and the SDE form of DPM-Solver++ of order 1, each on
    any path.
    """

    eta: Fraction = 1.0

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(
        self, x: Float[Array, "B ..."], levels: NoiseLevel
    ) -> tuple[PyTree, tuple[Interval, Float[Array, " N"]]]:
        row = intervals(levels)
        down, fresh = split(row.at, row.to, self.eta)
        return (), (Interval(row.at, down), fresh)

    def step(
        self,
        denoise: Denoise,
        x: Float[Array, "B ..."],
        memory: PyTree,
        row: tuple[Interval, Float[Array, ""]],
        noise: Noise,
    ) -> tuple[Float[Array, "B ..."], PyTree, Denoised]:
        levels, fresh = row
        first = denoise(x, levels.at)
        x = left_endpoint(x, first.x0, levels.at, levels.to)
        x = x + fresh * noise(0) if self.eta else x
        return x, memory, first


def split(at: NoiseLevel, to: NoiseLevel, eta: float) -> tuple[NoiseLevel, Leaf]:
    """`to` with part of its noise taken out, and the std s that replaces it [DDIM].

    s = eta (sigma'/sigma) sqrt(sigma^2 - sigma'^2 alpha^2/alpha'^2); the rest of sigma'^2
    stays. Where alpha' = 0 nothing is replaced.
    """
    below = at.sigma * to.alpha
    q = jnp.where(below > 0, to.sigma * at.alpha / jnp.where(below > 0, below, 1), 1)
    q = jnp.minimum(q, 1)
    fresh = eta * to.sigma * root(1 - q**2)
    # sqrt(sigma'^2 - s^2), as a sum of squares that rounding cannot make negative
    down = to.sigma * jnp.hypot(math.sqrt(1 - eta**2), eta * q)
    return NoiseLevel(to.alpha, down), fresh


def root(a: Float[Array, "..."]) -> Float[Array, "..."]:
    """sqrt(a), of slope 0 at 0."""
    return jnp.where(a > 0, jnp.sqrt(jnp.where(a > 0, a, 1)), 0)


def left_endpoint(
    x: Float[Array, "B ..."],
    x0: Float[Array, "B ..."],
    at: NoiseLevel,
    to: NoiseLevel,
) -> Float[Array, "B ..."]:
    """(sigma'/sigma) x + (alpha' - alpha sigma'/sigma) D."""
    ratio = to.sigma / at.sigma
    return ratio * x + (to.alpha - at.alpha * ratio) * x0


def _churned(
    solver: Euler | Heun, levels: NoiseLevel
) -> tuple[Interval, Float[Array, " N"]]:
    """The steps from the levels that churn leads up to, and the noise it adds."""
    row = intervals(levels)
    gamma = min(solver.churn / max(row.at.sigma.shape[0], 1), math.sqrt(2) - 1)
    ratio = row.at.sigma / row.at.alpha
    churned = (solver.churn_min <= ratio) & (ratio <= solver.churn_max)
    gamma = jnp.where(churned, gamma, 0.0)
    added = row.at.sigma * jnp.sqrt(gamma * (2 + gamma)) * solver.churn_noise
    up = NoiseLevel(row.at.alpha, row.at.sigma * (1 + gamma))
    return Interval(up, row.to), added


def _check_churn(solver: Euler | Heun) -> None:
    if not solver.churn_min <= solver.churn_max:
        raise ValueError(
            f"churn needs churn_min <= churn_max, got churn_min = {solver.churn_min} "
            f"and churn_max = {solver.churn_max}"
        )


def _trapezoid(row: Interval) -> Float[Array, " N"]:
    """What Heun's rule multiplies D' - D by; 0 where a step lands on the data."""
    lands = row.to.sigma == 0
    ratio = row.at.sigma / jnp.where(lands, 1, row.to.sigma)
    return jnp.where(lands, 0, (row.to.alpha * ratio - row.at.alpha) / 2)


def intervals(levels: NoiseLevel) -> Interval:
    """The N steps of N + 1 levels."""
    return Interval(levels[:-1], levels[1:])
