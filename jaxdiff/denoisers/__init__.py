"""Denoisers: what a network's output means, and the denoiser D(x; alpha, sigma) made of it.

`parameterizations` is the one conversion table between x0, eps, v, score and flow;
`denoiser` turns a network with parameters into a function of (x, level, condition) -> x0.
"""

from jaxdiff.denoisers.denoiser import (
    Apply,
    Clipped,
    Stepwise,
    denoiser,
    during,
    gaussian_denoiser,
    initial,
)
from jaxdiff.denoisers.parameterizations import (
    EDM,
    X0,
    AngleLabel,
    Eps,
    Flow,
    LogSigmaLabel,
    Score,
    Unscaled,
    V,
)

__all__ = [
    "EDM",
    "X0",
    "AngleLabel",
    "Apply",
    "Clipped",
    "Eps",
    "Flow",
    "LogSigmaLabel",
    "Score",
    "Stepwise",
    "Unscaled",
    "V",
    "denoiser",
    "during",
    "gaussian_denoiser",
    "initial",
]
