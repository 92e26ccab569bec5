"""Published recipes of discrete processes: () -> the variances beta_1 ... beta_T, float64.

    recipe              beta_i, or alpha_bar(u) at u = i / T
    LinearBetas         linear from 0.1 / T to 20 / T                               [DDPM]
    ScaledLinearBetas   linear in sqrt(beta) from 0.00085 to 0.012                   [LDM]
    LDMSqrtBetas        sqrt of linear from 1e-4 to 0.02                             [LDM]
    SigmoidBetas        logistic function from -6 to 6, scaled to 1e-4 ... 0.02  [GeoDiff]
    CosineBetas         alpha_bar = cos^2((u + s) / (1 + s) pi / 2)          [IDDPM eq. 17]
    DiffusionLMBetas    alpha_bar = 1 - sqrt(u + 1e-4)                       [DiffusionLM]
    ExpBetas            alpha_bar = exp(-12 u)
    LaplaceBetas        alpha_bar^2 = sigmoid(logsnr of a Laplace law)           [Laplace]

Those of alpha_bar are beta_i = 1 - alpha_bar(i / T) / alpha_bar((i - 1) / T), at most
max_beta. "sqrt" names two recipes in the literature, and configs of latent diffusion call
ScaledLinearBetas "linear".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64

from jaxdiff.types.ranges import (
    Entries,
    Items,
    NonNegative,
    Positive,
    PositiveFraction,
    checked,
)


@runtime_checkable
class Betas(Protocol):
    """A discrete process: () -> the T variances beta_i, float64 on the host."""

    def __call__(self) -> Float64[np.ndarray, " T"]:
        """beta_1 ... beta_T, each in (0, 1]."""
        ...


@dataclass(frozen=True)
@checked
class LinearBetas:
    """DDPM's betas, its end points scaled by 1000 / steps as [IDDPM] does.

    >>> betas = LinearBetas()()
    >>> round(float(betas[0]), 6), round(float(betas[-1]), 6)
    (0.0001, 0.02)
    """

    steps: Entries = 1000
    start: Positive = 1e-4
    end: Positive = 0.02

    def __post_init__(self) -> None:
        last = 1000 / self.steps * self.end
        if last > 1 + 1e-12:
            raise ValueError(
                f"LinearBetas(steps={self.steps}) would end on beta = {last:.4g}, since "
                "its end points scale with 1000 / steps: use steps >= "
                f"{1000 * self.end:.0f}, or CosineBetas({self.steps})"
            )

    def __call__(self) -> Float64[np.ndarray, " T"]:
        scale = 1000 / self.steps
        return np.linspace(scale * self.start, scale * self.end, self.steps)


@dataclass(frozen=True)
@checked
class ScaledLinearBetas:
    """Stable Diffusion's betas: linear in sqrt(beta). Its configs call it "linear".

    The class-conditional models of [LDM] run from 0.0015 to 0.0195.

    >>> betas = ScaledLinearBetas()()
    >>> round(float(betas[0]), 6), round(float(betas[-1]), 6)
    (0.00085, 0.012)
    """

    steps: Entries = 1000
    start: Positive = 0.00085
    end: Positive = 0.012

    def __call__(self) -> Float64[np.ndarray, " T"]:
        return np.linspace(self.start**0.5, self.end**0.5, self.steps) ** 2


@dataclass(frozen=True)
@checked
class LDMSqrtBetas:
    """The "sqrt" of [LDM]: beta is the square root of a straight line.

    >>> betas = LDMSqrtBetas()()
    >>> round(float(betas[0]), 6), round(float(betas[-1]), 6)
    (0.01, 0.141421)
    """

    steps: Entries = 1000
    start: Positive = 1e-4
    end: Positive = 0.02

    def __call__(self) -> Float64[np.ndarray, " T"]:
        return np.linspace(self.start, self.end, self.steps) ** 0.5


@dataclass(frozen=True)
@checked
class SigmoidBetas:
    """The logistic function as beta [GeoDiff]; not the same as `ChenSigmoid`.

    >>> betas = SigmoidBetas()()
    >>> round(float(betas[0]), 6), round(float(betas[-1]), 6)
    (0.000149, 0.019951)
    """

    steps: Entries = 1000
    start: Positive = 1e-4
    end: Positive = 0.02

    def __call__(self) -> Float64[np.ndarray, " T"]:
        rise = 1 / (1 + np.exp(-np.linspace(-6, 6, self.steps)))
        return self.start + (self.end - self.start) * rise


@dataclass(frozen=True)
@checked
class CosineBetas:
    """alpha_bar = cos^2((u + s) / (1 + s) pi / 2), u = i / T, capped [IDDPM eq. 17].

    >>> betas = CosineBetas()()
    >>> round(float(betas[0]), 6), round(float(betas[-1]), 6)
    (4.1e-05, 0.999)
    """

    steps: Entries = 1000
    s: NonNegative = 0.008
    max_beta: PositiveFraction = 0.999

    def __call__(self) -> Float64[np.ndarray, " T"]:
        return _capped(self, lambda u: np.cos((u + self.s) / (1 + self.s) * np.pi / 2) ** 2)


@dataclass(frozen=True)
@checked
class DiffusionLMBetas:
    """The "sqrt" of [DiffusionLM]: alpha_bar = 1 - sqrt(u + 1e-4), much noise at once.

    >>> betas = DiffusionLMBetas()()
    >>> round(float(betas[0]), 4), round(float(betas[-1]), 4)
    (0.0234, 0.999)
    """

    steps: Entries = 1000
    max_beta: PositiveFraction = 0.999

    def __call__(self) -> Float64[np.ndarray, " T"]:
        return _capped(self, lambda u: 1 - np.sqrt(u + 1e-4))


@dataclass(frozen=True)
@checked
class ExpBetas:
    """alpha_bar = exp(-rate u): the same beta in every step.

    >>> betas = ExpBetas()()
    >>> round(float(betas[0]), 6), round(float(betas[-1]), 6)
    (0.011928, 0.011928)
    """

    steps: Entries = 1000
    rate: Positive = 12.0
    max_beta: PositiveFraction = 0.999

    def __call__(self) -> Float64[np.ndarray, " T"]:
        return _capped(self, lambda u: np.exp(-self.rate * u))


@dataclass(frozen=True)
@checked
class LaplaceBetas:
    """alpha_bar = sqrt(sigmoid(l)), l = -sign(1/2 - u) ln(1 - 2 |1/2 - u| + 1e-6) / 2.

    The quantiles of a Laplace law of the logsnr [Laplace]; the root is that of the
    implementation in common use, so that l is not the logsnr itself.

    >>> round(float(np.cumprod(1 - LaplaceBetas()())[499]), 3)  # sqrt(1 / 2) half way
    0.707
    """

    steps: Entries = 1000
    max_beta: PositiveFraction = 0.999

    def __call__(self) -> Float64[np.ndarray, " T"]:
        def alpha_bar(u: np.ndarray) -> np.ndarray:
            sign = np.copysign(1, 0.5 - u)  # 1 at u = 1/2
            logsnr = -sign * np.log(1 - 2 * np.abs(0.5 - u) + 1e-6) / 2
            return np.sqrt(1 / (1 + np.exp(-logsnr)))

        return _capped(self, alpha_bar)


@dataclass(frozen=True)
@checked
class ListedBetas:
    """Any betas, written out.

    >>> ListedBetas((0.1, 0.2))()
    array([0.1, 0.2])
    """

    betas: Annotated[tuple[PositiveFraction, ...], Items(1)]

    def __call__(self) -> Float64[np.ndarray, " T"]:
        return np.asarray(self.betas, np.float64)


def _capped(
    recipe: CosineBetas | DiffusionLMBetas | ExpBetas | LaplaceBetas,
    alpha_bar: Callable[[np.ndarray], np.ndarray],
) -> Float64[np.ndarray, " T"]:
    """1 - alpha_bar(i / T) / alpha_bar((i - 1) / T), at most max_beta."""
    at = alpha_bar(np.arange(recipe.steps + 1) / recipe.steps)
    return np.minimum(1 - at[1:] / at[:-1], recipe.max_beta)
