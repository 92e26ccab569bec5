"""Rules of guidance: how the differences D - D_i, weighted by w_i, are added to D.

Sums over an image are over all axes but the first. A prediction is
F = (D - c_skip x) / c_out, so rules that are linear in F, or use ratios, need no c_out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdiff.denoisers.parameterizations import X0, Flow
from jaxdiff.sampling.signature import State
from jaxdiff.types import NoiseLevel, Parameterization, Real
from jaxdiff.types.ranges import Finite, Fraction, Limit, checked

Pairs = Sequence[tuple[State, Real]]
"""D_i [B, ...] and its weight, which broadcasts against it; 0 = not guided."""


@runtime_checkable
class Rule(Protocol):
    """(x, level, D, pairs, memory) -> (guided D, memory); D itself if all weights are 0."""

    def init(self, x: State, weaker: int) -> PyTree:
        """The memory before the first step, for `weaker` weaker denoisers."""
        ...

    def __call__(
        self, x: State, at: NoiseLevel, x0: State, pairs: Pairs, memory: PyTree
    ) -> tuple[State, PyTree]:
        """The guided x0 [B, ...] and the memory after this step.

        `x` [B, ...] is at the level `at`, `x0` is D(x), `pairs` has each weaker D_i(x)
        with its weight.
        """
        ...


@dataclass(frozen=True)
@checked
class Sum:
    """D + sum_i w_i (D - D_i).

    >>> x, at = jnp.zeros((1, 2)), NoiseLevel(1.0, 0.5)
    >>> x0, weaker = jnp.array([[1.0, 2.0]]), jnp.array([[0.5, 1.0]])
    >>> Sum()(x, at, x0, [(weaker, 2.0)], ())[0].tolist()
    [[2.0, 4.0]]
    """

    def init(self, x: State, weaker: int) -> PyTree:
        return ()

    def __call__(
        self, x: State, at: NoiseLevel, x0: State, pairs: Pairs, memory: PyTree
    ) -> tuple[State, PyTree]:
        guided = x0
        for other, w in pairs:
            guided = guided + w * (x0 - other)
        return guided, memory


@dataclass(frozen=True)
@checked
class Rescaled:
    """Another rule's F, with part of its standard deviation taken back [ZTSNR sec. 3.4].

    F' = phi (std(F) / std(F_guided)) F_guided + (1 - phi) F_guided, image by image, with F
    the prediction `on`. This is not linear, so rescaling x0, eps or v gives different
    results. An image where F is constant is not rescaled.

    >>> x, at = jnp.zeros((1, 2)), NoiseLevel(1.0, 0.5)
    >>> x0, weaker = jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2))
    >>> Rescaled(Sum(), phi=1.0)(x, at, x0, [(weaker, 1.0)], ())[0].round(3).tolist()
    [[1.0, 2.0]]
    """

    of: Rule
    phi: Fraction
    on: Parameterization = X0()

    def init(self, x: State, weaker: int) -> PyTree:
        return self.of.init(x, weaker)

    def __call__(
        self, x: State, at: NoiseLevel, x0: State, pairs: Pairs, memory: PyTree
    ) -> tuple[State, PyTree]:
        guided, memory = self.of(x, at, x0, pairs, memory)
        skip = self.on(at).c_skip * x
        f, f_guided = x0 - skip, guided - skip
        variances = (_dot(g - _mean(g), g - _mean(g)) for g in (f, f_guided))
        variance, guided_variance = _together_positive(*variances)
        ratio = jnp.sqrt(variance / guided_variance)
        return skip + (1 + self.phi * (ratio - 1)) * f_guided, memory


@dataclass(frozen=True)
@checked
class Projected:
    """Adaptive projected guidance [APG alg. 1], with a memory m_i of each difference.

    Once a step, m <- (D - D_i) + momentum m is clipped to the norm `limit` and split into
    components along D and orthogonal to it; the guided D is D + w (orthogonal + parallel
    along). Steps without guidance do not change m. The norm is over an image: it grows
    with the square root of its number of elements.

    >>> x, at = jnp.zeros((1, 2)), NoiseLevel(1.0, 0.5)
    >>> x0, weaker = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, -1.0]])
    >>> rule = Projected(limit=10.0)
    >>> rule(x, at, x0, [(weaker, 1.0)], rule.init(x, 1))[0].round(3).tolist()
    [[1.0, 1.0]]
    """

    limit: Limit
    momentum: Finite = -0.5
    parallel: Finite = 0.0

    def init(self, x: State, weaker: int) -> PyTree:
        return (jnp.zeros_like(x),) * weaker

    def __call__(
        self, x: State, at: NoiseLevel, x0: State, pairs: Pairs, memory: PyTree
    ) -> tuple[State, PyTree]:
        guided, kept = x0, []
        for (other, w), m in zip(pairs, memory, strict=True):
            m = jnp.where(w == 0, m, x0 - other + self.momentum * m)
            (length2,) = _together_positive(_dot(m, m))
            short = m * jnp.minimum(1, self.limit / jnp.sqrt(length2))
            (norm2,) = _together_positive(_dot(x0, x0))
            along = _dot(short, x0) / norm2 * x0
            guided = guided + w * (short - (1 - self.parallel) * along)
            kept.append(m)
        return guided, tuple(kept)


@dataclass(frozen=True)
@checked
class ZeroStar:
    """CFG-Zero*: guidance away from the weaker prediction's optimal multiple [CFG-Zero].

    F + sum_i w_i (F - s_i F_i), s_i = <F, F_i> / |F_i|^2 image by image, F the flow.

    >>> x, at = jnp.zeros((1, 2)), NoiseLevel(1.0, 0.5)
    >>> x0, weaker = jnp.array([[1.0, 1.0]]), jnp.array([[0.5, 0.5]])
    >>> ZeroStar()(x, at, x0, [(weaker, 3.0)], ())[0].round(3).tolist()
    [[1.0, 1.0]]
    """

    on: Parameterization = Flow()

    def init(self, x: State, weaker: int) -> PyTree:
        return ()

    def __call__(
        self, x: State, at: NoiseLevel, x0: State, pairs: Pairs, memory: PyTree
    ) -> tuple[State, PyTree]:
        skip, guided = self.on(at).c_skip * x, x0
        for other, w in pairs:
            f, f_other = x0 - skip, other - skip
            (norm2,) = _together_positive(_dot(f_other, f_other))
            guided = guided + w * (f - _dot(f, f_other) / norm2 * f_other)
        return guided, memory


def _mean(a: State) -> State:
    return jnp.mean(a, axis=tuple(range(1, a.ndim)), keepdims=True)


def _dot(a: State, b: State) -> State:
    """<a, b> for each image, [B, 1, ...]."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def _together_positive(*squares: State) -> list[State]:
    """Sums of squares, all replaced by 1 where any is 0, to divide by safely."""
    positive = jnp.stack(squares).min(0) > 0
    return [jnp.where(positive, square, 1) for square in squares]
