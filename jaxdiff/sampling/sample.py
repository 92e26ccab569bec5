"""Sampling: noise at the first level of a grid, then one solver step after the other.

`sample` starts from noise, `follow` from any x, and `trajectory` keeps all that is on the
way. An image depends on its own key and condition alone: neither the batch nor the devices
it is spread over change it. Its noise is N(0, I) from `fold_in(key, j)`, j = 0 for the
start and j = 1 ... N for the steps; a step's k-th further draw folds in k as well.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from jaxdiff.denoisers import during, initial
from jaxdiff.types import Condition, Denoised, Denoiser, Leaf, NoiseLevel, Solver, pytree
from jaxdiff.types.arguments import (
    require_data,
    require_denoised,
    require_denoiser,
    require_image_shape,
    require_keys,
    require_levels,
    require_solver,
)
from jaxdiff.types.ranges import check

Carry = tuple[Float[Array, "B ..."], PyTree, PyTree]
"""The state, what the solver remembers, and what the denoiser does."""
Numbered = tuple[Array, NoiseLevel, NoiseLevel, PyTree]


def sample(
    denoise: Denoiser,
    cond: Condition,
    keys: Key[Array, " B"],
    shape: tuple[int, ...],
    levels: NoiseLevel,
    solver: Solver,
) -> Float[Array, "B ..."]:
    """Draws B images x0 [B, *shape] by following the grid `levels` down from sigma_0 noise.

    A grid that ends at sigma = 0 returns the denoiser's x0; otherwise x at its last
    level. Jit, vmap and grad go through; `levels` may be traced.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.sampling.grids import Karras
    >>> from jaxdiff.sampling.solvers import Heun
    >>> keys = jax.random.split(jax.random.key(0), 4096)
    >>> toy = gaussian_denoiser(2.0, 0.5)
    >>> x0 = sample(toy, Condition(), keys, (1,), Karras()(None, 32), Heun())
    >>> round(float(x0.mean()), 1), round(float(x0.std()), 1)
    (2.0, 0.5)
    """
    _require(denoise, cond, keys, None, levels, solver)
    require_image_shape(shape, 0 if keys is None else keys.shape[0])
    x = levels.sigma[0] * normal(keys, shape)
    return follow(denoise, cond, keys, x, levels, solver)


def follow(
    denoise: Denoiser,
    cond: Condition,
    keys: Key[Array, " B"] | None,
    x: Float[Array, "B ..."],
    levels: NoiseLevel,
    solver: Solver,
) -> Float[Array, "B ..."]:
    """The state at the end of the grid, from x [B, ...] at its first level.

    The grid may rise, from an image to its noise. `keys` may be None for a solver without
    noise.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.sampling.grids import Karras
    >>> from jaxdiff.sampling.solvers import Euler
    >>> toy, levels, x = gaussian_denoiser(2.0, 0.0), Karras()(None, 4), jnp.zeros((1, 1))
    >>> follow(toy, Condition(), None, x, levels, Euler()).tolist()  # all data are 2
    [[2.0]]
    """
    _require(denoise, cond, keys, x, levels, solver)
    return _scan(denoise, cond, keys, x, levels, solver, lambda x, first: None)[0]


@pytree
class Trajectory:
    """All that was on the way of N steps.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.sampling.grids import Karras
    >>> from jaxdiff.sampling.solvers import Euler
    >>> toy, levels, x = gaussian_denoiser(2.0, 0.0), Karras()(None, 4), jnp.ones((1, 1))
    >>> way = trajectory(toy, Condition(), None, x, levels, Euler())
    >>> way.x[0].tolist(), way.x[-1].tolist(), way.x0[:, 0, 0].tolist()  # all data are 2
    ([[1.0]], [[2.0]], [2.0, 2.0, 2.0, 2.0])
    """

    x: Leaf
    """[N + 1, B, ...], the state at each level of the grid."""
    x0: Leaf
    """[N, B, ...], what each step first took x0 to be, guidance included."""
    memory: PyTree
    """What the solver remembers at the end."""


def trajectory(
    denoise: Denoiser,
    cond: Condition,
    keys: Key[Array, " B"] | None,
    x: Float[Array, "B ..."],
    levels: NoiseLevel,
    solver: Solver,
) -> Trajectory:
    """`follow`, with every state and every look ahead at x0 kept.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.sampling.grids import Karras
    >>> from jaxdiff.sampling.solvers import Euler
    >>> toy, levels, x = gaussian_denoiser(2.0, 0.0), Karras()(None, 4), jnp.zeros((1, 1))
    >>> way = trajectory(toy, Condition(), None, x, levels, Euler())
    >>> way.x.shape, way.x0.shape
    ((5, 1, 1), (4, 1, 1))
    """
    _require(denoise, cond, keys, x, levels, solver)
    keep = lambda x, first: (x, first.x0)
    _, memory, (states, x0) = _scan(denoise, cond, keys, x, levels, solver, keep)
    return Trajectory(jnp.concatenate([x[None], states]), x0, memory)


def evaluations(solver: Solver, levels: NoiseLevel) -> int:
    """Calls of the denoiser on this grid, NFE; guidance may call its network more often.

    >>> from jaxdiff.sampling.grids import Karras
    >>> from jaxdiff.sampling.solvers import Heun
    >>> evaluations(Heun(), Karras()(None, 32))
    63
    """
    require_solver(solver)
    require_levels(levels)
    lands = np.asarray(levels.sigma[1:]) == 0
    return sum(solver.evaluations(bool(landing)) for landing in lands)


def normal(
    keys: Key[Array, " B"] | None, shape: tuple[int, ...], *folds: Array | int
) -> Float[Array, "B ..."]:
    """N(0, I) of each image [B, *shape]; without folds the noise that sampling starts from.

    >>> normal(jax.random.split(jax.random.key(0), 2), (3,)).shape
    (2, 3)

    Raises:
        ValueError: there are no keys.
    """
    if keys is None:
        raise ValueError(
            "keys is None, but sample() starts from noise, and some solvers draw noise in "
            "each step: give one key per image, jax.random.split(key, B)"
        )

    def draw(key: Key[Array, ""]) -> Float[Array, "..."]:
        for number in folds or (0,):
            key = jax.random.fold_in(key, number)
        return jax.random.normal(key, shape)

    return jax.vmap(draw)(keys)


def _require(denoise: Any, cond: Any, keys: Any, x: Any, levels: Any, solver: Any) -> None:
    """Checks the types and shapes of all arguments, before anything is compiled."""
    require_denoiser(denoise)
    check("cond", cond, Condition)
    if x is not None:
        require_data(x, "x")
    require_keys(keys, None if x is None else x.shape[0])
    require_levels(levels)
    require_solver(solver)


def _scan(
    denoise: Denoiser,
    cond: Condition,
    keys: Key[Array, " B"] | None,
    x: Float[Array, "B ..."],
    levels: NoiseLevel,
    solver: Solver,
    keep: Callable[[Float[Array, "B ..."], Denoised], PyTree],
) -> tuple[Float[Array, "B ..."], PyTree, PyTree]:
    """The last state, the solver's memory, and what is kept of each step."""

    def step(carry: Carry, numbered: Numbered) -> tuple[Carry, PyTree]:
        x, memory, guidance = carry
        number, at, to, row = numbered
        here = during(denoise, at, to, guidance)
        conditioned = lambda x, level: require_denoised(here(x, level, cond), x)
        noise = lambda k: normal(keys, x.shape[1:], number, *((k,) if k else ()))
        stepped = solver.step(conditioned, x, memory, row, noise)
        if not isinstance(stepped, tuple) or len(stepped) != 3:
            returned = type(stepped).__name__
            if isinstance(stepped, tuple):
                returned = f"a tuple of {len(stepped)}"
            raise ValueError(
                f"{type(solver).__name__}.step returns {returned}: return x, the memory "
                "and its first evaluation of the denoiser"
            )
        x, memory, first = stepped
        return (x, memory, first.memory), keep(x, first)

    memory, rows = solver.init(x, levels)
    count = levels.sigma.shape[0] - 1
    numbered = (jnp.arange(1, count + 1), levels[:-1], levels[1:], rows)
    carry = x, memory, initial(denoise, x)
    (x, memory, _), kept = jax.lax.scan(step, carry, numbered)
    return x, memory, kept
