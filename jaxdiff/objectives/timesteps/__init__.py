"""Laws of t: how training chooses its noise levels.

A law has `init, draw, update` so that one with a memory fits, and the memory lives in the
train state. `laws` and `sd3` have those without one, `stratified` those that spread the
draws of a batch, `importance` the sampler of Improved DDPM. Each draw comes with its
importance weight, 1 where the law is the objective itself.

A law without a memory is also two functions of numbers. `quantile(u, schedule)` turns
uniform u into t, so that `Stratified` and `Antithetic` can choose the u of a batch, and
`density(t, schedule)` is p(t), so that p(logsnr) = p(t) / |d logsnr / dt|.
"""

from jaxdiff.objectives.timesteps.importance import LossHistory, LossSecondMoment
from jaxdiff.objectives.timesteps.laws import (
    Law,
    LogUniformSigma,
    NormalLogSigma,
    Uniform,
    UniformEntries,
)
from jaxdiff.objectives.timesteps.sd3 import CosMap, LogitNormal, Mode
from jaxdiff.objectives.timesteps.stratified import Antithetic, Stratified

__all__ = [
    "Antithetic",
    "CosMap",
    "Law",
    "LogUniformSigma",
    "LogitNormal",
    "LossHistory",
    "LossSecondMoment",
    "Mode",
    "NormalLogSigma",
    "Stratified",
    "Uniform",
    "UniformEntries",
]
