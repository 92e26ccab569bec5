"""Grids: the noise levels that a sampler visits, N + 1 levels for N steps.

A grid is an array of levels, and any solver takes any grid. Levels are float64 NumPy
arrays, since a solver reads the differences of close ones, and N is a Python integer. A
grid that ends on the data (sigma = 0) makes the solver end on the denoiser's x0; one that
stops before it leaves the rest of the noise in.

`uniform` has the grids along a schedule's path, `table` those of a table's entries and
`sigmas` those that bring a path of their own. A shift to another resolution is the path's:
`Uniform()(Shifted(RectifiedFlow(), k), N)` with k = sqrt(m / n) for m tokens where the
network was tuned for n [SD3].
"""

from jaxdiff.sampling.grids.sigmas import (
    AYS_SD15,
    AYS_SDXL,
    AYS_SVD,
    Beta,
    Karras,
    Listed,
    LogLinear,
    Polyexponential,
)
from jaxdiff.sampling.grids.table import Leading, Linspace, Trailing
from jaxdiff.sampling.grids.uniform import Uniform, UniformLogSNR

__all__ = [
    "AYS_SD15",
    "AYS_SDXL",
    "AYS_SVD",
    "Beta",
    "Karras",
    "Leading",
    "Linspace",
    "Listed",
    "LogLinear",
    "Polyexponential",
    "Trailing",
    "Uniform",
    "UniformLogSNR",
]
