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

if TYPE_CHECKING:
    from jaxdiff import (
        checkpoint,
        config,
        data,
        generate,
        networks,
        optim,
        pictures,
        posthoc,
        state,
        train,
    )
    from jaxdiff.checkpoint import restore
    from jaxdiff.config import Experiment, Sampling, from_config, to_config
    from jaxdiff.networks import UNet
    from jaxdiff.optim import EDM2Optimizer

LAZY = {
    "EDM2Optimizer": "optim",
    "Experiment": "config",
    "Sampling": "config",
    "UNet": "networks",
    "from_config": "config",
    "restore": "checkpoint",
    "to_config": "config",
}
"""Names, and the modules of the training stack that hold them."""

MODULES = (
    *("checkpoint", "config", "data", "generate", "networks", "optim", "pictures"),
    *("posthoc", "state", "train"),
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
    "DDIM",
    "EDM",
    "UNCONDITIONAL",
    "X0",
    "Condition",
    "Cosine",
    "CosineBetas",
    "Debias",
    "Denoised",
    "EDM2Optimizer",
    "Eps",
    "Euler",
    "Experiment",
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
    "Sampling",
    "ScaledLinearBetas",
    "Scaling",
    "Score",
    "Table",
    "Total",
    "UNet",
    "Uncertain",
    "UniformOnNetwork",
    "UniformOnX0",
    "V",
    "VPLinear",
    "WeightedError",
    "__version__",
    "checkpoint",
    "config",
    "corrupt",
    "data",
    "denoiser",
    "denoisers",
    "from_config",
    "gaussian_denoiser",
    "generate",
    "guidance",
    "guide",
    "levels",
    "losses",
    "networks",
    "optim",
    "parameterizations",
    "pictures",
    "posthoc",
    "restore",
    "sample",
    "sampling",
    "schedules",
    "solvers",
    "state",
    "times",
    "to_config",
    "train",
    "types",
    "weightings",
    "without",
    "zero_terminal_snr",
]
