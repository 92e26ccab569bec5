"""jaxdiff: train, study and sample diffusion and flow models in JAX.

    import jaxdiff as jd

gives the nouns, the verbs and the modules of the mathematics, which need jax and NumPy
alone. What needs a training stack (networks, optim, config, checkpoint, train, `UNet`,
`Experiment`, `restore`) is imported when it is first asked for.
"""

import importlib
from typing import Any

from jaxdiff import (
    denoisers,
    guidance,
    levels,
    losses,
    parameterizations,
    sampling,
    schedules,
    solvers,
    times,
    types,
    weightings,
)
from jaxdiff.denoisers import denoiser, gaussian_denoiser
from jaxdiff.guidance import guide, without
from jaxdiff.losses import Total, Uncertain, WeightedError
from jaxdiff.parameterizations import EDM, X0, Eps, Flow, Score, V
from jaxdiff.sampling import sample
from jaxdiff.schedules import (
    Cosine,
    CosineBetas,
    LinearBetas,
    ListedBetas,
    LogSigma,
    RectifiedFlow,
    ScaledLinearBetas,
    Table,
    VPLinear,
    corrupt,
    zero_terminal_snr,
)
from jaxdiff.solvers import DDIM, Euler, Heun
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
from jaxdiff.weightings import Debias, MinSNR, UniformOnNetwork, UniformOnX0

LAZY = {
    "UNet": "networks",
    "Experiment": "config",
    "Optimizer": "config",
    "Sampling": "config",
    "from_config": "config",
    "to_config": "config",
    "restore": "checkpoint",
    "checkpoint": "",
    "config": "",
    "data": "",
    "networks": "",
    "optim": "",
    "pictures": "",
    "posthoc": "",
    "state": "",
    "train": "",
}


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module 'jaxdiff' has no attribute {name!r}")
    module = importlib.import_module(f"jaxdiff.{LAZY[name] or name}")
    return getattr(module, name) if LAZY[name] else module


__all__ = [
    "DDIM",
    "EDM",
    "UNCONDITIONAL",
    "X0",
    "Condition",
    "Cosine",
    "CosineBetas",
    "Debias",
    "Denoised",
    "Eps",
    "Euler",
    "Flow",
    "Heun",
    "LinearBetas",
    "ListedBetas",
    "LogSigma",
    "MinSNR",
    "NoiseLevel",
    "Noised",
    "Output",
    "RectifiedFlow",
    "ScaledLinearBetas",
    "Scaling",
    "Score",
    "Table",
    "Total",
    "Uncertain",
    "UniformOnNetwork",
    "UniformOnX0",
    "V",
    "VPLinear",
    "WeightedError",
    "__version__",
    "corrupt",
    "denoiser",
    "denoisers",
    "gaussian_denoiser",
    "guidance",
    "guide",
    "levels",
    "losses",
    "parameterizations",
    "sample",
    "sampling",
    "schedules",
    "solvers",
    "times",
    "types",
    "weightings",
    "without",
    "zero_terminal_snr",
]
