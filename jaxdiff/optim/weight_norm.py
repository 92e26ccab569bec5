"""Forced weight normalisation [EDM2 eq. 47]: every weight at magnitude 1 after each step.

Weights are the leaves with two or more axes, the last one being their output units; gains
and other scalars pass through.
"""

import jax
import optax
from jaxtyping import Array, PyTree

from jaxdiff.optim.ema import require_params
from jaxdiff.types.magnitude import unit_rows


def forced_weight_norm(eps: float = 1e-4) -> optax.GradientTransformation:
    """Updates that land on unit(params + updates) for every weight [EDM2 eq. 47].

    Behind everything in a chain that changes the updates, which would leave that surface
    again; averages may follow.

    >>> import jax.numpy as jnp
    >>> params, tx = {"weight": jnp.ones((4, 2))}, forced_weight_norm()
    >>> updates, _ = tx.update({"weight": jnp.ones((4, 2))}, tx.init(params), params)
    >>> (params["weight"] + updates["weight"])[0].round(2).tolist()  # not 2
    [1.0, 1.0]
    """

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree = None
    ) -> tuple[PyTree, optax.EmptyState]:
        require_params(params, "forced_weight_norm")

        def land(u: Array, p: Array) -> Array:
            return unit_rows(p + u, eps) - p if p.ndim >= 2 else u

        return jax.tree.map(land, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def normalized(params: PyTree, eps: float = 1e-4) -> PyTree:
    """params with every weight at magnitude 1, where `forced_weight_norm` keeps them.

    >>> import jax.numpy as jnp
    >>> params = normalized({"weight": 3 * jnp.ones((4, 2)), "gain": jnp.full((), 3.0)})
    >>> params["weight"][0].round(2).tolist(), float(params["gain"])
    ([1.0, 1.0], 3.0)
    """
    return jax.tree.map(lambda p: unit_rows(p, eps) if p.ndim >= 2 else p, params)
