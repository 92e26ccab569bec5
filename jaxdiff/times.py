"""Laws of t: how training chooses its noise levels.

A law has `init, draw, update` so that one with a memory fits (Improved DDPM's importance
sampler); the memory lives in the train state. The laws here have none. Each draw comes
with its importance weight, 1 where the law is the objective itself.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from jaxdiff.types import Schedule, Time

Draw = tuple[Time, Float[Array, "..."]]


def _no_memory(self: object) -> PyTree:
    """Nothing to remember."""
    return ()


def _unchanged(self: object, memory: PyTree, t: Time, loss: Float[Array, " B"]) -> PyTree:
    """The losses leave the law as it is."""
    return memory


@dataclass(frozen=True)
class Uniform:
    """t uniform in [low, high)."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise ValueError(
                f"Uniform needs 0 <= low < high <= 1, got {self.low} and {self.high}"
            )

    def draw(
        self, memory: PyTree, key: PRNGKeyArray, shape: tuple[int, ...], schedule: Schedule
    ) -> Draw:
        t = jax.random.uniform(key, shape, minval=self.low, maxval=self.high)
        return t, jnp.ones_like(t)

    init = _no_memory
    update = _unchanged


@dataclass(frozen=True)
class NormalLogSigma:
    """ln(sigma / alpha) ~ N(mean, std^2), on any path [EDM tab. 1].

    EDM uses -1.2 and 1.2, EDM2 -0.4 and 1.0 for latents, -0.8 and 1.6 for pixels.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        _require_positive_std(self)

    def draw(
        self, memory: PyTree, key: PRNGKeyArray, shape: tuple[int, ...], schedule: Schedule
    ) -> Draw:
        log_sigma = self.mean + self.std * jax.random.normal(key, shape)
        t = schedule.time(-2 * log_sigma)
        return t, jnp.ones_like(t)

    init = _no_memory
    update = _unchanged


@dataclass(frozen=True)
class LogitNormal:
    """ln(t / (1 - t)) ~ N(mean, std^2) [SD3 eq. 19]."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _require_positive_std(self)

    def draw(
        self, memory: PyTree, key: PRNGKeyArray, shape: tuple[int, ...], schedule: Schedule
    ) -> Draw:
        t = jax.nn.sigmoid(self.mean + self.std * jax.random.normal(key, shape))
        return t, jnp.ones_like(t)

    init = _no_memory
    update = _unchanged


def _require_positive_std(law: NormalLogSigma | LogitNormal) -> None:
    if not law.std > 0:
        raise ValueError(f"{type(law).__name__} needs std > 0, got {law.std}")
