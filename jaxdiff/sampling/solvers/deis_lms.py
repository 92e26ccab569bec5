"""DEIS and LMS: Adams on eps_hat, along s = sigma / alpha.

With eps_hat for a function of s the probability flow is x'/alpha' = x/alpha + int eps ds.
A polynomial through the evaluations at hand (`multistep`), in ln s or in s, adds to the
left-endpoint rule

    DEIS    sigma' sum_j b_j (eps_j - eps),          sum_j b_j u_j^m = c_m(-h)
    LMS     alpha' (s' - s) sum_j b_j (eps_j - eps), sum_j b_j u_j^m = 1 / (m + 1)

with h and c_m as in `multistep.moments`: the same weights on eps as DPM-Solver++ has on D,
with -h for h. Order 1 is `Euler`.
"""

from dataclasses import dataclass
from typing import Annotated

import jax.numpy as jnp

from jaxdiff.sampling.signature import Denoise, Noise, State, Step
from jaxdiff.sampling.solvers.multistep import (
    Memory,
    MultistepRule,
    exponent,
    moments,
    nodes,
    weights,
)
from jaxdiff.sampling.solvers.rows import cast, on_host
from jaxdiff.types import NoiseLevel
from jaxdiff.types.ranges import Whole, checked

Rows = tuple[NoiseLevel, MultistepRule]


@dataclass(frozen=True)
@checked
class DEIS:
    """Exponential Adams on eps_hat, a polynomial in ln s, N evaluations [DEIS].

    It has the order of convergence in its name; a step that lands is of order 1.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(DEIS(order=3), Karras()(None, 32))
    32
    """

    order: Annotated[int, Whole(1, 4)] = 3

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: State, levels: NoiseLevel) -> tuple[Memory, Rows]:
        grid, xp = on_host(levels)
        step = exponent(grid[:-1], grid[1:], xp)
        c = xp.stack(moments(-step.h, step.finite, self.order, xp), 1)
        u, has = nodes(step.h, step.finite, self.order, False, xp)
        past = tuple(grid.sigma[1:] * b for b in weights(u, has, c[:, 1:], xp))
        return _table(self.order, x, levels, past)

    def step(
        self, denoise: Denoise, x: State, memory: Memory, row: Rows, noise: Noise
    ) -> Step:
        return _step(denoise, x, memory, row)


@dataclass(frozen=True)
@checked
class LMS:
    """Adams-Bashforth in s = sigma / alpha on eps_hat, N evaluations: k-diffusion's LMS.

    It keeps its order on the step that lands on the data.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(LMS(order=4), Karras()(None, 32))
    32
    """

    order: Annotated[int, Whole(1, 4)] = 4

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: State, levels: NoiseLevel) -> tuple[Memory, Rows]:
        grid, xp = on_host(levels)
        some = grid.alpha > 0
        s = grid.sigma / xp.where(some, grid.alpha, 1)
        finite, ds = some[:-1] & some[1:], s[1:] - s[:-1]
        c = xp.ones_like(ds)[:, None] / xp.arange(2.0, self.order + 1)
        u, has = nodes(ds, finite, self.order, False, xp)
        scale = grid.alpha[1:] * ds
        past = tuple(scale * b for b in weights(u, has, c, xp))
        return _table(self.order, x, levels, past)

    def step(
        self, denoise: Denoise, x: State, memory: Memory, row: Rows, noise: Noise
    ) -> Step:
        return _step(denoise, x, memory, row)


def _table(order: int, x: State, levels: NoiseLevel, past: tuple) -> tuple[Memory, Rows]:
    grid, _ = on_host(levels)
    at, to = grid[:-1], grid[1:]
    ratio = to.sigma / at.sigma
    rule = MultistepRule(ratio, to.alpha - at.alpha * ratio, past)
    return (jnp.zeros_like(x),) * (order - 1), cast((levels[:-1], rule), levels)


def _step(denoise: Denoise, x: State, memory: Memory, row: Rows) -> Step:
    at, rule = row
    first = denoise(x, at)
    eps = (x - at.alpha * first.x0) / at.sigma
    return rule(x, first.x0, eps, memory), (eps, *memory)[: len(memory)], first
