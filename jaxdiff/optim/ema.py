"""Averages of the parameters during training, as links of an Optax chain.

The memory of `power_ema` grows with the run, those of `halflife_ema` and `constant_ema` do
not. All average params + updates and pass the updates through, so they stand after the
learning rate and before `forced_weight_norm`.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxdiff.optim.ema_profiles import std_to_exponent
from jaxdiff.types.magnitude import wide


class EmaState(NamedTuple):
    """What an average remembers: steps seen, and one tree of parameters for each length.

    >>> tx, params = constant_ema((0.75,)), {"w": jnp.zeros(())}
    >>> _, state = tx.update({"w": jnp.ones(())}, tx.init(params), params)
    >>> state == EmaState(jnp.int32(1), ({"w": jnp.float32(0.25)},))
    True
    """

    count: Int[Array, ""]
    averages: tuple[PyTree, ...]


def power_ema(stds: tuple[float, ...]) -> optax.GradientTransformation:
    """Averages params + updates over the run, one average for each relative width `std`.

    After step t of a constant batch size, with gamma = std_to_exponent(std),

        average <- beta average + (1 - beta) params,  beta = (1 - 1/t)^(gamma + 1)

    [EDM2 eq. 127]. beta = 0 at t = 1: the initial parameters leave no trace. Averages are
    float32 or wider; the updates pass through.

    >>> tx, params = power_ema((0.1,)), {"w": jnp.zeros(())}
    >>> _, state = tx.update({"w": jnp.ones(())}, tx.init(params), params)
    >>> float(averages(state)[0]["w"])
    1.0

    Raises: ValueError on a std outside (0, 12^(-1/2)).
    """
    powers = [std_to_exponent(std) + 1 for std in stds]
    # 1 - beta by way of logarithms: float32 would lose it beside beta at large t
    return _running(
        "power_ema",
        [lambda t, power=power: -jnp.expm1(power * jnp.log1p(-1 / t)) for power in powers],
    )


def halflife_ema(
    halflives: tuple[float, ...], rampup: float = 0.09
) -> optax.GradientTransformation:
    """Traditional averages of params + updates, one for each half-life h > 0, in steps.

    After step t, average <- beta average + (1 - beta) params with

        beta = 2^(-1 / min(h, rampup t)),

    so that early averages, whose half-life is a share `rampup` of the run, forget the
    initial parameters. In a long run of T steps the relative width is h / (T ln 2).
    Averages are float32 or wider; the updates pass through.

    >>> tx, params = halflife_ema((1.0,), rampup=1.0), {"w": jnp.zeros(())}
    >>> _, state = tx.update({"w": jnp.ones(())}, tx.init(params), params)
    >>> float(averages(state)[0]["w"])
    0.5

    Raises: ValueError on a half-life or a rampup that is not positive.
    """
    for value in (*halflives, rampup):
        if not value > 0:
            raise ValueError(f"half-lives and rampup must be above 0, got {value}")
    return _running(
        "halflife_ema",
        [
            lambda t, h=h: -jnp.expm1(-math.log(2) / jnp.minimum(h, rampup * t))
            for h in halflives
        ],
    )


def constant_ema(decays: tuple[float, ...]) -> optax.GradientTransformation:
    """Averages of params + updates with a constant memory, one for each decay.

    Every step, average <- decay average + (1 - decay) params, from the initial parameters
    on, which after t steps still have the share decay^t. Averages are float32 or wider; the
    updates pass through.

    >>> tx, params = constant_ema((0.75,)), {"w": jnp.zeros(())}
    >>> _, state = tx.update({"w": jnp.ones(())}, tx.init(params), params)
    >>> float(averages(state)[0]["w"])
    0.25

    Raises: ValueError on a decay outside [0, 1).
    """
    for decay in decays:
        if not 0 <= decay < 1:
            raise ValueError(f"decays must lie in [0, 1), got {decay}")
    # 1 - decay in float64: float32 would lose it beside 1
    return _running(
        "constant_ema",
        [lambda t, share=1 - decay: jnp.full_like(t, share) for decay in decays],
    )


def _running(
    name: str, shares: list[Callable[[Float[Array, ""]], Float[Array, ""]]]
) -> optax.GradientTransformation:
    """Averages that step t moves to params + updates by the share 1 - beta of t each."""

    def init(params: PyTree) -> EmaState:
        def copy() -> PyTree:
            return jax.tree.map(lambda p: jnp.array(p, dtype=wide(p.dtype)), params)

        return EmaState(jnp.zeros([], jnp.int32), tuple(copy() for _ in shares))

    def update(
        updates: PyTree, state: EmaState, params: PyTree = None
    ) -> tuple[PyTree, EmaState]:
        require_params(params, name)
        count = optax.safe_increment(state.count)
        raw = jax.tree.map(jnp.add, params, updates)

        def follow(average: PyTree, share: Callable) -> PyTree:
            moved = share(count.astype(float))
            return jax.tree.map(
                lambda a, p: _mix(a, p.astype(a.dtype), moved), average, raw
            )

        return updates, EmaState(count, tuple(map(follow, state.averages, shares)))

    return optax.GradientTransformation(init, update)


def averages(opt_state: Any) -> tuple[PyTree, ...]:
    """The averages kept anywhere in a chain's state, in the chain's order and lengths'.

    () where the chain keeps none.

    >>> tx = optax.chain(optax.sgd(0.1), power_ema((0.05, 0.1)))
    >>> len(averages(tx.init({"w": jnp.zeros(3)})))
    2
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, EmaState))
    kept = [node.averages for node in nodes if isinstance(node, EmaState)]
    return sum(kept, ())


def _mix(a: Array, b: Array, share: Float[Array, ""]) -> Array:
    """(1 - share) a + share b, exactly a at 0 and exactly b at 1."""
    share, low = share.astype(a.dtype), share < 0.5
    return jnp.where(low, a, b) + jnp.where(low, share, share - 1) * (b - a)


def require_params(params: PyTree, name: str) -> None:
    """Refuses an update without parameters, by the name of the transformation.

    Raises: ValueError where `params` is None.
    """
    if params is None:
        raise ValueError(f"{name} needs the parameters: tx.update(grads, state, params)")
