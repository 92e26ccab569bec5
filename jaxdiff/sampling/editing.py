"""Editing: the flow both ways, starts from images, and parts of images held fixed.

    encode           x0 -> x at the top of a grid, by the flow; `follow` leads back
    slerp            between two latents, along an arc: it keeps what noise has, its norm
    image_to_image   noise an image to a level of the grid, and sample from there [SDEdit]
    Inpaint          any solver; the known part is restored after each step [RePaint]
    resampled        a grid that rises again and again, so that the known and the unknown
                     part are drawn together, and come to agree [RePaint alg. 1]

Replacement is not exact conditioning: the unknown part never sees how the known part moved
it. Resampling brings it closer.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, PyTree

from jaxdiff.sampling.sample import follow, normal
from jaxdiff.sampling.signature import Denoise, Noise, State, Step
from jaxdiff.sampling.solvers.euler_heun_ddim import Heun
from jaxdiff.types import Condition, Denoised, Denoiser, Leaf, NoiseLevel, Real, Solver
from jaxdiff.types.arguments import require_data, require_levels

KNOWN = 0x5EED
"""The index of the draw, in a step, that noises the known part; no solver reaches it."""


def encode(
    denoise: Denoiser,
    cond: Condition,
    x: State,
    levels: NoiseLevel,
    solver: Solver = Heun(),
) -> State:
    """The latent [B, ...] at levels[0] of x, which is at the last level of the grid.

    The grid is one that samples, from most noise to least, but ends above the data, where
    the flow can be entered; x may be data if that is near. The solver must add no
    noise; `follow` down the same grid leads back to x within its error.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.schedules import Cosine
    >>> from jaxdiff.sampling.grids import Uniform
    >>> levels, x = Uniform(end=0.01)(Cosine(), 50), jnp.array([[1.5], [1.0]])
    >>> encode(gaussian_denoiser(1.0, 0.5), Condition(), x, levels).round(2)
    Array([[1.],
           [0.]], dtype=float32)

    Raises:
        ValueError: the grid ends on the data.
    """
    require_levels(levels)
    last = levels.sigma[-1]
    if not isinstance(last, jax.core.Tracer) and last == 0:
        raise ValueError(
            "encode needs a grid that ends above the data, got one that ends at sigma = 0: "
            "give levels[:-1]"
        )
    up = jax.tree.map(jnp.flip, levels)
    return follow(denoise, cond, None, x, up, solver)


def slerp(a: State, b: State, t: Real) -> Array:
    """From a (t = 0) to b (t = 1) [B, ...], image by image; t is [B] or one number.

    (sin((1 - t) angle) a + sin(t angle) b) / sin(angle), with the angle between a and b;
    the straight line where its sine is less than 1e-7.

    >>> slerp(jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]), 0.5).round(3)
    Array([[0.707, 0.707]], dtype=float32)
    """
    t = jnp.reshape(jnp.asarray(t, a.dtype), (-1, *(1,) * (a.ndim - 1)))
    u, v = (x / jnp.maximum(_norm(x), jnp.finfo(x.dtype).tiny) for x in (a, b))
    # the angle from both its half-chords, which loses no digits where it is small
    angle = 2 * jnp.arctan2(_norm(u - v), _norm(u + v))
    straight = jnp.sin(angle) < 1e-7
    safe = jnp.where(straight, 1.0, angle)
    from_a, from_b = (jnp.sin(s * safe) / jnp.sin(safe) for s in (1 - t, t))
    return jnp.where(straight, (1 - t) * a + t * b, from_a * a + from_b * b)


def first_step(levels: NoiseLevel, strength: float) -> int:
    """The step that image-to-image starts with: N - floor(N strength).

    Raises:
        ValueError: a strength outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength must lie in [0, 1], got {strength}")
    steps = levels.sigma.shape[0] - 1
    return steps - int(steps * strength)


def image_to_image(
    denoise: Denoiser,
    cond: Condition,
    keys: Key[Array, " B"],
    image: State,
    levels: NoiseLevel,
    strength: float,
    solver: Solver,
) -> State:
    """x0 near an image [B, ...]: the last floor(N strength) of the grid's N steps.

    x = alpha image + sigma noise at the level where they start. Strength 0 is the image,
    strength 1 the whole grid, from alpha_0 image + sigma_0 noise: pure noise only if
    alpha_0 = 0. (The product is cut, not rounded: 100 steps of strength 0.29 are 28.)

    Raises:
        ValueError: a strength outside [0, 1].
    """
    require_levels(levels)
    require_data(image, "image")
    levels = levels[first_step(levels, strength) :]
    if levels.sigma.shape[0] == 1:
        return image
    x = levels.alpha[0] * image + levels.sigma[0] * normal(keys, image.shape[1:])
    return follow(denoise, cond, keys, x, levels, solver)


@dataclass(frozen=True)
class Inpaint:
    """A solver that draws the unknown part of images, on grids that fall or also rise.

    A falling step is `solver`'s, then the known part becomes alpha' image + sigma' noise,
    with its own noise: on a grid that lands, exactly the image. A rising step is

        x' = (alpha'/alpha) x + sqrt(sigma'^2 - (alpha' sigma / alpha)^2) noise.

    `mask` is true where `image` is known; both broadcast against x. Replacement
    invalidates the memory of a multistep solver, so each of its steps is a first one.
    """

    solver: Solver
    image: Leaf
    mask: Leaf

    def evaluations(self, lands: bool) -> int:
        return self.solver.evaluations(lands)

    def init(self, x: State, levels: NoiseLevel) -> tuple[PyTree, PyTree]:
        remembers = jax.tree.leaves(self.solver.init(x, levels[:2])[0])
        begin = functools.partial(_alone, self.solver) if remembers else self.solver.init
        with np.errstate(divide="ignore", invalid="ignore"):  # no row of a rise is used
            memory, rows = begin(x, levels)
        return memory, (rows, levels[:-1], levels[1:])

    def step(
        self, denoise: Denoise, x: State, memory: PyTree, row: PyTree, noise: Noise
    ) -> Step:
        inner, at, to = row

        def fall() -> tuple[Array, Denoised]:
            drawn, _, first = self.solver.step(denoise, x, memory, inner, noise)
            known = to.alpha * self.image + to.sigma * noise(KNOWN)
            return jnp.where(self.mask, known, drawn), first

        def rise() -> tuple[Array, Denoised]:
            nothing = lambda s: jnp.full(s.shape, jnp.nan, s.dtype)
            first = jax.tree.map(nothing, jax.eval_shape(denoise, x, at))
            keep = to.alpha / at.alpha
            added = jnp.sqrt(jnp.maximum(to.sigma**2 - (keep * at.sigma) ** 2, 0))
            return keep * x + added * noise(0), first

        rising = to.sigma * at.alpha > at.sigma * to.alpha
        x, first = jax.lax.cond(rising, rise, fall)
        return x, memory, first


LONGEST = 100_000
"""Steps of a grid that goes up again."""


def resampled(levels: NoiseLevel, jump: int, times: int) -> NoiseLevel:
    """The grid that goes down by `jump` levels, up again and down, `times` times in all.

    It turns at every `jump`-th level counted from the last one, but for those from which
    it would reach the top [RePaint alg. 1].

    >>> levels = NoiseLevel(jnp.ones(6), jnp.arange(6.0)[::-1])
    >>> resampled(levels, jump=2, times=2).sigma.astype(int).tolist()
    [5, 4, 3, 2, 3, 4, 3, 2, 1, 0, 1, 2, 1, 0]

    Raises:
        ValueError: a jump or a number of times below 1, or more steps than LONGEST.
    """
    if jump < 1 or times < 1:
        raise ValueError(
            f"resampled needs jump >= 1 and times >= 1, got {jump} and {times}; "
            "RePaint uses 10 and 10 on 250 steps"
        )
    steps = levels.sigma.shape[0] - 1
    if steps * times > LONGEST:
        raise ValueError(
            f"{times:,} times {steps:,} steps are more than {LONGEST:,}: RePaint uses 10 "
            "times on 250 steps"
        )
    left = dict.fromkeys(range(0, steps - jump, jump), times - 1)
    node, nodes = steps, [steps]
    while node:
        node -= 1
        nodes.append(node)
        if left.get(node):
            left[node] -= 1
            nodes += range(node + 1, node + jump + 1)
            node += jump
    return levels[steps - np.asarray(nodes)]


def evaluations(solver: Solver, levels: NoiseLevel) -> int:
    """Calls of the denoiser on a grid that may also rise; a rising step makes none."""
    alpha, sigma = (np.asarray(a) for a in (levels.alpha, levels.sigma))
    falling = sigma[1:] * alpha[:-1] <= sigma[:-1] * alpha[1:]
    return sum(solver.evaluations(bool(end == 0)) for end in sigma[1:][falling])


def _norm(x: State) -> State:
    """Each image's norm, shaped to broadcast, with gradient 0 where it is 0."""
    square = jnp.sum(x**2, tuple(range(1, x.ndim)), keepdims=True)
    zero = square == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, square)))


def _alone(solver: Solver, x: State, levels: NoiseLevel) -> tuple[PyTree, PyTree]:
    """Memory and rows of each step as a grid by itself, rising ones reversed."""
    traced = any(isinstance(a, jax.core.Tracer) for a in jax.tree.leaves(levels))
    xp = jnp if traced else np
    levels = jax.tree.map(xp.asarray, levels)
    at, to = levels[:-1], levels[1:]
    rising = to.sigma * at.alpha > at.sigma * to.alpha
    pair = lambda a, b: xp.stack([xp.where(rising, b, a), xp.where(rising, a, b)], 1)
    pairs = jax.tree.map(pair, at, to)
    each = [solver.init(x, pairs[i]) for i in range(len(rising))]
    row = lambda *steps: jnp.concatenate([jnp.asarray(a) for a in steps])
    return each[0][0], jax.tree.map(row, *(rows for _, rows in each))
