"""EDM2's optimiser as a chain of Optax links.

Order is meaning:

    clean the gradient, Adam, learning rate, averages, `forced_weight_norm`.

`power_ema` averages what Adam made of the parameters; `forced_weight_norm` then brings
every weight back to magnitude 1, which is where the next gradient is taken. A weight that
cannot grow keeps its effective learning rate, so that rate is what the schedule says
[EDM2 sec. 2.3]. Apply `normalized` to the parameters once, before training starts;
`EDM2Optimizer.start` does so if they are to be kept there.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from jaxdiff.optim.ema import halflife_ema, power_ema
from jaxdiff.optim.ema_profiles import std_to_exponent
from jaxdiff.optim.weight_norm import forced_weight_norm, normalized
from jaxdiff.types import Optimizer, implements
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
    """NaN and +-Inf entries of the gradient become 0; all others stay as they are.

    >>> grads, _ = nan_to_zero().update(jnp.array([jnp.nan, 2.0]), optax.EmptyState())
    >>> grads.tolist()
    [0.0, 2.0]
    """
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

    >>> from jaxdiff.optim import averages
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


@implements(Optimizer)
@dataclass(frozen=True)
@checked
class EDM2Optimizer:
    """EDM2's optimiser as a value: `edm2_adam` at the rate of `inverse_sqrt_schedule`.

    `stds` are the relative widths of the power-function EMAs that are tracked, `halflives`
    the half-lives in images of traditional ones. Without `forced_norm` weights may grow,
    as in configs A to D.

    >>> EDM2Optimizer(stds=(0.05, 0.1)).lengths
    (0.05, 0.1)

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
        settings = self.learning_rate, self.ref_batches, self.rampup_images
        return inverse_sqrt_schedule(*settings, batch_size, more_images)

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
