"""Solvers that evaluate at the middle of each step: DPM-Solver++ 2S and midpoint rules.

    midpoint    x' = x + D_m (alpha' - alpha) + eps_m (sigma' - sigma)

is of order 2 where m is halfway on a clock along whose path alpha and sigma are taken:
DPM-Solver-2 where ln sigma is linear in it and alpha = 1, the midpoint rule of flows where
the path is straight. The state at m is the left-endpoint rule's.

    2S          x' = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) D_m

is the left-endpoint rule with D halfway in ln(sigma / alpha), at the geometric means of the
two levels, which lie on that ray on any path.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from jaxdiff.sampling.signature import Denoise, Noise, State, Step
from jaxdiff.sampling.solvers.euler_heun_ddim import (
    LeftEndpoint,
    left_rule,
    root,
    split,
)
from jaxdiff.sampling.solvers.rows import cast, made_in_float64, on_host
from jaxdiff.schedules import LogSigma
from jaxdiff.types import Leaf, NoiseLevel, Schedule, pytree
from jaxdiff.types.ranges import Fraction, checked


@pytree
class Halfway:
    """One step of 2S: two left-endpoint rules, and the noise that is added after each."""

    mid: NoiseLevel
    to_mid: LeftEndpoint
    to_end: LeftEndpoint
    lands: Leaf
    """bool, whether the step ends on the data, without an evaluation at the middle."""
    fresh: tuple[Leaf, Leaf, Leaf]
    """Of the step's first draw in the middle and at the end, of its second at the end."""


@dataclass(frozen=True)
@checked
class DPMSolverPP2S:
    """DPM-Solver++ 2S, 2 N - 1 evaluations when it lands; eta > 0 adds noise [DPM++].

    With noise in the middle too it is k-diffusion's DPM++ SDE: the draws over the first
    part of a step and over all of it are of one Brownian motion in sigma / alpha, without
    which it is of weak order 1. With `ancestral` there is noise after the whole step alone:
    DPM++ 2S ancestral. Noise is split off as in `DDIM`.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(DPMSolverPP2S(), Karras()(None, 32))
    63
    """

    eta: Fraction = 0.0
    ancestral: bool = False

    def evaluations(self, lands: bool) -> int:
        return 1 if lands else 2

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, Halfway]:
        grid, xp = on_host(levels)
        at, to = grid[:-1], grid[1:]
        down, fresh = split(at, to, self.eta, xp)
        mid, q = _halfway(at, down if self.ancestral else to, xp)
        mid_down, parts = mid, (0 * fresh, fresh, 0 * fresh)
        if not self.ancestral:
            mid_down, mid_fresh = split(at, mid, self.eta, xp)
            # W over (s, s_m) and (s_m, s'), of variance s - s_m and s_m - s'
            first, second = root(1 / (1 + q), xp), root(q / (1 + q), xp)
            parts = (mid_fresh, fresh * first, fresh * second)
        rules = left_rule(at, mid_down), left_rule(at, down)
        return (), cast(Halfway(mid, *rules, to.sigma == 0, parts), levels)

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: Halfway, noise: Noise
    ) -> Step:
        first = denoise(x, row.to_end.at)

        def second() -> State:
            y = row.to_mid(x, first.x0)
            y = y + row.fresh[0] * noise(0) if self.eta else y
            return denoise(y, row.mid).x0

        x0 = jax.lax.cond(row.lands, lambda: first.x0, second)
        x = row.to_end(x, x0)
        x = x + row.fresh[1] * noise(0) if self.eta else x
        x = x + row.fresh[2] * noise(1) if self.eta and not self.ancestral else x
        return x, memory, first


@dataclass(frozen=True)
@checked
class Midpoint:
    """The midpoint rule on the clock's path, order 2, 2 evaluations a step.

    The middle is halfway in the clock's t. Where a clock is infinite, as `LogSigma` is at
    both ends of a path, the step is the left-endpoint rule; one that is finite at the data,
    as `RectifiedFlow`, makes two evaluations on the last step too, and does not end on D.
    The default is k-diffusion's DPM2, DPM-Solver-2; `Midpoint(RectifiedFlow())` the rule
    of flows.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(Midpoint(), Karras()(None, 32))
    63
    """

    clock: Schedule = LogSigma()

    def evaluations(self, lands: bool) -> int:
        return 1 if lands and not np.isfinite(self.clock.time(np.inf)) else 2

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, "MidpointRow"]:
        return (), cast(made_in_float64(self._table, levels), levels)

    def _table(self, levels: NoiseLevel) -> "MidpointRow":
        at, to = levels[:-1], levels[1:]
        t = times(self.clock, levels)
        inside = jnp.isfinite(t[:-1]) & jnp.isfinite(t[1:])
        t = jnp.where(jnp.isfinite(t), t, 0.5)
        path, k = on_path(self.clock, t, levels)
        mid, d = self.clock((t[:-1] + t[1:]) / 2), jax.tree.map(jnp.diff, path)
        per = d.sigma / mid.sigma  # eps_m (sigma' - sigma) = (y - alpha_m D_m) per
        of_d = k[1:] * per * (mid.alpha - path.alpha[:-1] * mid.sigma / path.sigma[:-1])
        of_m = k[1:] * (d.alpha - mid.alpha * per)
        euler = left_rule(at, to)
        scaled = lambda a, b: jnp.where(inside, k[:-1] * a, b)
        return MidpointRow(
            left_rule(at, jax.tree.map(scaled, mid, at)),
            euler.x,
            jnp.where(inside, of_d, euler.x0),
            jnp.where(inside, of_m, 0),
            inside | (to.sigma > 0),
        )

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: "MidpointRow", noise: Noise
    ) -> Step:
        first = denoise(x, row.to_mid.at)
        second = lambda: denoise(row.to_mid(x, first.x0), row.to_mid.to).x0
        x0 = jax.lax.cond(row.looks, second, lambda: first.x0)
        x = row.x * x + row.x0 * first.x0 + row.x0_mid * x0
        return x, memory, first


@pytree
class MidpointRow:
    """One step of the midpoint rule: `x` x + `x0` D + `x0_mid` D_m."""

    to_mid: LeftEndpoint
    x: Leaf
    x0: Leaf
    x0_mid: Leaf
    looks: Leaf
    """bool, whether D_m is evaluated."""


def times(clock: Schedule, levels: NoiseLevel) -> Float[Array, " N"]:
    """The clock's t at each level, infinite where the clock is."""
    inside = (levels.alpha > 0) & (levels.sigma > 0)
    safe = lambda a: jnp.where(inside, a, 1)
    t = clock.time(jax.tree.map(safe, levels).logsnr)
    noise, data = clock.time(-jnp.inf), clock.time(jnp.inf)
    return jnp.where(inside, t, jnp.where(levels.sigma > 0, noise, data))


def on_path(
    clock: Schedule, t: Float[Array, " N"], levels: NoiseLevel
) -> tuple[NoiseLevel, Float[Array, " N"]]:
    """The clock's own levels at t, and k: `levels` are k times as far out."""
    path = clock(t)
    data = levels.sigma == 0
    path = NoiseLevel(jnp.where(data, 1, path.alpha), jnp.where(data, 0, path.sigma))
    return path, jnp.hypot(levels.alpha, levels.sigma) / jnp.hypot(path.alpha, path.sigma)


def _halfway(at: NoiseLevel, to: NoiseLevel, xp: Any) -> tuple[NoiseLevel, Leaf]:
    """The geometric means, and s_m / s; `at` itself where s is 0 or infinite."""
    inside = (at.alpha > 0) & (to.sigma > 0) & (to.alpha > 0)
    mean = lambda a, b: xp.where(inside, root(a * b, xp), a)
    mid = jax.tree.map(mean, at, to)
    q = mid.sigma * at.alpha / (xp.where(inside, mid.alpha, 1) * at.sigma)
    return mid, xp.where(inside, q, 0)
