"""Likelihood by the probability flow: log p(x) = log p(x_T) + integral of the divergence.

With J = dD/dx the flow dx = D d(alpha) + eps_hat d(sigma) has the divergence

    tr J d(alpha) + (d - alpha tr J) d(ln sigma).

A denoiser is a function on rays, so a flow between two levels depends on their logSNR
alone: along any path z = k x, and log p(x) = log p(z) + d ln k. The default path is

    alpha = -tanh u, sigma = sech u     dz/du = alpha z - D,   div = d alpha - tr J,

on which sigma / alpha = -1 / sinh u: u is ln(sigma / 2) near the data, 0 where alpha = 0.
Both ends are finite on every schedule, and z stays as large as data or noise is.

The density is that of data with the noise of the first level, which is not 0; for data
themselves its sigma / alpha should be small beside all that they vary by.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree, Shaped

from jaxdiff.evaluation.likelihood.divergence import Divergence, Exact
from jaxdiff.evaluation.likelihood.inputs import require_float
from jaxdiff.evaluation.likelihood.integrate import RK4, IntegrationRule
from jaxdiff.types import Condition, Denoiser, Leaf, NoiseLevel, Real, Schedule, pytree
from jaxdiff.types.arguments import (
    require_denoiser,
    require_keys,
    require_levels,
    require_schedule,
)

PROBES = 1
"""What an image's key is folded with for its probes, as `sampling` folds numbers in."""


@runtime_checkable
class IntegrationPath(Protocol):
    """A path u -> level to integrate along, and back. Every `Schedule` is one."""

    def __call__(self, t: Real) -> NoiseLevel:
        """(alpha, sigma) at t, of the shape of t."""
        ...

    def time(self, logsnr: Real) -> Real:
        """The t at which the path has this logsnr (nats)."""
        ...


@dataclass(frozen=True)
class Arc:
    """alpha = -tanh u, sigma = sech u, u < 0 until alpha = 0 at u = 0.

    On the unit circle at the angle theta = atan2(sigma, alpha), u = ln tan(theta / 2).

    >>> round(float(Arc()(Arc().time(0.0)).snr), 5)
    1.0
    """

    def __call__(self, t: Real) -> NoiseLevel:
        return NoiseLevel(-jnp.tanh(t), 1 / jnp.cosh(t))

    def time(self, logsnr: Real) -> Real:
        return -jnp.arcsinh(jnp.exp(jnp.asarray(logsnr) / 2))


@runtime_checkable
class Prior(Protocol):
    """ln p of one x [...] at the noisiest level."""

    def __call__(self, x: Float[Array, "..."], at: NoiseLevel) -> Float[Array, ""]:
        """The log-density of x [...], in nats."""
        ...


@dataclass(frozen=True)
class GaussianPrior:
    """The law of alpha x0 + sigma eps if x0 ~ N(mean, std^2 I).

    mean = std = 0 is what `sample` starts from, N(0, sigma^2 I). With sigma / alpha = 80
    that misses tens of millinats, most of which the data's mean and std give back.

    >>> density = GaussianPrior()(jnp.zeros(2), NoiseLevel(0.0, 1.0))
    >>> round(float(density), 4)  # -ln(2 pi), in two dimensions
    -1.8379
    """

    mean: Real = 0.0
    std: float = 0.0

    def __call__(self, x: Float[Array, "..."], at: NoiseLevel) -> Float[Array, ""]:
        variance = at.alpha**2 * self.std**2 + at.sigma**2
        square = (x - at.alpha * self.mean) ** 2 / variance
        return -jnp.sum(square + jnp.log(2 * math.pi * variance)) / 2


@pytree
class Density:
    """What the flow says of B images. All but `latent` are [B].

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.schedules import Cosine
    >>> x, keys = jnp.zeros((1, 2)), jax.random.split(jax.random.key(0), 1)
    >>> levels = rising(Cosine(), 4)
    >>> of_x = log_density(gaussian_denoiser(0.0, 0.5), Condition(), x, keys, levels)
    >>> of_x.latent.tolist(), int(of_x.evaluations[0])  # 4 of RK4 in each step
    ([[0.0, 0.0]], 16)
    """

    log_density: Leaf
    """ln p(x), in nats."""
    error: Leaf
    """Its standard error over the probes: 0 if exact, nan for one probe."""
    latent: Leaf
    """[B, ...], x at the last level."""
    evaluations: Leaf
    """Calls of the denoiser, each with one tangent a probe."""


def rising(schedule: Schedule, steps: int, low: float | None = None) -> NoiseLevel:
    """N + 1 levels from nearly clean data, (1, low), to the schedule's end, evenly in u.

    `low` is by default sigma / alpha where the schedule starts, but not below 0.002. As
    every grid, it is of float64 NumPy arrays.

    >>> from jaxdiff.schedules import LogSigma
    >>> levels = rising(LogSigma(), 8, low=0.01)
    >>> levels.sigma.shape, float(levels.sigma[0])
    ((9,), 0.01)

    Raises:
        ValueError: no step, or nothing between `low` and the schedule's end.
    """
    require_schedule(schedule)
    ratio = lambda at: float(at.sigma) / float(at.alpha) if at.alpha else math.inf
    low = max(0.002, ratio(schedule(0.0))) if low is None else low
    high = ratio(schedule(1.0))
    if steps < 1 or not 0 < low < high:
        raise ValueError(
            f"need steps >= 1 and 0 < low < sigma / alpha at the end of {schedule}, which "
            f"is {high:.3g}, got steps = {steps}, low = {low:.3g}; 0.002 is usual"
        )
    u = np.linspace(-np.arcsinh(1 / low), -np.arcsinh(1 / high), steps + 1)
    alpha, sigma = -np.tanh(u), 1 / np.cosh(u)
    alpha[0], sigma[0] = 1.0, low
    return NoiseLevel(alpha, sigma)


def log_density(
    denoise: Denoiser,
    cond: Condition,
    x: Shaped[Array, "B ..."],
    keys: Key[Array, " B"],
    levels: NoiseLevel,
    rule: IntegrationRule = RK4,
    divergence: Divergence = Exact(),
    prior: Prior = GaussianPrior(),
    clock: IntegrationPath = Arc(),
) -> Density:
    """ln p of x [B, ...] at levels[0], by the flow up to levels[-1], where `prior` is p.

    Image b's probes come from keys[b] and all else from x[b]: the batch changes nothing.
    A fixed rule makes its steps from level to level in the clock's u. Levels may be traced.

    Raises:
        ValueError: the grid does not rise from some noise to more, or x is of integers.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.schedules import Cosine
    >>> x, keys = jnp.zeros((1, 2)), jax.random.split(jax.random.key(0), 1)
    >>> toy, levels = gaussian_denoiser(0.0, 0.5), rising(Cosine(), 40)
    >>> round(float(log_density(toy, Condition(), x, keys, levels).log_density[0]), 3)
    -0.452
    """
    require_float(x, "x", "give data and their noise, or pixels to flow_bits_per_dim")
    require_denoiser(denoise)
    require_keys(keys, x.shape[0])
    require_levels(levels)
    _require_rising(levels)
    nodes = clock.time(levels.logsnr)
    to_path, from_path = (_scale(clock(nodes[i]), levels[i]) for i in (0, -1))

    def one(x: Array, cond: Condition, key: Array) -> Density:
        cond = jax.tree.map(lambda a: a[None], cond)
        probes = divergence.probes(jax.random.fold_in(key, PROBES), x)

        def field(u: Float[Array, ""], state: PyTree) -> PyTree:
            at, rate = jax.jvp(clock, (u,), (jnp.ones_like(u),))
            clean = lambda z: denoise(z[None], at, cond).x0[0]
            along = lambda p: jax.jvp(clean, (state[0],), (p,))
            x0, pushed = jax.vmap(along, out_axes=(None, 0))(probes)
            products = jnp.sum((probes * pushed).reshape(len(probes), -1), axis=1)
            growth = rate.sigma / at.sigma
            pull = at.alpha * growth - rate.alpha
            spread = growth * x.size - pull * divergence.traces(products)
            return growth * state[0] - pull * x0, spread

        none = jnp.zeros_like(divergence.traces(jnp.zeros(len(probes), x.dtype)))
        (z, gained), evaluations = rule(field, (to_path * x, none), nodes)
        latent = z / from_path
        end = prior(latent, levels[-1])
        each = end + gained + x.size * (jnp.log(to_path) - jnp.log(from_path))
        error = divergence.error(each)
        return Density(each.mean(), error, latent, jnp.asarray(evaluations))

    return jax.vmap(one)(x, cond, keys)


def _require_rising(levels: NoiseLevel) -> None:
    """Refuses a grid of a sampler, on which the integral is another; traced ones pass."""
    if any(isinstance(a, jax.core.Tracer) for a in (levels.alpha, levels.sigma)):
        return
    with np.errstate(divide="ignore"):
        ratio = np.asarray(levels.sigma) / np.asarray(levels.alpha)
    if len(ratio) < 2 or ratio[0] <= 0 or not (np.diff(ratio) > 0).all():
        seen = np.array2string(ratio, precision=3, threshold=5)
        raise ValueError(
            "a likelihood follows the flow from nearly clean data up to noise, but sigma / "
            f"alpha of this grid is {seen}: use likelihood.rising(schedule, steps)"
        )


def _scale(path: NoiseLevel, level: NoiseLevel) -> Float[Array, ""]:
    """k of two levels on one ray: path = k level."""
    return jnp.hypot(path.alpha, path.sigma) / jnp.hypot(level.alpha, level.sigma)
