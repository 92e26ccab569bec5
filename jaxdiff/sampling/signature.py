"""The types in the signatures of solvers and guidance rules, which then show the algorithm.

A solver is `init(x, levels) -> (memory, rows)` and
`step(denoise, x, memory, row, noise) -> (x, memory, first evaluation)`, see `types.Solver`.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdiff.types import Denoised, NoiseLevel

State = Float[Array, "B ..."]
"""x at one noise level, or anything of its shape: x0, eps, noise."""

Coefficient = Float[Array | np.ndarray, "..."]
"""A number of each step: [N] in the rows that `init` returns, () in the row of a step."""

Denoise = Callable[[State, NoiseLevel], Denoised]
"""A denoiser with its condition bound: denoise(x, at)."""

Noise = Callable[[int], State]
"""A step's unit normal draws: noise(0), noise(1) if it needs another, ..."""

Step = tuple[State, PyTree, Denoised]
"""What a step returns: x at the next level, the memory, the step's first evaluation."""
