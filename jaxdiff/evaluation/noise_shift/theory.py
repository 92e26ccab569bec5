"""How far an error of a given size moves a state along its schedule [NAG statement 1].

An error e ~ N(0, std^2 I) on top of x at time t makes the noise's variance that of a later
time t + delta. It leaves alpha as it is, so unless alpha = 1 the state leaves the path: a
later time of the same variance is not one of the same SNR. Many noise-only dimensions
report the variance's.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types import NoiseLevel, Real, Schedule, Time

BISECTIONS = 60
"""Halvings of [0, 1]: below float64's rounding."""


def variance_shift(schedule: Schedule, t: Time, std: Real) -> Float[Array, "..."]:
    """delta with sigma(t + delta)^2 = sigma(t)^2 + std^2, exact; 1 - t beyond the path.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> round(float(variance_shift(RectifiedFlow(), 0.3, 0.4)), 6)
    0.2
    """
    t = jnp.asarray(t)
    target = jnp.hypot(schedule(t).sigma, std)
    t = jnp.broadcast_to(t, target.shape).astype(target.dtype)

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        below = schedule(middle).sigma < target
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(0, BISECTIONS, halve, (t, jnp.ones_like(t)))
    return (low + high) / 2 - t


def first_order_shift(schedule: Schedule, t: Time, std: Real) -> Float[Array, "..."]:
    """delta ~ (sqrt(sigma^2 + std^2) - sigma) / sigma'(t) [NAG statement 1].

    Exact where sigma is linear in t; else off by the share sigma'' delta / (2 sigma').

    >>> from jaxdiff.schedules import Cosine
    >>> round(float(first_order_shift(Cosine(), 0.5, 0.5 * 2**-0.5)), 6)
    0.075143
    """
    t = jnp.asarray(t)
    level, slope = jax.jvp(schedule, (t,), (jnp.ones_like(t),))
    return (jnp.hypot(level.sigma, std) - level.sigma) / slope.sigma


def snr_shift(schedule: Schedule, t: Time, std: Real) -> Float[Array, "..."]:
    """delta with the SNR of t + delta that the error leaves: smaller unless alpha = 1.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> round(float(snr_shift(RectifiedFlow(), 0.3, 0.2)), 4)
    0.04
    """
    at = schedule(t)
    noisier = NoiseLevel(at.alpha, jnp.hypot(at.sigma, std))
    return schedule.time(noisier.logsnr) - t
