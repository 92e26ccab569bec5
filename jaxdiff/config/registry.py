"""The closed table from names to the types that a saved experiment may name."""

import types
from collections.abc import Mapping

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

TYPES: Mapping[str, type] = types.MappingProxyType(
    {
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
)
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
        Optimizer: "optim",
    }
)
"""The part of the table that a field's protocol stands for."""

NAMES: Mapping[type, str] = types.MappingProxyType({c: n for n, c in TYPES.items()})
