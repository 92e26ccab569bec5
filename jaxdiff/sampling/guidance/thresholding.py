"""Dynamic thresholding: x0 is clipped to a quantile of its own pixels."""

import math
from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import PyTree

from jaxdiff.denoisers import during, initial
from jaxdiff.sampling.signature import State
from jaxdiff.types import UNCONDITIONAL, Condition, Denoised, Denoiser, NoiseLevel
from jaxdiff.types.arguments import require_denoiser
from jaxdiff.types.ranges import Limit, Positive, PositiveFraction, checked


@dataclass(frozen=True)
@checked
class Thresholded:
    """clip(D, -q, q) / q, with q a quantile of |D| of each image; made by `thresholded`.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> bright = gaussian_denoiser(jnp.asarray([0.5, 6.0]), 0.0)
    >>> at_most_2 = Thresholded(bright, quantile=1.0, floor=1.0, ceiling=2.0)
    >>> at_most_2(jnp.zeros((1, 2)), NoiseLevel(1.0, 1.0)).x0.tolist()
    [[0.25, 1.0]]
    """

    denoise: Denoiser
    quantile: PositiveFraction
    floor: Positive
    ceiling: Limit

    def __post_init__(self) -> None:
        if not self.floor < self.ceiling:
            raise ValueError(
                f"thresholding needs floor < ceiling, got floor = {self.floor} and "
                f"ceiling = {self.ceiling}; for a fixed one use Clipped(denoise, limit)"
            )

    def __call__(
        self, x: State, at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        out = self.denoise(x, at, cond)
        axes = tuple(range(1, x.ndim))
        q = jnp.quantile(jnp.abs(out.x0), self.quantile, axis=axes, keepdims=True)
        q = jnp.clip(q, self.floor, self.ceiling)
        return replace(out, x0=jnp.clip(out.x0, -q, q) / q)

    def init(self, x: State) -> PyTree:
        return initial(self.denoise, x)

    def during(self, at: NoiseLevel, to: NoiseLevel, memory: PyTree) -> "Thresholded":
        return replace(self, denoise=during(self.denoise, at, to, memory))


def thresholded(
    denoise: Denoiser,
    quantile: float = 0.995,
    floor: float = 1.0,
    ceiling: float = math.inf,
) -> Thresholded:
    """clip(D, -q, q) / q, q = clip(quantile of |D|, floor, ceiling) [Imagen sec. 2.3].

    For pixels in [-1, 1], applied after all other guidance; solvers compute eps from the
    thresholded x0.

    Raises:
        ValueError: quantile outside (0, 1], or not 0 < floor < ceiling; for a plain clip,
            with both equal, use `Clipped`.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> bright = gaussian_denoiser(jnp.asarray([0.0, 1.0, 2.0, 4.0]), 0.0)
    >>> x, at = jnp.zeros((1, 4)), NoiseLevel(1.0, 1.0)
    >>> thresholded(bright, quantile=2 / 3)(x, at).x0
    Array([[0. , 0.5, 1. , 1. ]], dtype=float32)
    """
    require_denoiser(denoise)
    return Thresholded(denoise, quantile, floor, ceiling)
