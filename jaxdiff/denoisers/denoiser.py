"""From a network to a denoiser, D(x; alpha, sigma) = c_skip x + c_out F(c_in x; c_noise).

Also how a sampler passes each step to a denoiser (`initial`, `during`), and the closed-form
denoiser of Gaussian data, the reference for tests.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxdiff.types import (
    UNCONDITIONAL,
    Condition,
    Denoised,
    Denoiser,
    NoiseLevel,
    Output,
    Parameterization,
    Real,
)
from jaxdiff.types.arguments import require_network, require_output

Apply = Callable[[PyTree, Float[Array, "B ..."], Float[Array, "..."], Condition], Output]
"""A network: (params, c_in x, c_noise, cond) -> Output, as Flax's `module.apply`."""


def denoiser(apply: Apply, params: PyTree, parameterization: Parameterization) -> Denoiser:
    """The denoiser made of a network with these parameters [EDM eq. 7].

    The result is a pure function of (x, level, condition); levels, inputs and outputs
    are float32 at least, whatever the network computes in.

    >>> from jaxdiff.denoisers.parameterizations import V
    >>> silent = lambda params, x, c_noise, cond: Output(jnp.zeros_like(x))
    >>> toy = denoiser(silent, {}, V())  # v = 0: D = alpha x
    >>> round(float(toy(jnp.ones((1, 2)), NoiseLevel(0.6, 0.8)).x0[0, 0]), 4)
    0.6

    Raises:
        ValueError: `apply` is a module instead of a function, or does not return an
            `Output` of the shape of x.
    """
    require_network(apply, parameterization)

    def denoise(
        x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        scale = parameterization(at)
        out = apply(params, scale.c_in * x, scale.c_noise, cond)
        require_output(out, x)
        raw = out.raw.astype(jnp.promote_types(out.raw.dtype, jnp.float32))
        x0 = scale.c_skip * x + scale.c_out * raw
        return Denoised(x0, out.variance, out.uncertainty, out.level, out.logits)

    return denoise


@runtime_checkable
class Stepwise(Protocol):
    """A denoiser that depends on the step, or keeps a memory from step to step.

    It returns its new memory in `Denoised.memory`; a sampler keeps that of the first
    evaluation of each step. A denoiser that wraps others passes both calls on to them.
    """

    def init(self, x: Float[Array, "B ..."]) -> PyTree:
        """The memory before the first step."""
        ...

    def during(self, at: NoiseLevel, to: NoiseLevel, memory: PyTree) -> Denoiser:
        """The denoiser for the step from `at` to `to`; memory None is the initial one."""
        ...


def initial(denoise: Denoiser, x: Float[Array, "B ..."]) -> PyTree:
    """A denoiser's memory before the first step; () for one without memory.

    >>> initial(gaussian_denoiser(0.0, 0.5), jnp.zeros((1, 2)))  # it remembers nothing
    ()
    """
    return denoise.init(x) if isinstance(denoise, Stepwise) else ()


def during(
    denoise: Denoiser, at: NoiseLevel, to: NoiseLevel, memory: PyTree = None
) -> Denoiser:
    """The denoiser for all evaluations of the step from one level to another.

    Every `Interval` anywhere inside is decided at its start, once; other weights, numbers
    or functions, stay what they are.

    >>> from jaxdiff.sampling.guidance import Interval, guide
    >>> strong, weak = gaussian_denoiser(1.0, 0.5), gaussian_denoiser(0.0, 0.5)
    >>> guided = guide(strong, (weak, Interval(0.5, low=0.7)))
    >>> at, x = NoiseLevel(1.0, 0.5), jnp.zeros((1, 1))
    >>> guided(x, at).x0, during(guided, NoiseLevel(1.0, 1.0), at)(x, at).x0
    (Array([[0.5]], dtype=float32), Array([[0.75]], dtype=float32))
    """
    return denoise.during(at, to, memory) if isinstance(denoise, Stepwise) else denoise


@dataclass(frozen=True)
class Clipped:
    """A denoiser whose x0 is held to [-limit, limit], where the data are [DDPM].

    >>> toy = Clipped(gaussian_denoiser(3.0, 0.5))
    >>> float(toy(jnp.zeros((1, 1)), NoiseLevel(0.0, 1.0)).x0[0, 0])
    1.0
    """

    denoise: Denoiser
    limit: float = 1.0

    def __call__(
        self, x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        out = self.denoise(x, at, cond)
        return replace(out, x0=jnp.clip(out.x0, -self.limit, self.limit))

    def init(self, x: Float[Array, "B ..."]) -> PyTree:
        return initial(self.denoise, x)

    def during(self, at: NoiseLevel, to: NoiseLevel, memory: PyTree) -> "Clipped":
        return replace(self, denoise=during(self.denoise, at, to, memory))


def gaussian_denoiser(mean: Real, std: Real) -> Denoiser:
    """E[x0 | x] for data N(mean, std^2 I): (alpha std^2 x + sigma^2 mean) / r^2.

    r^2 = alpha^2 std^2 + sigma^2; mean broadcasts against one image.

    >>> import jax.numpy as jnp
    >>> gaussian_denoiser(0.0, 1.0)(jnp.ones((1, 2)), NoiseLevel(1.0, 1.0)).x0
    Array([[0.5, 0.5]], dtype=float32)
    """

    def denoise(
        x: Float[Array, "B ..."], at: NoiseLevel, cond: Condition = UNCONDITIONAL
    ) -> Denoised:
        r2 = at.alpha**2 * std**2 + at.sigma**2
        return Denoised((at.alpha * std**2 * x + at.sigma**2 * mean) / r2)

    return denoise
