"""The one rule of all multistep solvers: integrate the polynomial through what was seen.

On a clock z, a step of h from z_i finds its earlier evaluations f_{i-j} at the nodes
u_j = (z_{i-j} - z_i) / h, u_0 = 0. The polynomial through p of them, integrated over the
step against a kernel with moments c_m = int_0^1 u^m w(u) du, gives f_{i-j} the weight b_j,

    sum_j b_j u_j^m = c_m,      m = 0 ... p - 1.

Since u_0 = 0 that is the step of order 1, f_i c_0, and a sum over b_j (f_{i-j} - f_i) whose
weights solve the equations m >= 1. A node at infinity (alpha = 0, sigma = 0, before the
start) has no weight, so that start-up and landing are entries of a table, not branches.
"""

from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from jaxdiff.sampling.signature import State
from jaxdiff.types import Leaf, NoiseLevel, pytree

Numbers = Float[Array, " N"] | Float[np.ndarray, " N"]
Columns = Float[Array, "N p"] | Float[np.ndarray, "N p"]
Flags = Bool[Array, " N"] | Bool[np.ndarray, " N"]
Memory = tuple[State, ...]
FlagColumns = Bool[Array, "N p"] | Bool[np.ndarray, "N p"]


@pytree
class MultistepRule:
    """`x` x + `x0` D + sum_j `past`_j (f_{i-j} - f_i), where f is D or eps_hat."""

    x: Leaf
    x0: Leaf
    past: tuple[Leaf, ...]

    def __call__(
        self,
        x: State,
        x0: State,
        f: State,
        memory: Memory,
    ) -> State:
        """From x, D, f_i and what came before it, f_{i-1} first."""
        out = self.x * x + self.x0 * x0
        for b, earlier in zip(self.past, memory, strict=True):
            out = out + b * (earlier - f)
        return out


@pytree
class Exponent:
    """q = alpha sigma' / (alpha' sigma) = e^-h, h what a step adds to ln(alpha / sigma)."""

    h: Leaf
    """1 where h is infinite."""
    finite: Leaf
    ratio: Leaf
    """sigma' / sigma."""


def exponent(at: NoiseLevel, to: NoiseLevel, xp: Any) -> Exponent:
    """h by a ratio that is exact at both ends, up or down a grid."""
    above, below = at.alpha * to.sigma, to.alpha * at.sigma
    finite = (above > 0) & (below > 0)
    q = xp.where(finite, above, 1) / xp.where(finite, below, xp.e)
    return Exponent(-xp.log(q), finite, to.sigma / at.sigma)


def moments(h: Numbers, finite: Flags, count: int, xp: Any) -> list[Numbers]:
    """c_m = int_0^1 u^m h e^(-h (1 - u)) du for m < count; 1 where h is infinite.

    c_0 = 1 - e^-h and c_m = 1 - m c_{m-1} / h, which cancels for small h: there the series
    h sum_k (-h)^k m! / (m + k + 1)!.

    >>> [round(float(c[0]), 4) for c in moments(np.ones(1), np.ones(1, bool), 3, np)]
    [0.6321, 0.3679, 0.2642]
    """
    small = abs(h) < 1
    near, far = xp.where(small, h, 0), xp.where(small, 1, h)
    c, out = None, []
    for m in range(count):
        c = -xp.expm1(-far) if c is None else 1 - m * c / far
        term = total = near / (m + 1)
        for k in range(1, 18):  # the first term left out is below 1 / 18!
            term = term * -near / (m + k + 1)
            total = total + term
        out.append(xp.where(finite, xp.where(small, total, c), 1))
    return out


def nodes(
    h: Numbers, finite: Flags, order: int, tail: bool, xp: Any
) -> tuple[Columns, FlagColumns]:
    """u_j, j = 1 ... order - 1, and which of them a step has, the nearest first.

    With `tail` the order falls to 1 again on the last steps.
    """
    count = h.shape[0]
    earlier = lambda a, j, fill: xp.concatenate([xp.full(j, fill), a])[:count]
    gap, has, columns, flags = xp.zeros_like(h), finite, [], []
    for j in range(1, order):
        gap = gap - earlier(xp.where(finite, h, 0), j, 0)
        has = has & earlier(finite, j, False)
        if tail:
            has = has & (xp.arange(count) < count - j)
        columns.append(gap / xp.where(finite, h, 1))
        flags.append(has)
    if not columns:
        return xp.zeros((count, 0)), xp.zeros((count, 0), bool)
    return xp.stack(columns, 1), xp.stack(flags, 1)


def weights(u: Columns, has: FlagColumns, c: Columns, xp: Any) -> tuple[Numbers, ...]:
    """b_j with sum_j b_j u_j^m = c_m, m = 1, 2, ..., as many as a step has nodes."""
    size = u.shape[1]
    if not size:
        return ()
    u = xp.where(has, u, 1)
    powers = xp.stack([u**m for m in range(1, size + 1)], 1)
    both = has[:, :, None] & has[:, None, :]
    system = xp.where(both, powers, xp.eye(size))
    b = xp.linalg.solve(system, xp.where(has, c, 0)[..., None])[..., 0]
    return tuple(b[:, j] for j in range(size))
