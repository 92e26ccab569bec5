"""Tables of a solver's coefficients: float64 where the levels are concrete.

Levels of a fine grid are close to each other, and what a step adds is their difference: in
float32 a coefficient of a 4,000-step grid has four digits left. So grids are float64 NumPy
arrays, solvers make their tables in float64 on the host, and the rows are rounded once, to
the precision that the sampler computes in. Traced levels make the table in their own
precision, by the same lines.
"""

from collections.abc import Callable
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from jaxdiff.sampling.float64 import in_float64
from jaxdiff.types import NoiseLevel


def traced(levels: NoiseLevel) -> bool:
    """Whether the levels are known only when the compiled function runs."""
    return any(isinstance(a, jax.core.Tracer) for a in (levels.alpha, levels.sigma))


def on_host(levels: NoiseLevel) -> tuple[NoiseLevel, ModuleType]:
    """The levels and the NumPy to compute with: float64 and NumPy's, unless traced."""
    if traced(levels):
        return levels, jnp
    return jax.tree.map(lambda a: np.asarray(a, np.float64), levels), np


def cast(rows: PyTree, levels: NoiseLevel) -> PyTree:
    """The rows in the floating precision of the levels on the device; flags as they are."""
    dtype = jnp.result_type(levels.sigma, float)
    number = lambda a: jnp.asarray(a, None if jnp.asarray(a).dtype == bool else dtype)
    return jax.tree.map(number, rows)


def made_in_float64(table: Callable[[NoiseLevel], PyTree], levels: NoiseLevel) -> PyTree:
    """`table(levels)`, by `in_float64`, unless levels are traced.

    For tables that evaluate a schedule, which is a function of jax arrays.
    """
    if traced(levels):
        return table(levels)
    levels = jax.tree.map(lambda a: np.asarray(a, np.float64), levels)
    return in_float64(lambda: table(jax.tree.map(jnp.asarray, levels)))
