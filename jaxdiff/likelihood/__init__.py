"""Likelihood in bits/dim: `bound`, the variational bound, and `flow`, the exact flow."""

from jaxdiff.likelihood import flow
from jaxdiff.likelihood.bound import (
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

__all__ = [
    "Bin",
    "Process",
    "Terms",
    "bits_per_dim",
    "flow",
    "mean_and_error",
    "per_bin",
    "prior",
    "process",
    "term",
    "terms",
]
