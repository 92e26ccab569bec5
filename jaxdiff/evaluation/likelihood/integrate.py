"""Integrators of dy/du = f(u, y) along rising nodes u_0 ... u_N, y any pytree.

A fixed rule has stages at u + c_i h, h = u_{n+1} - u_n, each started from the one before,

    k_i = f(u + c_i h, y + c_i h k_{i-1}),     y' = y + h sum_i b_i k_i,

which Heun's rule and the classical one of order 4 are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
from jaxtyping import Array, Float, Int, PyTree

Field = Callable[[Float[Array, ""], PyTree], PyTree]
"""f(u, y), shaped as y."""


@runtime_checkable
class IntegrationRule(Protocol):
    """(f, y at the first node, nodes) -> y at the last node, and how often f was called."""

    def __call__(
        self, field: Field, start: PyTree, nodes: Float[Array, " N1"]
    ) -> tuple[PyTree, Int[Array, ""] | int]: ...


@dataclass(frozen=True)
class FixedRule:
    """One step from node to node, len(c) evaluations each.

    >>> import jax.numpy as jnp
    >>> middle = FixedRule(c=(0.0, 1 / 2), b=(0.0, 1.0))  # the midpoint rule, order 2
    >>> y, evaluations = middle(lambda u, y: 2 * u, jnp.zeros(()), jnp.array([0.0, 1.0]))
    >>> float(y), evaluations
    (1.0, 2)
    """

    c: tuple[float, ...]
    b: tuple[float, ...]

    def __call__(
        self, field: Field, start: PyTree, nodes: Float[Array, " N1"]
    ) -> tuple[PyTree, int]:
        def step(y: PyTree, ends: tuple[Array, Array]) -> tuple[PyTree, None]:
            u, h = ends[0], ends[1] - ends[0]
            k, total = y, y
            for c, b in zip(self.c, self.b, strict=True):
                k = field(u + c * h, _add(y, c * h, k))
                total = _add(total, b * h, k)
            return total, None

        end, _ = jax.lax.scan(step, start, (nodes[:-1], nodes[1:]))
        return end, len(self.c) * (nodes.shape[0] - 1)


TRAPEZOID = FixedRule(c=(0.0, 1.0), b=(1 / 2, 1 / 2))
"""Heun's rule, order 2."""

RK4 = FixedRule(c=(0.0, 1 / 2, 1 / 2, 1.0), b=(1 / 6, 1 / 3, 1 / 3, 1 / 6))
"""The classical rule of Runge and Kutta, order 4."""


def _add(y: PyTree, h: Float[Array, ""], k: PyTree) -> PyTree:
    return jax.tree.map(lambda y, k: y + h * k, y, k)
