"""Guidance: denoisers to denoiser, on x0.

    guide(D, (D_1, w_1), ...)(x) = D(x) + sum_i w_i (D(x) - D_i(x))

Every prediction is affine in x0, so this is the same as guiding eps, v, score or flow.
D_i is a weaker denoiser: the same network without the label (classifier-free guidance
[CFG], of scale 1 + w), a smaller or less trained one (autoguidance [AG]), or the same
network without the noise level (noise awareness guidance [NAG]). `less_likely` makes one
from a log-probability: a classifier's for classifier guidance [ADM], or in `noise_aware`
that of a noise-level estimator.

Values nest: `thresholded(rescaled(guide(D, (D_1, w)), 0.7))` is a denoiser, and can be
guided again. `rescaled`, `projected` and `zero_star` choose how the differences are
combined, and `first_channels` in which channels; all take the result of `guide`.

A weight may be a function of the level. An `Interval` [GI] switches guidance on for some
steps of a sampler, and a step is guided in all its evaluations or in none; the weight of
`PlusPlus` depends on both ends of a step. Heun evaluates the level between two steps twice,
once for each, so the level alone does not identify the step: `sample` passes both ends of
each step, `during(denoise, at, to, memory)`. A step without guidance does not call the
guides.
"""

from jaxdiff.denoisers import during, initial
from jaxdiff.sampling.guidance.channels import FirstChannels, first_channels
from jaxdiff.sampling.guidance.guide import Guided, guide, projected, rescaled, zero_star
from jaxdiff.sampling.guidance.less_likely import (
    LessLikely,
    LogProb,
    class_log_prob,
    less_likely,
)
from jaxdiff.sampling.guidance.noise_aware import (
    LevelEstimator,
    level_log_prob,
    noise_aware,
)
from jaxdiff.sampling.guidance.rules import Projected, Rescaled, Rule, Sum, ZeroStar
from jaxdiff.sampling.guidance.thresholding import Thresholded, thresholded
from jaxdiff.sampling.guidance.weights import Interval, PlusPlus, Weight
from jaxdiff.sampling.guidance.without import Without, without

__all__ = [
    "FirstChannels",
    "Guided",
    "Interval",
    "LessLikely",
    "LevelEstimator",
    "LogProb",
    "PlusPlus",
    "Projected",
    "Rescaled",
    "Rule",
    "Sum",
    "Thresholded",
    "Weight",
    "Without",
    "ZeroStar",
    "class_log_prob",
    "during",
    "first_channels",
    "guide",
    "initial",
    "less_likely",
    "level_log_prob",
    "noise_aware",
    "projected",
    "rescaled",
    "thresholded",
    "without",
    "zero_star",
]
