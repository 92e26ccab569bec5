"""Sampling: noise at the first level of a grid, then one solver step after the other."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, PyTree

from jaxdiff.guidance import during
from jaxdiff.types import Condition, Denoiser, NoiseLevel, Solver


def sample(
    denoise: Denoiser,
    cond: Condition,
    keys: Key[Array, " B"],
    shape: tuple[int, ...],
    levels: NoiseLevel,
    solver: Solver,
) -> Float[Array, "B ..."]:
    """Draws B images x0 [B, *shape] by following the grid `levels` down to its end.

    Image i depends on keys[i] and its condition alone: neither the batch nor the devices
    it is spread over change it. Its noise is N(0, I) from `fold_in(keys[i], j)`, with
    j = 0 for the start, sigma_0 N(0, I), and j = 1 ... N for the steps.

    A grid that ends at sigma = 0 returns the denoiser's x0; otherwise x at its last
    level. Jit, vmap and grad go through; `levels` may be traced.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.levels import Karras
    >>> from jaxdiff.solvers import Heun
    >>> keys = jax.random.split(jax.random.key(0), 4096)
    >>> toy = gaussian_denoiser(2.0, 0.5)
    >>> x0 = sample(toy, Condition(), keys, (1,), Karras()(None, 32), Heun())
    >>> round(float(x0.mean()), 1), round(float(x0.std()), 1)
    (2.0, 0.5)
    """

    def noise(step: Array | int) -> Float[Array, "B ..."]:
        draw = lambda key: jax.random.normal(jax.random.fold_in(key, step), shape)
        return jax.vmap(draw)(keys)

    def step(
        carry: tuple[Float[Array, "B ..."], PyTree],
        numbered: tuple[Array, NoiseLevel, PyTree],
    ) -> tuple[tuple[Float[Array, "B ..."], PyTree], None]:
        number, start, row = numbered
        here = during(denoise, start)
        conditioned = lambda x, at: here(x, at, cond)
        return solver.step(conditioned, *carry, row, noise(number)), None

    x = levels.sigma[0] * noise(0)
    memory, rows = solver.init(x, levels)
    count = levels.sigma.shape[0] - 1
    numbered = (jnp.arange(1, count + 1), levels[:-1], rows)
    (x, _), _ = jax.lax.scan(step, (x, memory), numbered)
    return x
