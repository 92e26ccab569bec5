"""Likelihood: by the variational bound (`bound`), and by the probability flow.

Images are uint8 pixels or floats in [-1, 1], and the dtype says which (`inputs`).
`bits_per_dim` is the first, of a model of ancestral steps; `flow_bits_per_dim` the second.
`flow` has the density, `divergence` its traces, `integrate` and `adaptive` its steps, and
`pixels` the way from a density to bits.
"""

from jaxdiff.evaluation.likelihood.adaptive import AdaptiveRule
from jaxdiff.evaluation.likelihood.bound import (
    Bin,
    Process,
    Terms,
    bits_per_dim,
    mean_and_error,
    per_bin,
    prior,
    process,
    term,
    terms,
)
from jaxdiff.evaluation.likelihood.divergence import Divergence, Exact, Hutchinson, Skilling
from jaxdiff.evaluation.likelihood.flow import (
    Arc,
    Density,
    GaussianPrior,
    IntegrationPath,
    Prior,
    log_density,
    rising,
)
from jaxdiff.evaluation.likelihood.integrate import (
    RK4,
    TRAPEZOID,
    FixedRule,
    IntegrationRule,
)
from jaxdiff.evaluation.likelihood.pixels import Bits, bits, dequantise, flow_bits_per_dim

__all__ = [
    "RK4",
    "TRAPEZOID",
    "AdaptiveRule",
    "Arc",
    "Bin",
    "Bits",
    "Density",
    "Divergence",
    "Exact",
    "FixedRule",
    "GaussianPrior",
    "Hutchinson",
    "IntegrationPath",
    "IntegrationRule",
    "Prior",
    "Process",
    "Skilling",
    "Terms",
    "bits",
    "bits_per_dim",
    "dequantise",
    "flow_bits_per_dim",
    "log_density",
    "mean_and_error",
    "per_bin",
    "prior",
    "process",
    "rising",
    "term",
    "terms",
]
