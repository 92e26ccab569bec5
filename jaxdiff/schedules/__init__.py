"""Noise schedules: paths t -> (alpha, sigma) from data (t = 0) to noise (t = 1).

`paths` has the closed forms and the forward process, `alpha_bar` the closed forms that are
given by alpha^2, `betas` the published recipes of discrete processes, and `discrete` the
schedule that is made from one. Since samplers follow increments of (alpha, sigma), none
needs a derivative.
"""

from jaxdiff.schedules.alpha_bar import BoundedCosine, ChenCosine, ChenSigmoid, OffsetCosine
from jaxdiff.schedules.betas import (
    Betas,
    CosineBetas,
    DiffusionLMBetas,
    ExpBetas,
    LaplaceBetas,
    LDMSqrtBetas,
    LinearBetas,
    ListedBetas,
    ScaledLinearBetas,
    SigmoidBetas,
)
from jaxdiff.schedules.discrete import (
    RespacedBetas,
    Table,
    ZeroTerminalBetas,
    ddim_spacing,
    section_spacing,
    zero_terminal_snr,
)
from jaxdiff.schedules.paths import (
    Cosine,
    LogSigma,
    RectifiedFlow,
    Shifted,
    TrigFlow,
    VPLinear,
    corrupt,
    logsnr_slope,
)
from jaxdiff.schedules.posterior import LargeVariance, LearnedVariance, SmallVariance

__all__ = [
    "Betas",
    "BoundedCosine",
    "ChenCosine",
    "ChenSigmoid",
    "Cosine",
    "CosineBetas",
    "DiffusionLMBetas",
    "ExpBetas",
    "LDMSqrtBetas",
    "LaplaceBetas",
    "LargeVariance",
    "LearnedVariance",
    "LinearBetas",
    "ListedBetas",
    "LogSigma",
    "OffsetCosine",
    "RectifiedFlow",
    "RespacedBetas",
    "ScaledLinearBetas",
    "Shifted",
    "SigmoidBetas",
    "SmallVariance",
    "Table",
    "TrigFlow",
    "VPLinear",
    "ZeroTerminalBetas",
    "corrupt",
    "ddim_spacing",
    "logsnr_slope",
    "section_spacing",
    "zero_terminal_snr",
]
