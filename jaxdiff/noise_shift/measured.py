"""The shift of a sampler's states: what an estimator of the level says of them and of
forward states of the same nominal level.

    Delta = mean mu(sampled) - mean mu(forward)

and never mean mu - nominal: at a fixed level even the exact posterior's mean is drawn
towards its prior's, and that is no shift.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdiff.types import Leaf, NoiseLevel, pytree

Mean = Callable[[Float[Array, "B ..."]], Float[Array, " B"]]
"""x -> the estimated level, in any coordinate that grows with the noise."""

CERTAIN = 3.0
"""Standard errors beyond which a shift is one."""


@pytree
class Estimates:
    """What an estimator says of n states at each of N levels: [N, n]."""

    sampled: Leaf
    forward: Leaf


@pytree
class Shift:
    """The shift at each of N levels, from most noise to least; all fields are [N]."""

    shift: Leaf
    """mean mu(sampled) - mean mu(forward), in the estimator's coordinate."""
    error: Leaf
    """Its standard error."""
    spread: Leaf
    """The standard deviation of mu(forward): shift / spread says if one state shows it."""
    narrowing: Leaf
    """std mu(sampled) / std mu(forward): below 1, states are too much alike."""

    def signs(self) -> Float[np.ndarray, " N"]:
        """+1 too noisy, -1 too clean, 0 none that the standard error lets see."""
        shift, error = np.asarray(self.shift), np.asarray(self.error)
        return np.where(np.abs(shift) > CERTAIN * error, np.sign(shift), 0.0)

    def verdict(self) -> str:
        """Whether noise awareness guidance can help this sampler at these steps.

        The last level with a shift decides: guidance takes noise away, which harms states
        that arrive too clean, whatever they were before.
        """
        if not np.isfinite(np.asarray(self.shift)).all():
            return "not finite: states or estimates blew up, look at them first"
        seen = np.flatnonzero(self.signs())
        if not len(seen):
            return f"no shift beyond {CERTAIN:g} standard errors: there is nothing to guide"
        last = seen[-1]
        size = f"{float(self.shift[last]):+.4f} ± {float(self.error[last]):.4f}"
        size = f"{size} at level {last} of {len(self.signs())}"
        if self.signs()[last] > 0:
            return f"positive ({size}): states are too noisy, guidance can help"
        return f"negative ({size}): states are too clean, guidance may hurt"


def forward(
    keys: Key[Array, " N"], x0: Float[Array, "B ..."], levels: NoiseLevel
) -> Float[Array, "N B ..."]:
    """Forward states alpha x0 + sigma eps, with fresh noise at each of N levels."""
    noisy = lambda key, at: at.alpha * x0 + at.sigma * jax.random.normal(key, x0.shape)
    return jax.vmap(noisy)(keys, levels)


def estimates(
    mean: Mean, sampled: Float[Array, "N B ..."], forward: Float[Array, "N C ..."]
) -> Estimates:
    """What the estimator says of a trajectory's states and of forward ones, level by level.

    Leave out where alpha = 0 or sigma = 0: `trajectory(...).x[1:-1]`.
    """
    return Estimates(jax.lax.map(mean, sampled), jax.lax.map(mean, forward))


def measure(found: Estimates) -> Shift:
    """The shift, with its standard error, of estimates in both kinds of states.

    >>> import jax.numpy as jnp
    >>> told = Estimates(jnp.asarray([[0.4, 0.6]]), jnp.asarray([[0.2, 0.4]]))
    >>> round(float(measure(told).shift[0]), 6), round(float(measure(told).error[0]), 6)
    (0.2, 0.141421)
    """
    std = lambda a: jnp.std(a, axis=1, ddof=1)
    square = lambda a: std(a) ** 2 / a.shape[1]
    return Shift(
        found.sampled.mean(1) - found.forward.mean(1),
        jnp.sqrt(square(found.sampled) + square(found.forward)),
        std(found.forward),
        std(found.sampled) / std(found.forward),
    )


def density(
    values: Float[np.ndarray, " n"], at: Float[np.ndarray, " m"]
) -> Float[np.ndarray, " m"]:
    """Gaussian kernel density of n values at m points, Scott's bandwidth n^(-1/5) std.

    >>> round(float(density(np.asarray([-1.0, 1.0]), np.zeros(1))[0]), 4)
    0.233
    """
    width = len(values) ** -0.2 * np.std(values, ddof=1)
    z = (np.asarray(at)[:, None] - np.asarray(values)) / width
    return np.exp(-(z**2) / 2).mean(1) / (width * np.sqrt(2 * np.pi))


def draw_densities(
    axes: Any, nominal: float, kinds: dict[str, Float[np.ndarray, " n"]]
) -> None:
    """On Matplotlib axes, the density of each kind's estimates and the nominal level."""
    every = np.concatenate([*kinds.values()])
    margin = 0.1 * np.ptp(every)
    at = np.linspace(every.min() - margin, every.max() + margin, 200)
    for name, values in kinds.items():
        axes.plot(at, density(np.asarray(values), at), label=name)
    axes.axvline(nominal, color="0.3", lw=0.8, ls=":")
