"""jaxdiff: train, study and sample diffusion and flow models in JAX.

    import jaxdiff as jd

gives the nouns, the verbs and the modules of the mathematics, which need jax and NumPy
alone. What needs a training stack (networks, optim, config, checkpoint, train, `UNet`,
`Experiment`, `restore`) is imported when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxdiff import (
    denoisers,
    editing,
    guidance,
    levels,
    likelihood,
    losses,
    noise_shift,
    parameterizations,
    posterior,
    sampling,
    schedules,
    solvers,
    times,
    types,
    weightings,
)
from jaxdiff.denoisers import denoiser, gaussian_denoiser
from jaxdiff.guidance import (
    guide,
    noise_aware,
    projected,
    rescaled,
    thresholded,
    without,
    zero_star,
)
from jaxdiff.losses import Total, Uncertain, VariationalBound, WeightedError
from jaxdiff.parameterizations import EDM, X0, Eps, Flow, Score, V
from jaxdiff.sampling import sample
from jaxdiff.schedules import (
    BoundedCosine,
    ChenCosine,
    ChenSigmoid,
    Cosine,
    CosineBetas,
    DiffusionLMBetas,
    ExpBetas,
    LaplaceBetas,
    LDMSqrtBetas,
    LinearBetas,
    ListedBetas,
    LogSigma,
    OffsetCosine,
    RectifiedFlow,
    RespacedBetas,
    ScaledLinearBetas,
    Shifted,
    SigmoidBetas,
    Table,
    TrigFlow,
    VPLinear,
    corrupt,
    ddim_spacing,
    section_spacing,
    zero_terminal_snr,
)
from jaxdiff.solvers import (
    DDIM,
    DEIS,
    LMS,
    Adaptive,
    Ancestral,
    DPMSolverPP,
    DPMSolverPP2S,
    Euler,
    EulerMaruyama,
    Heun,
    Midpoint,
    RungeKutta,
    StochasticHeun,
    UniPC,
)
from jaxdiff.types import (
    UNCONDITIONAL,
    Condition,
    Denoised,
    Noised,
    NoiseLevel,
    Output,
    Scaling,
)
from jaxdiff.version import __version__
from jaxdiff.weightings import (
    ELBO,
    P2,
    Debias,
    DiscreteELBO,
    MinSNR,
    Sigmoid,
    SoftMinSNR,
    TruncatedSNR,
    UniformOnNetwork,
    UniformOnX0,
)

if TYPE_CHECKING:
    from jaxdiff import (
        analysis,
        bits,
        checkpoint,
        config,
        data,
        generate,
        lengths,
        magnitudes,
        networks,
        optim,
        pictures,
        plots,
        posthoc,
        presets,
        snapshots,
        state,
        toy2d,
        train,
    )
    from jaxdiff.checkpoint import restore
    from jaxdiff.config import Experiment, Sampling, from_config, to_config
    from jaxdiff.networks import ADM, UNet
    from jaxdiff.optim import EDM2Optimizer
    from jaxdiff.pictures import show

LAZY = {
    "ADM": "networks",
    "EDM2Optimizer": "optim",
    "Experiment": "config",
    "Sampling": "config",
    "UNet": "networks",
    "from_config": "config",
    "restore": "checkpoint",
    "show": "pictures",
    "to_config": "config",
}
"""Names, and the modules of the training stack that hold them."""

MODULES = (
    *("analysis", "bits", "checkpoint", "config", "data", "generate", "lengths"),
    *(
        "magnitudes",
        "networks",
        "optim",
        "pictures",
        "plots",
        "posthoc",
        "presets",
        "snapshots",
    ),
    *("state", "toy2d", "train"),
)
"""The modules of the training stack."""


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"jaxdiff.{name}")
    if name in LAZY:
        return getattr(importlib.import_module(f"jaxdiff.{LAZY[name]}"), name)
    raise AttributeError(f"module 'jaxdiff' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__all__ = [
    "ADM",
    "DDIM",
    "DEIS",
    "EDM",
    "ELBO",
    "LMS",
    "P2",
    "UNCONDITIONAL",
    "X0",
    "Adaptive",
    "Ancestral",
    "BoundedCosine",
    "ChenCosine",
    "ChenSigmoid",
    "Condition",
    "Cosine",
    "CosineBetas",
    "DPMSolverPP",
    "DPMSolverPP2S",
    "Debias",
    "Denoised",
    "DiffusionLMBetas",
    "DiscreteELBO",
    "EDM2Optimizer",
    "Eps",
    "Euler",
    "EulerMaruyama",
    "ExpBetas",
    "Experiment",
    "Flow",
    "Heun",
    "LDMSqrtBetas",
    "LaplaceBetas",
    "LinearBetas",
    "ListedBetas",
    "LogSigma",
    "Midpoint",
    "MinSNR",
    "NoiseLevel",
    "Noised",
    "OffsetCosine",
    "Output",
    "RectifiedFlow",
    "RespacedBetas",
    "RungeKutta",
    "Sampling",
    "ScaledLinearBetas",
    "Scaling",
    "Score",
    "Shifted",
    "Sigmoid",
    "SigmoidBetas",
    "SoftMinSNR",
    "StochasticHeun",
    "Table",
    "Total",
    "TrigFlow",
    "TruncatedSNR",
    "UNet",
    "Uncertain",
    "UniPC",
    "UniformOnNetwork",
    "UniformOnX0",
    "V",
    "VPLinear",
    "VariationalBound",
    "WeightedError",
    "__version__",
    "analysis",
    "bits",
    "checkpoint",
    "config",
    "corrupt",
    "data",
    "ddim_spacing",
    "denoiser",
    "denoisers",
    "editing",
    "from_config",
    "gaussian_denoiser",
    "generate",
    "guidance",
    "guide",
    "lengths",
    "levels",
    "likelihood",
    "losses",
    "magnitudes",
    "networks",
    "noise_aware",
    "noise_shift",
    "optim",
    "parameterizations",
    "pictures",
    "plots",
    "posterior",
    "posthoc",
    "presets",
    "projected",
    "rescaled",
    "restore",
    "sample",
    "sampling",
    "schedules",
    "section_spacing",
    "show",
    "snapshots",
    "solvers",
    "state",
    "thresholded",
    "times",
    "to_config",
    "toy2d",
    "train",
    "types",
    "weightings",
    "without",
    "zero_star",
    "zero_terminal_snr",
]
