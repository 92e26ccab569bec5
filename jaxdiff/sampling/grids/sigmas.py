"""Grids of sigma on EDM's path, alpha = 1, and explicit lists of levels."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
from jaxtyping import Float

from jaxdiff.sampling.grids.uniform import falling, require_steps
from jaxdiff.types import NoiseLevel, Schedule
from jaxdiff.types.ranges import Items, NonNegative, Positive, Range, checked

AYS_SD15 = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152)
"""sigma / alpha of Stable Diffusion 1.5's ten steps [AYS]."""

AYS_SDXL = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.38, 0.234, 0.113)
"""sigma / alpha of Stable Diffusion XL's ten steps [AYS]."""

AYS_SVD = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034)
"""sigma / alpha of Stable Video Diffusion's ten steps [AYS]."""


@dataclass(frozen=True)
@checked
class Karras:
    """sigma^(1/rho) linear from sigma_max to sigma_min, then 0, alpha = 1 [EDM eq. 5].

    The path is EDM's own, whatever the network was trained on: a denoiser is a function
    on rays (alpha, sigma), so it samples on every path.

    >>> Karras(sigma_min=1.0, sigma_max=9.0, rho=2.0)(None, 3).sigma.tolist()
    [9.0, 4.0, 1.0, 0.0]
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, schedule: Schedule | None, steps: int) -> NoiseLevel:
        require_steps(steps)
        high, low = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return _between(self, np.linspace(high, low, steps) ** self.rho)


@dataclass(frozen=True)
@checked
class Polyexponential:
    """ln sigma = lerp(ramp^rho) for ramp = 1 ... 0, then 0, alpha = 1: k-diffusion's.

    rho = 1 is "exponential", uniform in logsnr; above it there are more steps at low noise.

    >>> Polyexponential(0.5, 8.0)(None, 3).sigma.tolist()
    [8.0, 2.0, 0.5, 0.0]
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 1.0

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, schedule: Schedule | None, steps: int) -> NoiseLevel:
        require_steps(steps)
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        ramp = np.linspace(1, 0, steps) ** self.rho
        return _between(self, np.exp(low + ramp * (high - low)))


Shape = Annotated[float, Range(0, 10_000, above=True)]
"""A shape of a beta law; at 10,000 and 10,000 its standard deviation is 0.0035."""


@dataclass(frozen=True)
@checked
class Beta:
    """sigma at the quantiles of a beta law between its ends, then 0, alpha = 1.

    Its density is high at both ends for a, b < 1, and so are the steps'.

    >>> Beta(1.0, 3.0, a=1.0, b=1.0)(None, 3).sigma.round(6).tolist()  # a uniform law
    [3.0, 2.0, 1.0, 0.0]
    """

    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    a: Shape = 0.6
    b: Shape = 0.6

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, schedule: Schedule | None, steps: int) -> NoiseLevel:
        require_steps(steps)
        x = _beta_quantile(np.linspace(1, 0, steps), self.a, self.b)
        return _between(self, self.sigma_min + x * (self.sigma_max - self.sigma_min))


ABOVE_0 = Range(0, above=True, note="leave out the 0 at the end: LogLinear adds it")


@dataclass(frozen=True)
@checked
class LogLinear:
    """N sigmas from a list, interpolated in ln sigma over its index, then 0, alpha = 1.

    The lists of [AYS] are `AYS_SD15`, `AYS_SDXL` and `AYS_SVD`; they hold sigma / alpha,
    which is not a flow's t.

    >>> LogLinear((4.0, 1.0))(None, 3).sigma.round(6).tolist()
    [4.0, 2.0, 1.0, 0.0]
    """

    sigmas: Annotated[tuple[Annotated[float, ABOVE_0], ...], Items(2)] = AYS_SD15

    def __post_init__(self) -> None:
        _check_falling((1.0,) * len(self.sigmas), self.sigmas)

    def __call__(self, schedule: Schedule | None, steps: int) -> NoiseLevel:
        require_steps(steps)
        index = np.arange(len(self.sigmas)) / (len(self.sigmas) - 1)
        ramp = np.linspace(0, 1, steps)
        sigma = np.exp(np.interp(ramp, index, np.log(self.sigmas)))
        return NoiseLevel(np.ones(steps + 1), np.r_[sigma, 0.0])


@dataclass(frozen=True)
@checked
class Listed:
    """Exactly these levels, from most noise to least; alpha = 1 unless given.

    One that ends at sigma = 0 lands on the data. It has as many steps as it has levels
    less one; any other number of steps is an error.

    >>> Listed((4.0, 1.0, 0.0))(None, 2).sigma.tolist()
    [4.0, 1.0, 0.0]
    """

    sigmas: Annotated[tuple[NonNegative, ...], Items(2)]
    alphas: tuple[NonNegative, ...] = ()

    def __post_init__(self) -> None:
        if self.alphas and len(self.alphas) != len(self.sigmas):
            raise ValueError(
                f"Listed needs an alpha for each sigma, got {len(self.alphas)} alphas and "
                f"{len(self.sigmas)} sigmas"
            )
        _check_falling(self.alphas or (1.0,) * len(self.sigmas), self.sigmas)

    def __call__(self, schedule: Schedule | None, steps: int) -> NoiseLevel:
        if steps != len(self.sigmas) - 1:
            raise ValueError(
                f"{len(self.sigmas)} levels make {len(self.sigmas) - 1} steps, not "
                f"{steps}: use {len(self.sigmas) - 1}"
            )
        alphas = self.alphas or np.ones(steps + 1)
        return NoiseLevel(np.asarray(alphas, float), np.asarray(self.sigmas, float))


def _between(
    grid: Karras | Polyexponential | Beta, sigma: Float[np.ndarray, " N"]
) -> NoiseLevel:
    """The sigmas with exact ends, then 0."""
    sigma[0] = grid.sigma_max
    if sigma.size > 1:
        sigma[-1] = grid.sigma_min
    return falling(grid, NoiseLevel(np.ones(sigma.size + 1), np.r_[sigma, 0.0]))


def _check(grid: Karras | Polyexponential | Beta) -> None:
    if not grid.sigma_min < grid.sigma_max:
        raise ValueError(f"{type(grid).__name__} needs sigma_min < sigma_max: {grid}")


def _check_falling(alphas: tuple[float, ...], sigmas: tuple[float, ...]) -> None:
    """sigma / alpha falls from level to level, infinite at first or 0 at last."""
    levels = list(zip(alphas, sigmas, strict=True))
    for i, (alpha, sigma) in enumerate(levels):
        if not alpha + sigma > 0:
            raise ValueError(
                f"a level needs alpha + sigma > 0, got alpha = {alpha} and sigma = {sigma} "
                f"at level {i}"
            )
    for i, ((alpha, sigma), (alpha_to, sigma_to)) in enumerate(pairwise(levels)):
        if not sigma * alpha_to > sigma_to * alpha:
            raise ValueError(
                f"noise must fall from level to level, but levels {i} and {i + 1} have "
                f"(alpha, sigma) = ({alpha}, {sigma}) and ({alpha_to}, {sigma_to}); list "
                "them from most noise to least, each once"
            )


def _beta_quantile(
    p: Float[np.ndarray, " N"], a: float, b: float
) -> Float[np.ndarray, " N"]:
    """The x at which the beta law's distribution I_x(a, b) is p, by bisection."""
    low, high = np.zeros_like(p), np.ones_like(p)
    for _ in range(60):
        x = (low + high) / 2
        below = _beta_law(x, a, b) < p
        low, high = np.where(below, x, low), np.where(below, high, x)
    return (low + high) / 2


def _beta_law(x: Float[np.ndarray, " N"], a: float, b: float) -> Float[np.ndarray, " N"]:
    """I_x(a, b), the regularised incomplete beta function, by its continued fraction.

    It converges fast below the mean, (a + 1) / (a + b + 2); above it is 1 - I_{1-x}(b, a).
    """
    above = x > (a + 1) / (a + b + 2)
    z, p, q = np.where(above, 1 - x, x), np.where(above, b, a), np.where(above, a, b)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    with np.errstate(divide="ignore"):
        front = np.exp(p * np.log(z) + q * np.log1p(-z) - log_beta) / p
    tail = front * _beta_fraction(z, p, q)
    return np.where(above, 1 - tail, tail)


def _beta_fraction(
    x: Float[np.ndarray, " N"], a: Float[np.ndarray, " N"], b: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """1 / (1 + d_1 / (1 + d_2 / ...)) by Lentz's method [Abramowitz, Stegun 26.5.8].

    Raises:
        ValueError: it does not converge.
    """
    tiny = 1e-300
    nonzero = lambda v: np.where(np.abs(v) < tiny, tiny, v)
    c, d = np.ones_like(x), 1 / nonzero(1 - (a + b) * x / (a + 1))
    total = d
    for m in range(1, TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for coefficient in (even, odd):
            d = 1 / nonzero(1 + coefficient * d)
            c = nonzero(1 + coefficient / c)
            total = total * c * d
        if (np.abs(c * d - 1) < 1e-15).all():
            return total
    raise ValueError(
        f"the beta law's fraction does not converge in {TERMS:,} terms for a and b "
        f"{sorted({float(a.flat[0]), float(b.flat[0])})}: take smaller ones"
    )


TERMS = 10_000
"""Of the fraction; it needs about as many as the square root of the larger shape."""
