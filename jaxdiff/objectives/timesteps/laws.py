"""Laws of t without a memory: each is a quantile function and a density.

    law               t(u), u uniform in (0, 1)
    Uniform           low + (high - low) u
    UniformEntries    (i + 1) / T, i = floor(u T)                 [DDPM]
    LogUniformSigma   ln(sigma / alpha) uniform
    NormalLogSigma    ln(sigma / alpha) = mean + std z            [EDM]

with z the normal quantile of u. A uniform t on `TrigFlow` is the law of v-diffusion,
sigma / alpha = sigma_data tan(pi u / 2), and on `RectifiedFlow` the log-logistic.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiff.schedules import logsnr_slope
from jaxdiff.types import Real, Schedule, Time
from jaxdiff.types.ranges import Fraction, LogSNR, Positive, Spread, checked

Draw = tuple[Time, Float[Array, "..."]]


@runtime_checkable
class Law(Protocol):
    """A law without a memory: its quantile function and its density."""

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        """The t below which a share u of all draws lies."""
        ...

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        """p(t); 0 outside of the law's range."""
        ...


def no_memory(self: object) -> PyTree:
    """Nothing to remember."""
    return ()


def unchanged(self: object, memory: PyTree, t: Time, loss: Float[Array, " B"]) -> PyTree:
    """The losses leave the law as it is."""
    return memory


def independent(
    self: Law,
    memory: PyTree,
    key: PRNGKeyArray,
    shape: tuple[int, ...],
    schedule: Schedule,
) -> Draw:
    """Independent draws of t."""
    t = self.quantile(jax.random.uniform(key, shape), schedule)
    return t, jnp.ones_like(t)


@dataclass(frozen=True)
@checked
class Uniform:
    """t uniform in [low, high).

    >>> from jaxdiff.schedules import Cosine
    >>> round(float(Uniform(low=0.2, high=0.6).quantile(0.5, Cosine())), 4)
    0.4
    """

    low: Fraction = 0.0
    high: Fraction = 1.0

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Uniform needs low < high, got {self.low} and {self.high}")

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        # held below high, which rounding could reach
        t = self.low + (self.high - self.low) * jnp.asarray(u)
        return jnp.clip(t, self.low, jnp.nextafter(jnp.asarray(self.high, t.dtype), 0))

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        inside = (jnp.asarray(t) >= self.low) & (jnp.asarray(t) < self.high)
        return jnp.where(inside, 1 / (self.high - self.low), 0.0)

    init = no_memory
    draw = independent
    update = unchanged


@dataclass(frozen=True)
@checked
class UniformEntries:
    """One of a table's T entries, each as often: t = (i + 1) / T [DDPM].

    Its density is that of the entries' cells, each an interval of 1 / T around its t.

    >>> from jaxdiff.schedules import ListedBetas, Table
    >>> table = Table(ListedBetas((0.1, 0.1, 0.1, 0.1)))
    >>> [float(UniformEntries().quantile(u, table)) for u in (0.0, 0.3, 0.6, 0.9)]
    [0.25, 0.5, 0.75, 1.0]
    """

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        steps = _entries(self, schedule)
        return jnp.clip(jnp.floor(jnp.asarray(u) * steps) + 1, 1, steps) / steps

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        half = 0.5 / _entries(self, schedule)
        inside = (jnp.asarray(t) >= half) & (jnp.asarray(t) < 1 + half)
        return jnp.where(inside, 1.0, 0.0)

    init = no_memory
    draw = independent
    update = unchanged


@dataclass(frozen=True)
@checked
class LogUniformSigma:
    """ln(sigma / alpha) uniform between the logarithms of two noise levels, on any path.

    >>> from jaxdiff.schedules import LogSigma
    >>> median = LogUniformSigma(sigma_min=0.01, sigma_max=100.0).quantile(0.5, LogSigma())
    >>> round(float(LogSigma()(median).sigma), 3)
    1.0
    """

    sigma_min: Positive = 0.01
    sigma_max: Positive = 80.0

    def __post_init__(self) -> None:
        if not self.sigma_min < self.sigma_max:
            raise ValueError(
                "LogUniformSigma needs sigma_min < sigma_max, got "
                f"{self.sigma_min} and {self.sigma_max}"
            )

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        return schedule.time(-2 * (low + (high - low) * jnp.asarray(u)))

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        low, high = math.log(self.sigma_min), math.log(self.sigma_max)
        log_sigma = -schedule(t).logsnr / 2
        inside = (log_sigma >= low) & (log_sigma <= high)
        slope = -logsnr_slope(schedule, t) / 2
        return jnp.where(inside, slope / (high - low), 0.0)

    init = no_memory
    draw = independent
    update = unchanged


@dataclass(frozen=True)
@checked
class NormalLogSigma:
    """ln(sigma / alpha) ~ N(mean, std^2), on any path [EDM tab. 1].

    EDM uses -1.2 and 1.2, EDM2 -0.4 and 1.0 for latents, -0.8 and 1.6 for pixels.

    >>> from jaxdiff.schedules import LogSigma
    >>> median = NormalLogSigma(mean=-1.2).quantile(0.5, LogSigma())
    >>> round(float(LogSigma()(median).sigma), 3)  # exp(-1.2)
    0.301
    """

    mean: LogSNR = -1.2
    std: Spread = 1.2

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        return schedule.time(-2 * (self.mean + self.std * normal(u)))

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        log_sigma = -schedule(t).logsnr / 2
        p = jax.scipy.stats.norm.pdf(log_sigma, self.mean, self.std)
        return jnp.where(p > 0, -logsnr_slope(schedule, t) / 2 * p, 0.0)

    def draw(
        self, memory: PyTree, key: PRNGKeyArray, shape: tuple[int, ...], schedule: Schedule
    ) -> Draw:
        log_sigma = self.mean + self.std * jax.random.normal(key, shape)
        t = schedule.time(-2 * log_sigma)
        return t, jnp.ones_like(t)

    init = no_memory
    update = unchanged


def normal(u: Real) -> Float[Array, "..."]:
    """The normal quantile of u moved inside by 1e-7, so that 0 and 1 stay finite."""
    return jax.scipy.special.ndtri(jnp.asarray(u) * (1 - 2e-7) + 1e-7)


def _entries(law: object, schedule: Schedule) -> int:
    steps = getattr(schedule, "steps", 0)
    if not steps:
        raise ValueError(
            f"{type(law).__name__} draws a table's entries, but {schedule} is not a table: "
            "use schedules.Table, or times.Uniform()"
        )
    return steps
