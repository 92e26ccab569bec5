"""DPM-Solver++ and UniPC: exponential Adams on D, in the clock ln(alpha / sigma) = lambda.

The reverse SDE with eta times the forward process's noise is, exactly, with H = (1 + eta) h
and q = e^-h = alpha sigma' / (alpha' sigma) [DPM++ eq. 8 and 18],

    x' = (sigma'/sigma) q^eta x + alpha' int_0^1 H e^(-H (1 - u)) D(lambda + u h) du
         + sigma' sqrt(1 - q^(2 eta)) noise,

and D is a polynomial through the evaluations at hand (`multistep`). From alpha = 0 and onto
sigma = 0 h is infinite and the step is of order 1. Only h and the noise level's ray enter:
levels of one logsnr on any path give the same images.

Order 1 is `Euler` where eta = 0, and `DDIM(1.0)` where eta = 1. In between eta is another
thing than DDIM's: a factor of the noise's power there, of the posterior's std in DDIM.
"""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdiff.sampling.signature import Coefficient, Denoise, Noise, State, Step
from jaxdiff.sampling.solvers.multistep import (
    Columns,
    Exponent,
    FlagColumns,
    Memory,
    MultistepRule,
    exponent,
    moments,
    nodes,
    weights,
)
from jaxdiff.sampling.solvers.rows import cast, on_host
from jaxdiff.types import Leaf, NoiseLevel, pytree
from jaxdiff.types.ranges import Choice, NonNegative, Whole, checked

CONSTANTS = ("published", "midpoint", "exact")
"""Of DPM-Solver++."""

SHORTCUTS = ("bh2", "bh1", "exact")
"""UniPC's B(h): e^h - 1 and h, which differ only where one node is left; or neither."""

DPMRow = tuple[NoiseLevel, MultistepRule, Coefficient]
"""Where the step starts, its rule, and the std of the noise after it."""


@dataclass(frozen=True)
@checked
class DPMSolverPP:
    """DPM-Solver++ 2M and 3M, N evaluations; with eta > 0 their SDE forms [DPM++].

    `variant` "exact" integrates the polynomial, so that order p converges with order p.
    The constants of "published" are c_0 / 2 for c_1 at order 2 ("midpoint"), and c_2 / 2
    for c_2 at order 3, which makes 3M converge with order 2, yet better up to some 16
    steps. "midpoint" takes c_0 / 2 on all steps of order 2, including those at the start
    and the end of order 3. `tail` lowers the order on the last steps, as is advised below
    15 steps.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(DPMSolverPP(order=3), Karras()(None, 32))
    32
    """

    order: Annotated[int, Whole(1, 3)] = 2
    eta: NonNegative = 0.0
    variant: Annotated[str, Choice(*CONSTANTS)] = "published"
    tail: bool = False

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: State, levels: NoiseLevel) -> tuple[Memory, DPMRow]:
        grid, xp = on_host(levels)
        at, to = grid[:-1], grid[1:]
        step, p = exponent(at, to, xp), self.order
        c = moments((1 + self.eta) * step.h, step.finite, p, xp)
        u, has = nodes(step.h, step.finite, p, self.tail, xp)
        if p == 2 and self.variant != "exact":
            c[1] = c[0] / 2
        if p == 3 and self.variant != "exact":
            c[2] = c[2] / 2
        if p == 3 and self.variant == "midpoint":
            c[1] = xp.where(has.sum(1) == 1, c[0] / 2, c[1])
        past = weights(u, has, xp.stack(c, 1)[:, 1:], xp)
        decay, noise = 1.0, xp.zeros_like(step.h)
        if self.eta:
            decay = xp.where(step.finite, xp.exp(-self.eta * step.h), 0)
            fresh = -xp.expm1(-2 * self.eta * step.h)
            noise = to.sigma * xp.sqrt(xp.where(step.finite, fresh, 1))
        kept = step.ratio * decay
        past = tuple(to.alpha * b for b in past)
        rule = MultistepRule(kept, to.alpha - at.alpha * kept, past)
        return (jnp.zeros_like(x),) * (p - 1), cast((levels[:-1], rule, noise), levels)

    def step(
        self, denoise: Denoise, x: State, memory: Memory, row: DPMRow, noise: Noise
    ) -> Step:
        at, rule, fresh = row
        first = denoise(x, at)
        x = rule(x, first.x0, first.x0, memory)
        x = x + fresh * noise(0) if self.eta else x
        return x, (first.x0, *memory)[: self.order - 1], first


@pytree
class Correction:
    """x corrected once D is known there: `keep` x + the last step repeated with that D."""

    keep: Leaf
    """1 before the first step, then 0."""
    again: MultistepRule


UniPCRow = tuple[NoiseLevel, Correction, MultistepRule]
"""Where the step starts, the correction of x there, and the prediction from it."""

UniPCMemory = tuple[State, Memory]
"""x as the last step corrected it, and the evaluations of D before, the latest first."""


@dataclass(frozen=True)
@checked
class UniPC:
    """UniP-p predicts, UniC-p corrects by the next evaluation, N in all [UniPC].

    A state is corrected when D is known at it, from where the next step begins; D stays
    what it was before. The order of convergence is `order` + 1 or nearly. `variant` is one
    of `SHORTCUTS`; the published two differ where one node is left, and there alone. With
    `tail`, as published, the order falls on the last steps, which leaves order 2 on a grid
    that stops before the data. `UniP` by itself is `DPMSolverPP(tail=True)`.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(UniPC(order=2), Karras()(None, 32))
    32
    """

    order: Annotated[int, Whole(1, 3)] = 3
    variant: Annotated[str, Choice(*SHORTCUTS)] = "bh2"
    tail: bool = True

    def evaluations(self, lands: bool) -> int:
        return 1

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, UniPCRow]:
        grid, xp = on_host(levels)
        step = exponent(grid[:-1], grid[1:], xp)
        u, has = nodes(step.h, step.finite, self.order, self.tail, xp)
        end = xp.ones_like(step.h)[:, None]
        ahead = (xp.concatenate([end, u], 1), xp.concatenate([end > 0, has], 1))
        predict, correct = (self._rule(grid, step, *at, xp) for at in ((u, has), ahead))
        delayed = lambda a: xp.concatenate([xp.zeros(1), a[:-1]])
        keep = xp.where(xp.arange(end.shape[0]) == 0, 1.0, 0.0)
        correct = Correction(keep, jax.tree.map(delayed, correct))
        rows = cast((levels[:-1], correct, predict), levels)
        return (x, (jnp.zeros_like(x),) * self.order), rows

    def _rule(
        self, grid: NoiseLevel, step: Exponent, u: Columns, has: FlagColumns, xp: Any
    ) -> MultistepRule:
        at, to = grid[:-1], grid[1:]
        c = moments(step.h, step.finite, 1 + u.shape[1], xp)
        if len(c) > 1 and self.variant != "exact":
            b = xp.where(step.finite, step.h, 1) if self.variant == "bh1" else c[0]
            c[1] = xp.where(has.sum(1) == 1, b / 2, c[1])
        past = tuple(to.alpha * b for b in weights(u, has, xp.stack(c, 1)[:, 1:], xp))
        return MultistepRule(step.ratio, to.alpha - at.alpha * step.ratio, past)

    def step(
        self, denoise: Denoise, x: State, memory: UniPCMemory, row: UniPCRow, noise: Noise
    ) -> Step:
        at, correct, predict = row
        before, seen = memory
        first = denoise(x, at)
        again = correct.again(before, seen[0], seen[0], (first.x0, *seen[1:]))
        x = correct.keep * x + again
        end = predict(x, first.x0, first.x0, seen[:-1])
        return end, (x, (first.x0, *seen[:-1])), first
