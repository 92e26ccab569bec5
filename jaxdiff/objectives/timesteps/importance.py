"""Improved DDPM's importance sampler: entries with large losses are drawn more often.

With H_i the last ten losses of entry i of T, and a share delta of uniform draws,

    w_i = sqrt(mean(H_i^2)),    p_i = (1 - delta) w_i / sum(w) + delta / T   [IDDPM 3.3]

and the importance weight 1 / (T p_i) keeps the mean loss what uniform draws give. The
draws are uniform, and their weights 1, until every entry has ten losses.
"""

from dataclasses import dataclass
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxdiff.types import Leaf, Schedule, Time, pytree
from jaxdiff.types.ranges import Range, Whole, checked


@pytree
class LossHistory:
    """The last losses of every entry.

    >>> law = LossSecondMoment(steps=2, length=1, uniform=1e-6)
    >>> t, loss = jnp.array([0.5, 1.0]), jnp.array([1.0, 3.0])
    >>> history: LossHistory = law.update(law.init(), t, loss)
    >>> history.losses.tolist(), law.probabilities(history).round(3)[0].item()
    ([[1.0], [3.0]], 0.25)
    """

    losses: Leaf
    """[T, length] float32, oldest first; 0 from `counts` on."""
    counts: Leaf
    """[T] int32, how many of them there are."""


SHARE = Range(
    *(0, 1), above=True, note="without it an entry whose losses are 0 is never drawn again"
)


@dataclass(frozen=True)
@checked
class LossSecondMoment:
    """Entry i, at t = (i + 1) / steps, in proportion to its root mean square loss [IDDPM].

    `steps` is the table's T; on a closed-form path it cuts t into as many. For L_vlb: the
    paper finds no gain for L_hybrid. Give `update` the losses without their importance
    weights.

    >>> law = LossSecondMoment(steps=4)
    >>> law.probabilities(law.init()).tolist()  # until every entry has its losses
    [0.25, 0.25, 0.25, 0.25]
    """

    steps: Annotated[int, Whole(1, 10**5)] = 1000
    length: Annotated[int, Whole(1, 1000)] = 10
    uniform: Annotated[float, SHARE] = 0.001

    def init(self) -> LossHistory:
        shape = (self.steps, self.length)
        return LossHistory(jnp.zeros(shape, jnp.float32), jnp.zeros(self.steps, jnp.int32))

    def probabilities(self, memory: LossHistory) -> Float[Array, " T"]:
        """p_i of every entry."""
        w = jnp.sqrt(jnp.mean(memory.losses**2, axis=1))
        total = jnp.sum(w)
        warm = jnp.all(memory.counts == self.length) & (total > 0)
        share = w / jnp.where(warm, total, 1.0)
        p = (1 - self.uniform) * share + self.uniform / self.steps
        return jnp.where(warm, p / jnp.sum(p), 1 / self.steps)

    def draw(
        self,
        memory: LossHistory,
        key: PRNGKeyArray,
        shape: tuple[int, ...],
        schedule: Schedule,
    ) -> tuple[Time, Float[Array, "..."]]:
        entries = getattr(schedule, "steps", self.steps)
        if entries != self.steps:
            raise ValueError(
                f"LossSecondMoment(steps={self.steps}) does not go with a table of "
                f"{entries} entries: use steps={entries}"
            )
        p = self.probabilities(memory)
        entry = jax.random.categorical(key, jnp.log(p), shape=shape)
        t = (entry + 1).astype(p.dtype) / self.steps
        return t, 1 / (self.steps * p[entry])

    def update(self, memory: LossHistory, t: Time, loss: Float[Array, " B"]) -> LossHistory:
        """The losses enter in the batch's order; each pushes out its entry's oldest."""
        entry = jnp.round(jnp.reshape(t, -1) * self.steps - 1).astype(jnp.int32)
        entry = jnp.clip(entry, 0, self.steps - 1)
        new = jnp.zeros(self.steps, jnp.int32).at[entry].add(1)
        pushed = jnp.maximum(memory.counts + new - self.length, 0)
        place = jnp.arange(self.length) + pushed[:, None]
        kept = jnp.take_along_axis(
            memory.losses, jnp.minimum(place, self.length - 1), axis=1
        )
        losses = jnp.where(place < memory.counts[:, None], kept, 0.0)
        at = memory.counts[entry] + _rank(entry) - pushed[entry]
        # pushed out by its own batch: out of range, since a negative place would wrap and
        # the order in which equal places are written is not defined
        at = jnp.where(at < 0, self.length, at)
        losses = losses.at[entry, at].set(loss.astype(losses.dtype), mode="drop")
        return LossHistory(losses, memory.counts + new - pushed)


def _rank(entry: Int[Array, " B"]) -> Int[Array, " B"]:
    """How many elements before each are equal to it."""
    order = jnp.argsort(entry, stable=True)
    ordered = entry[order]
    rank = jnp.arange(entry.size) - jnp.searchsorted(ordered, ordered, side="left")
    return jnp.zeros_like(entry).at[order].set(rank.astype(entry.dtype))
