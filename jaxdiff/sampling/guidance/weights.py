"""Weights of guidance that are set once per step, for all its evaluations."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdiff.types import NoiseLevel, Real
from jaxdiff.types.ranges import Limit, NonNegative, checked

Number = float | Float[Array, "..."]

Weight = Number | Callable[[NoiseLevel], Float[Array, "..."]]
"""A number, traced or not, or a function of the level, such as `Interval`."""


@dataclass(frozen=True)
@checked
class Interval:
    """The weight w for low < sigma / alpha <= high, 0 elsewhere [GI].

    Papers give the guided steps by rounded levels: for EDM2's 32 steps, (0.28, 2.90] means
    steps 15 ... 21, counted from 0, but taken literally it contains steps 16 ... 22.
    `Interval.of_steps` puts the ends between two levels.

        EDM2 on ImageNet-512   best FID                   best FD-DINOv2
        S                      steps 15 ... 21, w = 1.1   steps 13 ... 19, w = 2.2
        XXL                    steps 17 ... 22, w = 1.0   steps 13 ... 19, w = 1.9

    w is the published scale minus 1, for classifier-free guidance by XS [GI].

    Raises:
        ValueError: not 0 <= low < high.

    >>> interval = Interval(1.0, low=0.3, high=3.0)
    >>> interval(NoiseLevel(jnp.ones(3), jnp.asarray([0.3, 3.0, 4.0]))).tolist()
    [0.0, 1.0, 0.0]
    """

    w: "Scale"
    low: NonNegative = 0.0
    high: Limit = math.inf

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(
                f"a guidance interval needs low < high, got low = {self.low} and "
                f"high = {self.high}; without it, give guide() the number w itself"
            )

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return Switch(self.contains(at), self.w)(at)

    def contains(self, at: NoiseLevel) -> Bool[Array, "..."]:
        """Whether the level is in the interval; pure noise, alpha = 0, is at infinity."""
        ratio = jnp.divide(at.sigma, at.alpha)
        return (self.low < ratio) & (ratio <= self.high)

    def during(self, at: NoiseLevel, to: NoiseLevel) -> Weight:
        """The weight for all evaluations of a step: w if it starts inside, else 0."""
        w = decided(self.w, at, to)
        whole = self.low == 0 and self.high == math.inf
        return w if whole else Switch(self.contains(at), w)

    @classmethod
    def of_steps(
        cls,
        w: "Scale",
        levels: NoiseLevel,
        first: int,
        last: int,
    ) -> "Interval":
        """Guides steps first ... last of a grid, counted from 0; step i starts at level i.

        The ends are halfway between levels in ln sigma, so rounding affects no step.

        Raises:
            ValueError: not 0 <= first <= last < number of steps.

        >>> levels = NoiseLevel(jnp.ones(5), jnp.asarray([16.0, 4.0, 1.0, 0.25, 0.0]))
        >>> Interval.of_steps(1.0, levels, first=1, last=2)
        Interval(w=1.0, low=0.5, high=8.0)
        """
        ratio = [float(r) for r in jnp.divide(levels.sigma, levels.alpha)]
        if not 0 <= first <= last < len(ratio) - 1:
            raise ValueError(
                f"steps {first} ... {last} are not within the {len(ratio) - 1} steps of "
                f"the grid: use 0 <= first <= last <= {len(ratio) - 2}"
            )
        high = math.sqrt(ratio[first - 1] * ratio[first]) if first else math.inf
        return cls(w, math.sqrt(ratio[last] * ratio[last + 1]), high)


@dataclass(frozen=True)
class PlusPlus:
    """CFG++: the left-endpoint step, with the guided x0 and the weaker denoiser's eps.

    x' = alpha' (D_1 + scale (D - D_1)) + sigma' eps_1, 0 <= scale <= 1 [CFG++ alg. 2],
    is a step of `Euler` with w = scale / (1 - q) - 1, q = alpha sigma' / (alpha' sigma).
    So scale 0 is D_1 alone, and no scale is D alone, since eps is always that of D_1.

    >>> halfway = NoiseLevel(1.0, 2.0), NoiseLevel(1.0, 1.0)
    >>> PlusPlus(0.75).during(*halfway)
    0.5
    """

    scale: float | Float[Array, ""]

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        raise ValueError(
            "PlusPlus weighs a step by both its ends: sample with it, or pass the step "
            "by during(denoise, at, to)"
        )

    def during(self, at: NoiseLevel, to: NoiseLevel) -> Real:
        """w = scale / (1 - q) - 1 of the step, q = alpha sigma' / (alpha' sigma)."""
        kept = (at.alpha * to.sigma) / (to.alpha * at.sigma)
        return self.scale / (1 - kept) - 1


Scale = float | Float[Array, ""] | PlusPlus
"""A weight inside an `Interval`."""


@dataclass(frozen=True, eq=False)
class Switch:
    """The weight w where a step is guided, 0 where it is not."""

    on: Bool[Array, "..."]
    w: Any

    def __call__(self, at: NoiseLevel) -> Float[Array, "..."]:
        return jnp.where(self.on, value(self.w, at), 0.0)


def decided(weight: Weight, at: NoiseLevel, to: NoiseLevel) -> Weight:
    """The weight for all evaluations of one step; plain functions are unchanged."""
    return weight.during(at, to) if hasattr(weight, "during") else weight


def value(weight: Weight, at: NoiseLevel) -> Real:
    """The weight at a level."""
    return weight(at) if callable(weight) else weight
