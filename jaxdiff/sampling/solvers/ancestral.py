"""Ancestral sampling: each step draws from the model's own p(x_to | x_at) [DDPM alg. 2].

    x' = c_x0 D + c_x x + exp(logvar / 2) noise,      no noise on a step that lands

with the posterior's coefficients between the step's two levels. The variance is a rule
between two levels too, so any grid on any path takes a learned variance as it is. With
`SmallVariance` this is DDIM with eta = 1.

The other way, from an image to its noise (reverse DDIM), needs no solver: `Euler` on the
levels in ascending order, from the smallest sigma above 0, is [DDIM eq. 14].
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdiff.sampling.signature import Denoise, Noise, State, Step
from jaxdiff.sampling.solvers.rows import cast, on_host
from jaxdiff.schedules.posterior import Posterior, SmallVariance, Variance, chain
from jaxdiff.types import NoiseLevel
from jaxdiff.types.ranges import checked

Row = tuple[NoiseLevel, Posterior]
"""Where the step starts, and q(x_to | x_at, x0) between its two levels."""


@dataclass(frozen=True)
@checked
class Ancestral:
    """One draw from N(posterior's mean at D, variance) a step, N evaluations.

    `variance` is `SmallVariance`, `LargeVariance`, or `LearnedVariance` for a network with
    that head; the first two leave a head unused.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(Ancestral(), Karras()(None, 32))
    32
    """

    variance: Variance = SmallVariance()

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, Row]:
        grid, xp = on_host(levels)
        between = jax.tree.map(xp.flip, chain(jax.tree.map(xp.flip, grid)))
        return (), cast((grid[:-1], between), levels)

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: Row, noise: Noise
    ) -> Step:
        at, between = row
        first = denoise(x, at)
        std = jnp.exp(self.variance(between, first.variance) / 2)
        fresh = jnp.where(between.lands, 0, std)
        return between.mean(first.x0, x) + fresh * noise(0), memory, first
