"""EDM2's optimiser as links of an Optax chain, each of use in any other chain.

Order is meaning:

    clean the gradient, Adam, learning rate, `power_ema`, `forced_weight_norm`.

`power_ema` averages what Adam made of the parameters; `forced_weight_norm` then brings
every weight back to magnitude 1, which is where the next gradient is taken. A weight that
cannot grow keeps its effective learning rate, so that rate is what the schedule says
[EDM2 sec. 2.3]. Apply `normalized` to the parameters once, before training starts.

Weights are the leaves with two or more axes, the last one being their output units; gains
and other scalars pass through.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxdiff.networks.magnitude import unit_rows, wide
from jaxdiff.posthoc import std_to_exponent


def nan_to_zero() -> optax.GradientTransformation:
    """NaN and +-Inf entries of the gradient become 0; all others stay as they are."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda g: jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g)), updates
        )
    )


def inverse_sqrt_schedule(
    ref_lr: float, ref_batches: float | int, rampup_images: float | int, batch_size: int
) -> optax.Schedule:
    """lr(n) = ref_lr / sqrt(max(n / (ref_batches B), 1)) min(n / rampup_images, 1).

    n = step * B images were seen before this step [EDM2 eq. 67], so that with a ramp-up
    the first step has lr 0. ref_batches = 0 keeps the rate constant after the ramp-up,
    rampup_images = 0 starts at the full rate.

    >>> lr = inverse_sqrt_schedule(0.01, ref_batches=100, rampup_images=0, batch_size=8)
    >>> [round(float(lr(step)), 6) for step in (0, 100, 400)]
    [0.01, 0.01, 0.005]
    """

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step, lr = jnp.asarray(step, float), jnp.asarray(ref_lr)
        if ref_batches:
            lr = lr / jnp.sqrt(jnp.maximum(step / ref_batches, 1))
        if rampup_images:
            lr = lr * jnp.minimum(step * batch_size / rampup_images, 1)
        return lr

    return schedule


class PowerEmaState(NamedTuple):
    """What `power_ema` remembers: steps seen, and one tree of parameters for each std."""

    count: Int[Array, ""]
    averages: tuple[PyTree, ...]


def power_ema(stds: tuple[float, ...]) -> optax.GradientTransformation:
    """Averages params + updates over the run, one average for each relative width `std`.

    After step t of a constant batch size, with gamma = std_to_exponent(std),

        average <- beta average + (1 - beta) params,  beta = (1 - 1/t)^(gamma + 1)

    [EDM2 eq. 127]. beta = 0 at t = 1: the initial parameters leave no trace. Averages are
    float32 or wider; the updates pass through.

    Raises: ValueError on a std outside (0, 12^(-1/2)).
    """
    powers = [std_to_exponent(std) + 1 for std in stds]

    def init(params: PyTree) -> PowerEmaState:
        def copy() -> PyTree:
            return jax.tree.map(lambda p: jnp.array(p, dtype=wide(p.dtype)), params)

        return PowerEmaState(jnp.zeros([], jnp.int32), tuple(copy() for _ in powers))

    def update(
        updates: PyTree, state: PowerEmaState, params: PyTree = None
    ) -> tuple[PyTree, PowerEmaState]:
        _require(params, "power_ema")
        count = optax.safe_increment(state.count)
        raw = jax.tree.map(jnp.add, params, updates)

        def follow(average: PyTree, power: float) -> PyTree:
            # 1 - beta by way of logarithms: float32 would lose it beside beta at large t
            share = -jnp.expm1(power * jnp.log1p(-1 / count.astype(float)))
            return jax.tree.map(
                lambda a, p: _mix(a, p.astype(a.dtype), share), average, raw
            )

        averages = tuple(map(follow, state.averages, powers))
        return updates, PowerEmaState(count, averages)

    return optax.GradientTransformation(init, update)


def forced_weight_norm(eps: float = 1e-4) -> optax.GradientTransformation:
    """Updates that land on unit(params + updates) for every weight [EDM2 eq. 47].

    Last in a chain, since whatever follows would leave that surface again.
    """

    def update(
        updates: PyTree, state: optax.EmptyState, params: PyTree = None
    ) -> tuple[PyTree, optax.EmptyState]:
        _require(params, "forced_weight_norm")

        def land(u: Array, p: Array) -> Array:
            return unit_rows(p + u, eps) - p if p.ndim >= 2 else u

        return jax.tree.map(land, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def normalized(params: PyTree, eps: float = 1e-4) -> PyTree:
    """params with every weight at magnitude 1, where `forced_weight_norm` keeps them."""
    return jax.tree.map(lambda p: unit_rows(p, eps) if p.ndim >= 2 else p, params)


def edm2_adam(
    learning_rate: optax.ScalarOrSchedule,
    stds: tuple[float, ...] = (0.05, 0.1),
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """EDM2's whole optimiser: clean, Adam, rate, averages, weight norm [EDM2 sec. 2.3].

    >>> params = normalized({"weight": jnp.ones([3, 2]), "gain": jnp.zeros([])})
    >>> tx = edm2_adam(0.01, stds=(0.1,))
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> len(averages(state))
    1
    """
    return optax.chain(
        nan_to_zero(),
        optax.scale_by_adam(b1=b1, b2=b2, eps=eps),
        optax.scale_by_learning_rate(learning_rate),
        power_ema(stds),
        forced_weight_norm(),
    )


@dataclass(frozen=True)
class EDM2Optimizer:
    """EDM2's optimiser as a value: `edm2_adam` at the rate of `inverse_sqrt_schedule`.

    `stds` are the relative widths of the power-function EMAs that are tracked.

    Raises:
        ValueError: a rate that is not positive, a beta outside [0, 1), a negative count,
            no stds, or one outside (0, 12^(-1/2)).
    """

    learning_rate: float = 0.01
    ref_batches: float = 70000.0
    rampup_images: float = 10e6
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    stds: tuple[float, ...] = (0.05, 0.10)

    def __post_init__(self) -> None:
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")
        for name in ("ref_batches", "rampup_images", "eps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is negative: {getattr(self, name)}")
        if not self.stds:
            raise ValueError("stds is empty: track one EMA at least, such as (0.05,)")
        for std in self.stds:
            std_to_exponent(std)
        if len(set(self.stds)) < len(self.stds):
            raise ValueError(f"stds names one width twice: {self.stds}")

    def schedule(self, batch_size: int) -> optax.Schedule:
        """Steps made -> learning rate."""
        return inverse_sqrt_schedule(
            self.learning_rate, self.ref_batches, self.rampup_images, batch_size
        )

    def transformation(self, batch_size: int) -> optax.GradientTransformation:
        """The Optax chain."""
        rate = self.schedule(batch_size)
        return edm2_adam(rate, self.stds, b1=self.b1, b2=self.b2, eps=self.eps)


def averages(opt_state: Any) -> tuple[PyTree, ...]:
    """The averages that `power_ema` keeps anywhere in a chain's state, in order of stds.

    () where the chain keeps none.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, PowerEmaState))
    kept = [node.averages for node in nodes if isinstance(node, PowerEmaState)]
    return sum(kept, ())


def _mix(a: Array, b: Array, share: Float[Array, ""]) -> Array:
    """(1 - share) a + share b, exactly a at 0 and exactly b at 1."""
    share = share.astype(a.dtype)
    return jnp.where(share < 0.5, a + share * (b - a), b - (1 - share) * (b - a))


def _require(params: PyTree, name: str) -> None:
    if params is None:
        raise ValueError(f"{name} needs the parameters: tx.update(grads, state, params)")
