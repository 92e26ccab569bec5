"""Guidance of only some channels, as DiT's and SiT's published samples were made."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdiff.sampling.guidance.guide import Guided, _guided
from jaxdiff.sampling.guidance.rules import Pairs, Rule, Sum
from jaxdiff.sampling.signature import State
from jaxdiff.types import Denoiser, NoiseLevel
from jaxdiff.types.ranges import Width, checked


@dataclass(frozen=True)
@checked
class FirstChannels:
    """Another rule's guided D in the first `count` channels, and D itself in the others.

    DiT's and SiT's published samples guide 3 of the 4 channels of a latent.

    >>> import jax.numpy as jnp
    >>> x0, weaker = jnp.ones((1, 1, 1, 2)), jnp.zeros((1, 1, 1, 2))
    >>> rule = FirstChannels(count=1)
    >>> rule(x0, NoiseLevel(1.0, 0.5), x0, [(weaker, 0.5)], ())[0].ravel().tolist()
    [1.5, 1.0]
    """

    of: Rule = Sum()
    count: Width = 3

    def init(self, x: State, weaker: int) -> PyTree:
        return self.of.init(x, weaker)

    def __call__(
        self, x: State, at: NoiseLevel, x0: State, pairs: Pairs, memory: PyTree
    ) -> tuple[State, PyTree]:
        guided, memory = self.of(x, at, x0, pairs, memory)
        guides = jnp.arange(x0.shape[-1]) < self.count
        return jnp.where(guides, guided, x0), memory


def first_channels(guided: Denoiser, count: int = 3) -> Guided:
    """Guidance of only the first `count` channels.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.sampling.guidance import guide
    >>> import jax.numpy as jnp
    >>> strong, weak = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(0.0, 0.5)
    >>> guided = first_channels(guide(strong, (weak, 0.5)), count=1)
    >>> guided(jnp.zeros((1, 1, 1, 2)), NoiseLevel(1.0, 0.5)).x0.ravel().tolist()
    [0.75, 0.5]

    Raises:
        TypeError: `guided` is not what `guide` returns.
        ValueError: count below 1.
    """
    rule = _guided(guided, "first_channels").rule
    return replace(guided, rule=FirstChannels(rule, count))
