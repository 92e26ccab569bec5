"""Solvers that keep nothing from step to step: Euler, Heun and DDIM.

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
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdiff.sampling.signature import Coefficient, Denoise, Noise, State, Step
from jaxdiff.sampling.solvers.rows import cast, on_host
from jaxdiff.types import Leaf, NoiseLevel, Real, pytree
from jaxdiff.types.ranges import Fraction, NonNegative, Range, checked


@pytree
class StepLevels:
    """One step's two levels."""

    at: NoiseLevel
    to: NoiseLevel


@pytree
class LeftEndpoint:
    """The left-endpoint rule between two levels as numbers: `x` x + `x0` D."""

    at: NoiseLevel
    to: NoiseLevel
    x: Leaf
    x0: Leaf

    def __call__(self, x: State, x0: State) -> State:
        return self.x * x + self.x0 * x0


NoisyRow = tuple[LeftEndpoint, Coefficient]
"""The rule, and the std of the noise that is added before it or after it."""

HeunRow = tuple[LeftEndpoint, Coefficient, Coefficient]
"""The rule, the weight of its correction D' - D, and the std of churn's noise."""


@dataclass(frozen=True)
@checked
class Euler:
    """The left-endpoint rule, order 1, N evaluations: DDIM, Euler, flow Euler.

    It is DPM-Solver++ and LMS of order 1 as well. With churn it is the stochastic sampler
    of [EDM alg. 2] without its correction; the fields are those of `Heun`.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(Euler(), Karras()(None, 32))
    32
    """

    churn: NonNegative = 0.0
    churn_min: NonNegative = 0.0
    churn_max: Annotated[float, Range(0, infinite=True)] = math.inf
    churn_noise: NonNegative = 1.0

    def __post_init__(self) -> None:
        _check_churn(self)

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, NoisyRow]:
        grid, xp = on_host(levels)
        return (), cast(_churned(self, grid, xp), levels)

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: NoisyRow, noise: Noise
    ) -> Step:
        rule, added = row
        x = x + added * noise(0) if self.churn else x
        first = denoise(x, rule.at)
        return rule(x, first.x0), memory, first


@dataclass(frozen=True)
@checked
class Heun:
    """The trapezoid rule, order 2, 2 N - 1 evaluations when it lands on the data.

    With churn > 0 each step first adds noise, up to sqrt(2) times the level, where
    churn_min <= sigma / alpha <= churn_max: EDM's stochastic sampler [EDM alg. 2].

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(Heun(), Karras()(None, 32))  # one evaluation on the last step
    63
    """

    churn: NonNegative = 0.0
    churn_min: NonNegative = 0.0
    churn_max: Annotated[float, Range(0, infinite=True)] = math.inf
    churn_noise: NonNegative = 1.0

    def __post_init__(self) -> None:
        _check_churn(self)

    def evaluations(self, lands: bool) -> int:
        return 1 if lands else 2

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, HeunRow]:
        grid, xp = on_host(levels)
        rule, added = _churned(self, grid, xp)
        return (), cast((rule, _trapezoid(rule, xp), added), levels)

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: HeunRow, noise: Noise
    ) -> Step:
        rule, correction, added = row
        x = x + added * noise(0) if self.churn else x
        first = denoise(x, rule.at)
        euler = rule(x, first.x0)
        corrected = lambda: euler + correction * (denoise(euler, rule.to).x0 - first.x0)
        return jax.lax.cond(rule.to.sigma > 0, corrected, lambda: euler), memory, first


@dataclass(frozen=True)
@checked
class DDIM:
    """The left-endpoint rule with part of eps_hat replaced by fresh noise [DDIM eq. 12].

    s = eta (sigma'/sigma) sqrt(sigma^2 - sigma'^2 alpha^2/alpha'^2),
    x' = alpha' D + sqrt(sigma'^2 - s^2) eps_hat + s noise.
    eta = 0 is `Euler`; eta = 1 is ancestral sampling with [DDPM]'s smaller variance, which
    is Euler ancestral of k-diffusion and the SDE form of DPM-Solver++ of order 1, each on
    any path.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(DDIM(eta=0.5), Karras()(None, 32))
    32
    """

    eta: Fraction = 1.0

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, NoisyRow]:
        grid, xp = on_host(levels)
        down, fresh = split(grid[:-1], grid[1:], self.eta, xp)
        return (), cast((left_rule(grid[:-1], down), fresh), levels)

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: NoisyRow, noise: Noise
    ) -> Step:
        rule, fresh = row
        first = denoise(x, rule.at)
        x = rule(x, first.x0)
        x = x + fresh * noise(0) if self.eta else x
        return x, memory, first


def split(
    at: NoiseLevel, to: NoiseLevel, eta: float, xp: Any = jnp
) -> tuple[NoiseLevel, Leaf]:
    """`to` with part of its noise taken out, and the std s that replaces it [DDIM].

    s = eta (sigma'/sigma) sqrt(sigma^2 - sigma'^2 alpha^2/alpha'^2); the rest of sigma'^2
    stays. Where alpha' = 0 nothing is replaced.
    """
    below = at.sigma * to.alpha
    q = xp.where(below > 0, to.sigma * at.alpha / xp.where(below > 0, below, 1), 1)
    q = xp.minimum(q, 1)
    fresh = eta * to.sigma * root((1 - q) * (1 + q), xp)
    # sqrt(sigma'^2 - s^2), as a sum of squares that rounding cannot make negative
    down = to.sigma * xp.hypot(math.sqrt(1 - eta**2), eta * q)
    return NoiseLevel(to.alpha, down), fresh


def root(a: Real, xp: Any = jnp) -> Real:
    """sqrt(a), of slope 0 at 0."""
    return xp.where(a > 0, xp.sqrt(xp.where(a > 0, a, 1)), 0)


def left_rule(at: NoiseLevel, to: NoiseLevel) -> LeftEndpoint:
    """(sigma'/sigma) x + (alpha' - alpha sigma'/sigma) D."""
    ratio = to.sigma / at.sigma
    return LeftEndpoint(at, to, ratio, to.alpha - at.alpha * ratio)


def left_endpoint(
    x: State,
    x0: State,
    at: NoiseLevel,
    to: NoiseLevel,
) -> State:
    """The same rule, for levels that are known only within the step."""
    return left_rule(at, to)(x, x0)


def _churned(
    solver: Euler | Heun, levels: NoiseLevel, xp: Any
) -> tuple[LeftEndpoint, Leaf]:
    """The steps from the levels that churn leads up to, and the noise it adds."""
    at, to = levels[:-1], levels[1:]
    gamma = min(solver.churn / max(at.sigma.shape[0], 1), math.sqrt(2) - 1)
    signal = at.alpha > 0  # sigma / alpha is infinite on pure noise
    ratio = xp.where(signal, at.sigma / xp.where(signal, at.alpha, 1), math.inf)
    churned = (solver.churn_min <= ratio) & (ratio <= solver.churn_max)
    gamma = xp.where(churned, gamma, 0.0)
    added = at.sigma * xp.sqrt(gamma * (2 + gamma)) * solver.churn_noise
    return left_rule(NoiseLevel(at.alpha, at.sigma * (1 + gamma)), to), added


def _check_churn(solver: Euler | Heun) -> None:
    if not solver.churn_min <= solver.churn_max:
        raise ValueError(
            f"churn needs churn_min <= churn_max, got churn_min = {solver.churn_min} "
            f"and churn_max = {solver.churn_max}"
        )


def _trapezoid(rule: LeftEndpoint, xp: Any) -> Leaf:
    """What Heun's rule multiplies D' - D by; 0 where a step lands on the data."""
    at, to = rule.at, rule.to
    lands = to.sigma == 0
    ratio = at.sigma / xp.where(lands, 1, to.sigma)
    return xp.where(lands, 0, (to.alpha * ratio - at.alpha) / 2)


def intervals(levels: NoiseLevel) -> StepLevels:
    """The N steps of N + 1 levels."""
    return StepLevels(levels[:-1], levels[1:])
