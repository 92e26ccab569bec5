"""Traces of a Jacobian J from products p . J p with probes p, [K] numbers an image.

    exact             tr J = sum_i e_i . J e_i           d probes, the unit vectors
    Hutchinson        tr J = E[p . J p]                  p_i = +1 or -1 with equal odds
    Skilling          tr J = E[p . J p]                  p ~ N(0, I)

An estimate holds its probes fixed along the whole flow, so that what is integrated is one
smooth function, and the integral is unbiased too. With S = (J + J^T) / 2 a probe's
variance is 2 sum_{i != j} S_ij^2 by Hutchinson, and 2 sum_ij S_ij^2 by Skilling.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


@runtime_checkable
class Divergence(Protocol):
    """Probes of an image, and what their products say. A frozen, hashable value."""

    def probes(self, key: Key[Array, ""], x: Float[Array, "..."]) -> Float[Array, "K ..."]:
        """K vectors of the shape of x."""
        ...

    def traces(self, products: Float[Array, " K"]) -> Float[Array, " E"]:
        """E independent estimates of the trace; one if it is exact."""
        ...

    def error(self, estimates: Float[Array, " E"]) -> Float[Array, ""]:
        """The standard error of their mean; nan where one estimate cannot say."""
        ...


@dataclass(frozen=True)
class Exact:
    """All d unit vectors: for small dimensions.

    >>> Exact().probes(jax.random.key(0), jnp.zeros(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def probes(self, key: Key[Array, ""], x: Float[Array, "..."]) -> Float[Array, "K ..."]:
        return jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)

    def traces(self, products: Float[Array, " K"]) -> Float[Array, " E"]:
        return jnp.sum(products, keepdims=True)

    def error(self, estimates: Float[Array, " E"]) -> Float[Array, ""]:
        return jnp.zeros((), estimates.dtype)


@dataclass(frozen=True)
class Hutchinson:
    """`count` vectors of signs: the smallest variance that independent elements can have.

    >>> Hutchinson(2).probes(jax.random.key(0), jnp.zeros(3)).shape
    (2, 3)
    """

    count: int = 1

    def __post_init__(self) -> None:
        _require_probes(self.count)

    def probes(self, key: Key[Array, ""], x: Float[Array, "..."]) -> Float[Array, "K ..."]:
        sign = lambda key: jax.random.rademacher(key, x.shape, x.dtype)
        return jax.vmap(sign)(_keys(key, self.count))

    def traces(self, products: Float[Array, " K"]) -> Float[Array, " E"]:
        return products

    def error(self, estimates: Float[Array, " E"]) -> Float[Array, ""]:
        return _error(estimates)


@dataclass(frozen=True)
class Skilling:
    """`count` unit normal vectors.

    >>> Skilling(2).probes(jax.random.key(0), jnp.zeros(3)).shape
    (2, 3)
    """

    count: int = 1

    def __post_init__(self) -> None:
        _require_probes(self.count)

    def probes(self, key: Key[Array, ""], x: Float[Array, "..."]) -> Float[Array, "K ..."]:
        normal = lambda key: jax.random.normal(key, x.shape, x.dtype)
        return jax.vmap(normal)(_keys(key, self.count))

    def traces(self, products: Float[Array, " K"]) -> Float[Array, " E"]:
        return products

    def error(self, estimates: Float[Array, " E"]) -> Float[Array, ""]:
        return _error(estimates)


def _keys(key: Key[Array, ""], count: int) -> Key[Array, " K"]:
    """Key k is a function of k alone: more probes leave the first ones as they are."""
    return jax.vmap(lambda k: jax.random.fold_in(key, k))(np.arange(count))


def _error(estimates: Float[Array, " E"]) -> Float[Array, ""]:
    return jnp.std(estimates, ddof=1) / math.sqrt(estimates.size)


def _require_probes(count: int) -> None:
    if count < 1:
        raise ValueError(f"an estimate needs at least 1 probe, got {count}; Exact() has d")
