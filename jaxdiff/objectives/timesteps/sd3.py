"""The laws of t that [SD3] compares on the rectified flow; they serve any path.

    law           t(u), u uniform in (0, 1)
    LogitNormal   ln(t / (1 - t)) = mean + std z                     [SD3 eq. 19]
    Mode          u - scale (sin^2(pi u / 2) - u)                    [SD3 eq. 20]
    CosMap        sin(pi u / 2) / (sin(pi u / 2) + cos(pi u / 2))    [SD3 eq. 21]

with z the normal quantile of u. Mode is written there for 1 - u.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiff.objectives.timesteps.laws import (
    Draw,
    independent,
    no_memory,
    normal,
    unchanged,
)
from jaxdiff.schedules.alpha_bar import invert
from jaxdiff.types import Real, Schedule, Time
from jaxdiff.types.ranges import LogSNR, Range, Spread, checked


@dataclass(frozen=True)
@checked
class LogitNormal:
    """ln(t / (1 - t)) ~ N(mean, std^2) [SD3 eq. 19].

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> float(LogitNormal().quantile(0.5, RectifiedFlow()))
    0.5
    """

    mean: LogSNR = 0.0
    std: Spread = 1.0

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        return jax.nn.sigmoid(self.mean + self.std * normal(u))

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        t = jnp.asarray(t)
        inside = (t > 0) & (t < 1)
        t = jnp.where(inside, t, 0.5)
        logit = jnp.log(t) - jnp.log1p(-t)
        p = jax.scipy.stats.norm.pdf(logit, self.mean, self.std) / (t * (1 - t))
        return jnp.where(inside, p, 0.0)

    def draw(
        self, memory: PyTree, key: PRNGKeyArray, shape: tuple[int, ...], schedule: Schedule
    ) -> Draw:
        t = jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, shape))
        return t, jnp.ones_like(t)

    init = no_memory
    update = unchanged


RISING = Range(-1, 2 / (math.pi - 2), note="beyond, t does not rise with u; SD3 uses 1.29")


@dataclass(frozen=True)
@checked
class Mode:
    """Heavy in the middle for scale > 0, at the ends for scale < 0 [SD3 eq. 20].

    t = u - scale (sin^2(pi u / 2) - u), which rises for -1 <= scale <= 2 / (pi - 2).

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> round(float(Mode().quantile(0.5, RectifiedFlow())), 4)
    0.5
    """

    scale: Annotated[float, RISING] = 1.29

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        u = jnp.asarray(u)
        t = u - self.scale * (jnp.sin(jnp.pi / 2 * u) ** 2 - u)
        return jnp.clip(t, 0.0, 1.0)

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        t = jnp.asarray(t)
        u = 1 - invert(lambda v: self.quantile(1 - v, schedule), t)
        slope = 1 - self.scale * (jnp.pi / 2 * jnp.sin(jnp.pi * u) - 1)
        return jnp.where((t >= 0) & (t <= 1), 1 / slope, 0.0)

    init = no_memory
    draw = independent
    update = unchanged


@dataclass(frozen=True)
@checked
class CosMap:
    """The law whose logsnr on `RectifiedFlow` is that of a uniform t on `Cosine` [SD3].

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> round(float(CosMap().quantile(0.5, RectifiedFlow())), 4)
    0.5
    """

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        sin = jnp.sin(jnp.pi / 2 * jnp.asarray(u))
        return sin / (sin + jnp.sin(jnp.pi / 2 * (1 - jnp.asarray(u))))

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        t = jnp.asarray(t)
        p = 2 / (jnp.pi * (1 - 2 * t + 2 * t**2))
        return jnp.where((t >= 0) & (t <= 1), p, 0.0)

    init = no_memory
    draw = independent
    update = unchanged
