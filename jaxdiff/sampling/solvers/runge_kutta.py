"""Runge-Kutta methods on a clock: classical solvers of dx/dt along a schedule's path.

    dx/dt = alpha'(t) D + sigma'(t) eps_hat

with slopes by `jax.jvp`. A method is a table: stage i is at t + c_i h and starts from
x + h sum_j a_ij k_j, and the step ends at x + h sum_i b_i k_i. Which path it is and which t
matter, as they do not to exponential solvers, so the clock names both: y = x / k is on its
path, on the ray of the grid's x, so levels of one logsnr give the same images.

On the data D = x and E[eps | x] = 0, so the velocity there is alpha'(0) x, and the
network is not evaluated.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdiff.sampling.signature import Denoise, Noise, State, Step
from jaxdiff.sampling.solvers.euler_heun_ddim import LeftEndpoint, left_rule
from jaxdiff.sampling.solvers.midpoint import on_path, times
from jaxdiff.sampling.solvers.rows import cast, made_in_float64
from jaxdiff.schedules import RectifiedFlow
from jaxdiff.types import Leaf, NoiseLevel, Schedule, pytree
from jaxdiff.types.ranges import Choice, checked

METHODS = {
    "euler": ((), (1.0,)),
    "heun": (((1.0,),), (1 / 2, 1 / 2)),
    "midpoint": (((1 / 2,),), (0.0, 1.0)),
    "rk4": (((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
}
"""a and b of each; c_i is the sum of row i of a."""


@pytree
class Stages:
    """One step: its levels, and S stages on the clock's path."""

    step: LeftEndpoint
    h: Leaf
    k: tuple[Leaf, Leaf]
    """How much further out than the clock's path both levels are."""
    path: tuple[NoiseLevel, ...]
    slope: tuple[NoiseLevel, ...]


@dataclass(frozen=True)
@checked
class RungeKutta:
    """A method of `METHODS` in the clock's t: "rk4", order 4, by default.

    S evaluations a step. One that lands on the data is the left-endpoint rule, which ends
    on D and leaves an error of order 2; with `full` it is a step like any other, whose
    stages on the data cost nothing: for smooth laws and networks that are good at small
    noise. The clock's slopes must be finite where the grid goes.

    >>> from jaxdiff.sampling import evaluations
    >>> from jaxdiff.sampling.grids import Karras
    >>> evaluations(RungeKutta(method="rk4"), Karras()(None, 32))  # 31 x 4 + 1
    125
    """

    clock: Schedule = RectifiedFlow()
    method: Annotated[str, Choice(*METHODS)] = "rk4"
    full: bool = False

    def evaluations(self, lands: bool) -> int:
        c = _places(self.method)
        return (len(c) - c.count(1) if self.full else 1) if lands else len(c)

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, Stages]:
        return (), cast(made_in_float64(self._table, levels), levels)

    def _table(self, levels: NoiseLevel) -> Stages:
        row, t = left_rule(levels[:-1], levels[1:]), times(self.clock, levels)
        _, k = on_path(self.clock, t, levels)
        landing = row.to.sigma == 0
        h = t[1:] - t[:-1]
        stages, slopes = [], []
        for c in _places(self.method):
            place = t[:-1] + c * h
            place = place if self.full else jnp.where(landing, t[:-1], place)
            at, slope = jax.jvp(self.clock, (place,), (jnp.ones_like(place),))
            data = landing & (c == 1) & self.full
            at = NoiseLevel(at.alpha, jnp.where(data, 0, at.sigma))
            slopes.append(NoiseLevel(slope.alpha, jnp.where(data, 0, slope.sigma)))
            stages.append(at)
        return Stages(row, h, (k[:-1], k[1:]), tuple(stages), tuple(slopes))

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: Stages, noise: Noise
    ) -> Step:
        first = denoise(x, row.step.at)
        whole = lambda: self._whole(denoise, x / row.k[0], first.x0, row) * row.k[1]
        if self.full:
            return whole(), memory, first
        lands = lambda: row.step(x, first.x0)
        return jax.lax.cond(row.step.to.sigma > 0, whole, lands), memory, first

    def _whole(
        self,
        denoise: Denoise,
        x: State,
        x0: State,
        row: Stages,
    ) -> State:
        a, b = METHODS[self.method]
        k: list[State] = []
        for c, coefficients, at, slope in zip(
            _places(self.method), ((), *a), row.path, row.slope, strict=True
        ):
            y = x + row.h * sum(w * v for w, v in zip(coefficients, k, strict=True) if w)
            if not k:
                d = x0
            elif self.full and c == 1:
                evaluate = lambda y=y, at=at: denoise(y, at).x0
                d = jax.lax.cond(at.sigma > 0, evaluate, lambda y=y: y)
            else:
                d = denoise(y, at).x0
            eps = (y - at.alpha * d) / jnp.where(at.sigma > 0, at.sigma, 1)
            k.append(slope.alpha * d + slope.sigma * eps)
        return x + row.h * sum(w * v for w, v in zip(b, k, strict=True) if w)


def _places(method: str) -> list[float]:
    return [float(sum(coefficients)) for coefficients in ((), *METHODS[method][0])]
