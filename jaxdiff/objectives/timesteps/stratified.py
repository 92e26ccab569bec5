"""Laws that spread the draws of one batch: each image gets its share of a law.

    Stratified    t_i = of((i + U_i) / B)              a U for each image i of B
    Antithetic    t_i = of((U + i / B) mod 1)          one U for the batch           [VDM]

Every t_i of Antithetic, and a random one of Stratified, has the law `of` itself.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiff.objectives.timesteps.laws import Draw, Law, Uniform, no_memory, unchanged
from jaxdiff.types import Real, Schedule, Time
from jaxdiff.types.ranges import checked


@dataclass(frozen=True)
@checked
class Stratified:
    """A law with one draw from each of B equal shares of it, B the images of the batch.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> t, weight = Stratified().draw((), jax.random.key(0), (4,), RectifiedFlow())
    >>> sorted((4 * t).astype(int).tolist())  # one in each quarter
    [0, 1, 2, 3]
    """

    of: Law = Uniform()

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        return self.of.quantile(u, schedule)

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        return self.of.density(t, schedule)

    def draw(
        self, memory: PyTree, key: PRNGKeyArray, shape: tuple[int, ...], schedule: Schedule
    ) -> Draw:
        return _in_shares(self.of, jax.random.uniform(key, shape), schedule)

    init = no_memory
    update = unchanged


@dataclass(frozen=True)
@checked
class Antithetic:
    """A law drawn at B places with equal shares between them, one random offset [VDM].

    Each t has the law; together they leave the mean loss far less variance.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> t, weight = Antithetic().draw((), jax.random.key(0), (4,), RectifiedFlow())
    >>> jnp.diff(jnp.sort(t)).round(4).tolist()  # a quarter apart
    [0.25, 0.25, 0.25]
    """

    of: Law = Uniform()

    def quantile(self, u: Real, schedule: Schedule) -> Time:
        return self.of.quantile(u, schedule)

    def density(self, t: Time, schedule: Schedule) -> Float[Array, "..."]:
        return self.of.density(t, schedule)

    def draw(
        self, memory: PyTree, key: PRNGKeyArray, shape: tuple[int, ...], schedule: Schedule
    ) -> Draw:
        offset = jnp.broadcast_to(jax.random.uniform(key) * math.prod(shape), shape)
        return _in_shares(self.of, offset, schedule)

    init = no_memory
    update = unchanged


def _in_shares(law: Law, offset: Float[Array, "..."], schedule: Schedule) -> Draw:
    """The law at u_i = (i + offset_i) / B mod 1."""
    place = jnp.arange(offset.size, dtype=offset.dtype).reshape(offset.shape) + offset
    below_one = 1 - jnp.finfo(offset.dtype).epsneg
    t = law.quantile(jnp.minimum(place / offset.size % 1, below_one), schedule)
    return t, jnp.ones_like(t)
