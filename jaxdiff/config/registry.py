"""The table from names to the types that a saved experiment may name."""

import functools
import inspect
import types
import typing
from collections.abc import Mapping
from typing import Any

from jaxdiff import data, networks, optim, schedules
from jaxdiff.config.experiment import Experiment, Sampling
from jaxdiff.denoisers import parameterizations
from jaxdiff.objectives import losses, timesteps, weightings
from jaxdiff.sampling import grids, solvers
from jaxdiff.sampling.guidance import (
    FirstChannels,
    Projected,
    Rescaled,
    Rule,
    Sum,
    ZeroStar,
)
from jaxdiff.sampling.solvers import sde
from jaxdiff.schedules import posterior
from jaxdiff.types import (
    Grid,
    LossTerm,
    Network,
    Optimizer,
    Parameterization,
    Schedule,
    Solver,
    Source,
    Times,
    Weighting,
)
from jaxdiff.types.protocols import members, missing
from jaxdiff.types.ranges import UNIONS

_TYPES: dict[str, type] = {
    f"{module}.{cls.__name__}": cls
    for module, classes in {
        "config": (Experiment, Sampling),
        "data": (
            data.CIFAR10,
            data.Digits,
            data.Folder,
            data.LatentRecords,
            data.Latents,
            data.OpenMoji,
            data.Records,
            data.Synthetic,
            data.TFDS,
            data.VAELatents,
        ),
        "guidance": (
            FirstChannels,
            Projected,
            Rescaled,
            Sum,
            ZeroStar,
        ),
        "levels": (
            grids.Beta,
            grids.Karras,
            grids.Leading,
            grids.Linspace,
            grids.Listed,
            grids.LogLinear,
            grids.Polyexponential,
            grids.Trailing,
            grids.Uniform,
            grids.UniformLogSNR,
        ),
        "losses": (
            losses.CrossEntropy,
            losses.DensityDecoder,
            losses.LevelLikelihood,
            losses.PixelDecoder,
            losses.Total,
            losses.Uncertain,
            losses.VariationalBound,
            losses.WeightedError,
        ),
        "networks": (
            networks.ADM,
            networks.Classifier,
            networks.DiT,
            networks.LevelEstimator,
            networks.UNet,
        ),
        "optim": (optim.AdamW, optim.EDM2Optimizer),
        "parameterizations": (
            parameterizations.AngleLabel,
            parameterizations.EDM,
            parameterizations.Eps,
            parameterizations.Flow,
            parameterizations.LogSigmaLabel,
            parameterizations.Score,
            parameterizations.TimeLabel,
            parameterizations.Unscaled,
            parameterizations.V,
            parameterizations.X0,
        ),
        "posterior": (
            posterior.LargeVariance,
            posterior.LearnedVariance,
            posterior.SmallVariance,
        ),
        "schedules": (
            schedules.BoundedCosine,
            schedules.ChenCosine,
            schedules.ChenSigmoid,
            schedules.Cosine,
            schedules.CosineBetas,
            schedules.DiffusionLMBetas,
            schedules.ExpBetas,
            schedules.LDMSqrtBetas,
            schedules.LaplaceBetas,
            schedules.LinearBetas,
            schedules.ListedBetas,
            schedules.LogSigma,
            schedules.OffsetCosine,
            schedules.RectifiedFlow,
            schedules.RespacedBetas,
            schedules.ScaledLinearBetas,
            schedules.Shifted,
            schedules.SigmoidBetas,
            schedules.Table,
            schedules.TrigFlow,
            schedules.VPLinear,
            schedules.ZeroTerminalBetas,
        ),
        "solvers": (
            solvers.Adaptive,
            solvers.Ancestral,
            solvers.DDIM,
            solvers.DEIS,
            solvers.DPMSolverPP,
            solvers.DPMSolverPP2S,
            solvers.Euler,
            solvers.EulerMaruyama,
            solvers.Heun,
            solvers.LMS,
            solvers.Midpoint,
            solvers.RungeKutta,
            solvers.StochasticHeun,
            solvers.UniPC,
            sde.ConstantW,
            sde.DecreasingW,
            sde.LinearW,
            sde.Proportional,
            sde.SigmaW,
            sde.SineW,
        ),
        "times": (
            timesteps.Antithetic,
            timesteps.CosMap,
            timesteps.LogUniformSigma,
            timesteps.LogitNormal,
            timesteps.LossSecondMoment,
            timesteps.Mode,
            timesteps.NormalLogSigma,
            timesteps.Stratified,
            timesteps.Uniform,
            timesteps.UniformEntries,
        ),
        "weightings": (
            weightings.Debias,
            weightings.DiscreteELBO,
            weightings.ELBO,
            weightings.MinSNR,
            weightings.P2,
            weightings.Sigmoid,
            weightings.SoftMinSNR,
            weightings.TruncatedSNR,
            weightings.UniformOnNetwork,
            weightings.UniformOnX0,
        ),
    }.items()
    for cls in classes
}
TYPES: Mapping[str, type] = types.MappingProxyType(_TYPES)
"""Every type that a saved experiment may name."""

KINDS: Mapping[type, str] = types.MappingProxyType(
    {
        Grid: "levels",
        Rule: "guidance",
        LossTerm: "losses",
        Parameterization: "parameterizations",
        Schedule: "schedules",
        Solver: "solvers",
        Times: "times",
        timesteps.laws.Law: "times",
        parameterizations.NoiseLabel: "parameterizations",
        posterior.Variance: "posterior",
        schedules.Betas: "schedules",
        losses.Decoder: "losses",
        sde.Diffusion: "solvers",
        Weighting: "weightings",
        Network: "networks",
        Source: "data",
        data.Encoder: "data",
        Optimizer: "optim",
    }
)
"""The group in the table for each protocol."""

_NAMES: dict[type, str] = {c: n for n, c in TYPES.items()}
NAMES: Mapping[type, str] = types.MappingProxyType(_NAMES)
"""The name of every type in the table."""

_REGISTERED: dict[type, type] = {}
"""The protocol of every registered type."""


def add(name: str, cls: type, protocol: type) -> None:
    """Adds a type to the table under a protocol; see `registration.register`.

    If another type had the name, its values can no longer be saved: they would come back
    as values of this one.
    """
    _NAMES.pop(_TYPES.get(name, cls), None)
    _TYPES[name], _NAMES[cls], _REGISTERED[cls] = cls, name, protocol
    allowed.cache_clear()


def registered() -> Mapping[type, type]:
    """The protocol of every type that `register` added."""
    return types.MappingProxyType(_REGISTERED)


@functools.cache
def allowed(hint: Any) -> tuple[str, ...]:
    """The names in `TYPES` that an annotation allows; () if none.

    >>> from jaxdiff.types import Weighting
    >>> "weightings.MinSNR" in allowed(Weighting)
    True
    """
    if typing.get_origin(hint) in UNIONS:
        return tuple(name for kind in typing.get_args(hint) for name in allowed(kind))
    if hint in KINDS:
        group = f"{KINDS[hint]}."
        return tuple(n for n, c in TYPES.items() if n.startswith(group) and _is(c, hint))
    if hint is types.NoneType:
        return ("None",)
    return (NAMES[hint],) if hint in NAMES else ()


def holds_plain(hint: Any) -> bool:
    """Whether an annotation allows plain values such as numbers, as `float | None` does."""
    union = typing.get_origin(hint) in UNIONS
    kinds = typing.get_args(hint) if union else (hint,)
    return not all(allowed(kind) for kind in kinds)


def _is(cls: type, protocol: type) -> bool:
    """Whether a class has all members of a protocol."""
    if _REGISTERED.get(cls) is protocol:
        return True
    if missing(cls, protocol):
        return False
    if members(protocol) != ("__call__",):
        return True
    if cls in _REGISTERED:
        return False
    ours, theirs = (inspect.signature(c.__call__) for c in (cls, protocol))
    return str(ours.return_annotation) == str(theirs.return_annotation) and (
        len(ours.parameters) == len(theirs.parameters)
    )
