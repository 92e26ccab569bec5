"""EDM2's optimiser as links of an Optax chain, each of use in any other chain.

Order is meaning:

    clean the gradient, Adam, learning rate, averages, `forced_weight_norm`.

`power_ema` averages what Adam made of the parameters, with a memory that grows with the
run, `halflife_ema` with one that does not; `forced_weight_norm` then brings
every weight back to magnitude 1, which is where the next gradient is taken. A weight that
cannot grow keeps its effective learning rate, so that rate is what the schedule says
[EDM2 sec. 2.3]. Apply `normalized` to the parameters once, before training starts;
`EDM2Optimizer.start` does so if they are to be kept there.

Weights are the leaves with two or more axes, the last one being their output units; gains
and other scalars pass through.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxdiff.networks.mp_layers import unit_rows, wide
from jaxdiff.optim.ema_profiles import std_to_exponent
from jaxdiff.types.ranges import (
    Fraction,
    FractionBelowOne,
    Items,
    NonNegative,
    Positive,
    Range,
    checked,
)


def nan_to_zero() -> optax.GradientTransformation:
    """NaN and +-Inf entries of the gradient become 0; all others stay as they are."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(
            lambda g: jnp.where(jnp.isfinite(g), g, jnp.zeros_like(g)), updates
        )
    )


def inverse_sqrt_schedule(
    ref_lr: float,
    ref_batches: float | int,
    rampup_images: float | int,
    batch_size: int,
    more_images: int = 0,
) -> optax.Schedule:
    """lr(n) = ref_lr / sqrt(max(n / (ref_batches B), 1)) min(n / rampup_images, 1).

    n = step * B + more_images images were seen before this step [EDM2 eq. 67], so that with
    a ramp-up the first step has lr 0. ref_batches = 0 keeps the rate constant after the
    ramp-up, rampup_images = 0 starts at the full rate. `more_images` is not 0 where earlier
    batches were of another size: the rate is then that of a run whose batches were all of
    this size, after as many images.

    >>> lr = inverse_sqrt_schedule(0.01, ref_batches=100, rampup_images=0, batch_size=8)
    >>> [round(float(lr(step)), 6) for step in (0, 100, 400)]
    [0.01, 0.01, 0.005]
    """

    def schedule(step: Int[Array, ""] | int) -> Float[Array, ""]:
        step, lr = jnp.asarray(step, float), jnp.asarray(ref_lr)
        if more_images:
            step = step + more_images / batch_size
        if ref_batches:
            lr = lr / jnp.sqrt(jnp.maximum(step / ref_batches, 1))
        if rampup_images:
            lr = lr * jnp.minimum(step * batch_size / rampup_images, 1)
        return lr

    return schedule


class EmaState(NamedTuple):
    """What an average remembers: steps seen, and one tree of parameters for each length."""

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
        _require(params, name)
        count = optax.safe_increment(state.count)
        raw = jax.tree.map(jnp.add, params, updates)

        def follow(average: PyTree, share: Callable) -> PyTree:
            moved = share(count.astype(float))
            return jax.tree.map(
                lambda a, p: _mix(a, p.astype(a.dtype), moved), average, raw
            )

        return updates, EmaState(count, tuple(map(follow, state.averages, shares)))

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
    halflives: tuple[float, ...] = (),
    forced_norm: bool = True,
) -> optax.GradientTransformation:
    """EDM2's whole optimiser: clean, Adam, rate, averages, weight norm [EDM2 sec. 2.3].

    `halflives` are in steps; without `forced_norm` the chain ends on the averages.

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
        *([halflife_ema(halflives)] if halflives else []),
        *([forced_weight_norm()] if forced_norm else []),
    )


HalfLife = Annotated[float, Range(1, above=True, note="it counts images")]
"""Images, after which a moving average has forgotten half."""


@dataclass(frozen=True)
@checked
class EDM2Optimizer:
    """EDM2's optimiser as a value: `edm2_adam` at the rate of `inverse_sqrt_schedule`.

    `stds` are the relative widths of the power-function EMAs that are tracked, `halflives`
    the half-lives in images of traditional ones. Without `forced_norm` weights may grow,
    as in configs A to D.

    Raises:
        ValueError: a rate that is not positive, a beta outside [0, 1), a negative count,
            no stds, one outside (0, 12^(-1/2)), a half-life of an image or less.
    """

    learning_rate: Positive = 0.01
    ref_batches: NonNegative = 70000.0
    rampup_images: NonNegative = 10e6
    b1: FractionBelowOne = 0.9
    b2: FractionBelowOne = 0.99
    eps: Fraction = 1e-8
    stds: Annotated[tuple[Positive, ...], Items(1, 100, "such as (0.05,)")] = (0.05, 0.10)
    halflives: Annotated[tuple[HalfLife, ...], Items(0, 100)] = ()
    forced_norm: bool = True

    def __post_init__(self) -> None:
        for std in self.stds:
            std_to_exponent(std)
        for name in ("stds", "halflives"):
            lengths = getattr(self, name)
            if len(set(lengths)) < len(lengths):
                raise ValueError(f"{name} has one length twice: {lengths}")

    @property
    def lengths(self) -> tuple[float, ...]:
        """The averages that are tracked, in the order of `averages`: stds, half-lives.

        A std is below 1 and a half-life above, so a length says which it is.
        """
        return self.stds + self.halflives

    def schedule(self, batch_size: int, more_images: int = 0) -> optax.Schedule:
        """Steps made -> learning rate; `more_images` as in `inverse_sqrt_schedule`."""
        given = self.learning_rate, self.ref_batches, self.rampup_images
        return inverse_sqrt_schedule(*given, batch_size, more_images)

    def transformation(
        self, batch_size: int, more_images: int = 0
    ) -> optax.GradientTransformation:
        """The Optax chain; `more_images` as in `inverse_sqrt_schedule`."""
        rate = self.schedule(batch_size, more_images)
        halflives = tuple(halflife / batch_size for halflife in self.halflives)
        betas = {"b1": self.b1, "b2": self.b2, "eps": self.eps}
        return edm2_adam(
            rate, self.stds, halflives=halflives, forced_norm=self.forced_norm, **betas
        )

    def start(self, params: PyTree) -> PyTree:
        """Initial parameters as training starts from them: normalised, if kept so."""
        return normalized(params) if self.forced_norm else params


def averages(opt_state: Any) -> tuple[PyTree, ...]:
    """The averages kept anywhere in a chain's state, in the chain's order and lengths'.

    () where the chain keeps none.
    """
    nodes = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, EmaState))
    kept = [node.averages for node in nodes if isinstance(node, EmaState)]
    return sum(kept, ())


def _mix(a: Array, b: Array, share: Float[Array, ""]) -> Array:
    """(1 - share) a + share b, exactly a at 0 and exactly b at 1."""
    share = share.astype(a.dtype)
    return jnp.where(share < 0.5, a + share * (b - a), b - (1 - share) * (b - a))


def _require(params: PyTree, name: str) -> None:
    if params is None:
        raise ValueError(f"{name} needs the parameters: tx.update(grads, state, params)")
