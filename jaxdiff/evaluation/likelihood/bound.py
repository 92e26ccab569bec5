"""Likelihood by the variational bound, for any denoiser on any path, in bits/dim.

A process of T steps has levels 0 ... T, level 0 the data and level T almost noise. Then
[DDPM eq. 5]

    -log p(x0) <= KL(q(x_T | x0) || p(x_T)) + sum_i E[term i],     i = T - 1 ... 0
    term i = KL(q(x_i | x_{i+1}, x0) || p(x_i | x_{i+1})) for i > 0,  -log p(x0 | x_1) for 0

with one noise for each expectation. The levels are any schedule's at t = 1/T ... 1: a
table's own entries where T is its length, and a discretisation of a closed form, so that
every model has a bound. It tightens as T grows.
"""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxdiff.evaluation.likelihood.inputs import Image, as_data
from jaxdiff.objectives.losses import Decoder, PixelDecoder, bound_term
from jaxdiff.schedules.posterior import Posterior, SmallVariance, Variance, chain
from jaxdiff.types import (
    Condition,
    Denoiser,
    Leaf,
    NoiseLevel,
    Real,
    Schedule,
    pytree,
)
from jaxdiff.types.arguments import require_denoiser, require_keys, require_schedule


@pytree
class Process:
    """T steps: entry i goes from level `at`, i + 1, to level i. All fields are [T].

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> last = process(RectifiedFlow(), 4)[2:]  # from sigma = 0.75 and from pure noise
    >>> last.entry.tolist(), last.at.sigma.tolist()
    ([2, 3], [0.75, 1.0])
    """

    entry: Leaf
    at: NoiseLevel
    between: Posterior

    def __getitem__(self, index: slice | int) -> "Process":
        """Some of the steps."""
        return jax.tree.map(lambda a: a[index], self)


@pytree
class Terms:
    """What each step costs, [B] for one step and [n, B] for n of them.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.schedules import RectifiedFlow
    >>> x0, last = jnp.full((1, 2), 0.5), process(RectifiedFlow(), 4)[3]
    >>> toy, eps = gaussian_denoiser(0.0, 0.0), jnp.ones((1, 2))
    >>> cost: Terms = term(toy, Condition(), x0, eps, last)
    >>> float(cost.x0_mse[0])  # D = 0
    0.25
    >>> round(float(cost.vb[0]) * math.log(2), 5)  # the SNR falls from 1/9 to 0
    0.01389
    """

    vb: Leaf
    """The bound's term, in bits/dim."""
    x0_mse: Leaf
    """mean (D - x0)^2; times SNR it is the squared error of eps."""


def process(schedule: Schedule, steps: int) -> Process:
    """A schedule's levels at t = 0, 1/T ... 1, and the steps between them.

    Level 0 is the data, even where the path starts above it. Computed on the host in
    float64, so not inside jit.

    >>> from jaxdiff.schedules import RectifiedFlow
    >>> process(RectifiedFlow(), 4).at.sigma.tolist()
    [0.25, 0.5, 0.75, 1.0]

    Raises:
        ValueError: less than one step, or more noise does not mean less SNR.
    """
    require_schedule(schedule)
    if steps < 1:
        raise ValueError(f"the bound needs at least 1 step, got {steps}; 1000 is usual")
    with jax.enable_x64(True):
        levels = schedule(np.arange(1, steps + 1) / steps)
    alpha = np.r_[1.0, np.asarray(levels.alpha, np.float64)]
    sigma = np.r_[0.0, np.asarray(levels.sigma, np.float64)]
    angle = np.arctan2(sigma, alpha)
    if (np.diff(angle) <= 0).any():
        i = int(np.argmin(np.diff(angle)))
        raise ValueError(
            f"{schedule} has no more noise at step {i + 1} of {steps} than at step {i}: "
            "use fewer steps"
        )
    levels = NoiseLevel(alpha, sigma)
    return Process(np.arange(steps), levels[1:], chain(levels))


def term(
    denoise: Denoiser,
    cond: Condition,
    x0: Image,
    eps: Float[Array, "B ..."],
    step: Process,
    variance: Variance = SmallVariance(),
    decoder: Decoder = PixelDecoder(),
) -> Terms:
    """One step of the bound, with one noise for each image: [B].

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.schedules import RectifiedFlow
    >>> x0, step = jnp.full((1, 2), 0.5), process(RectifiedFlow(), 4)[1]
    >>> cost = term(gaussian_denoiser(0.0, 0.0), Condition(), x0, jnp.ones((1, 2)), step)
    >>> round(float(cost.vb[0]) * math.log(2), 5)  # (9 - 1) / 2 * 0.5^2: SNR 9, then 1
    1.0
    """
    x0, at = as_data(x0), step.at
    denoised = denoise(at.alpha * x0 + at.sigma * eps, at, cond)
    vb = bound_term(denoised, x0, step.between, variance, decoder)
    return Terms(vb, _mean((denoised.x0 - x0) ** 2))


def terms(
    denoise: Denoiser,
    cond: Condition,
    x0: Image,
    keys: Key[Array, " B"],
    steps: Process,
    variance: Variance = SmallVariance(),
    decoder: Decoder = PixelDecoder(),
) -> Terms:
    """The steps of the bound in one scan, [n, B].

    Image b's noise at entry i is N(0, I) from fold_in(keys[b], i): neither the batch nor
    which steps are asked for together changes a number.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.schedules import Cosine
    >>> x0, keys = jnp.zeros((5, 2)), jax.random.split(jax.random.key(0), 5)
    >>> steps = process(Cosine(), 20)
    >>> terms(gaussian_denoiser(0.0, 1.0), Condition(), x0, keys, steps).vb.shape
    (20, 5)
    """
    require_denoiser(denoise)
    x0 = as_data(x0)
    require_keys(keys, x0.shape[0])

    def one(carry: None, step: Process) -> tuple[None, Terms]:
        own = jax.vmap(jax.random.fold_in, (0, None))(keys, step.entry)
        draw = lambda key: jax.random.normal(key, x0.shape[1:], x0.dtype)
        eps = jax.vmap(draw)(own)
        return None, term(denoise, cond, x0, eps, step, variance, decoder)

    return jax.lax.scan(one, None, jax.tree.map(jnp.asarray, steps))[1]


def prior(x0: Real | Image, last: NoiseLevel) -> Float[Array, " B"]:
    """KL(q(x_T | x0) || N(0, r^2 I)) in bits/dim, r^2 = alpha_T^2 + sigma_T^2 [B].

    r = 1 where the path preserves variance; elsewhere it makes the term a function of the
    last level's SNR alone.

    >>> prior(jnp.zeros((2, 4)), NoiseLevel(0.0, 1.0)).tolist()  # pure noise
    [0.0, 0.0]
    """
    x0, r2 = as_data(x0), last.alpha**2 + last.sigma**2
    mean2, share = last.alpha**2 * x0**2 / r2, last.sigma**2 / r2
    return _mean((mean2 + share - jnp.log(share) - 1) / 2) / math.log(2)


def bits_per_dim(
    denoise: Denoiser,
    cond: Condition,
    x0: Image,
    keys: Key[Array, " B"],
    steps: Process,
    variance: Variance = SmallVariance(),
    decoder: Decoder = PixelDecoder(),
) -> Float[Array, " B"]:
    """The bound on -log2 p(x0) / (elements of an image): all terms and the prior, [B].

    Images are uint8 pixels k or floats, 2 k / 255 - 1 where they are pixels, as in all of
    `likelihood`.

    Raises:
        ValueError: other integers, or floats of 0 ... 255.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.schedules import Cosine
    >>> from jaxdiff.schedules.posterior import LargeVariance
    >>> key, toy = jax.random.key(0), gaussian_denoiser(0.0, 0.5)
    >>> x0, keys = 0.5 * jax.random.normal(key, (64, 16)), jax.random.split(key, 64)
    >>> steps, variance = process(Cosine(), 64), LargeVariance()
    >>> bound = bits_per_dim(toy, Condition(), x0, keys, steps, variance).mean()
    >>> entropy = math.log2(0.5 * math.sqrt(2 * math.pi * math.e)) - math.log2(2 / 255)
    >>> bool(abs(bound - entropy) < 0.1)
    True
    """
    vb = terms(denoise, cond, x0, keys, steps, variance, decoder).vb
    return jnp.sum(vb, axis=0) + prior(x0, steps.at[-1])


def mean_and_error(
    values: Float[np.ndarray, "N ..."],
) -> tuple[Real, Real]:
    """The mean over N images, and its standard error; NaN for one image alone.

    >>> mean_and_error(np.array([1.0, 3.0]))
    (np.float64(2.0), np.float64(1.0))
    """
    values = np.asarray(values, np.float64)
    count = len(values)
    deviation = np.sqrt(((values - values.mean(0)) ** 2).sum(0) / max(count - 1, 1))
    error = deviation / math.sqrt(count) if count > 1 else deviation * np.nan
    return values.mean(0), error


class Bin(NamedTuple):
    """The loss at levels with low <= logSNR < high: its mean and standard error.

    >>> losses = np.array([[1.0, 5.0], [3.0, 7.0]])  # of two images at two levels
    >>> per_bin(np.array([-2.0, 2.0]), losses, np.array([-3.0, 0.0, 3.0]))[1]
    Bin(low=0.0, high=3.0, levels=1, mean=6.0, error=1.0)
    """

    low: float
    high: float
    levels: int
    mean: float
    error: float


def per_bin(
    logsnr: Float[np.ndarray, " T"],
    losses: Float[np.ndarray, "N T"],
    edges: Float[np.ndarray, " K1"],
) -> list[Bin]:
    """The losses of N images by bins of logSNR, empty ones left out.

    The last bin holds its upper edge too. Errors are over images, as the levels of one
    image are not independent of each other.

    >>> per_bin(np.array([0.0, 1.0]), np.ones((2, 2)), np.array([-1.0, 2.0]))[0].mean
    1.0
    """
    rows = []
    for low, high in itertools.pairwise(edges):
        at_end = (high == edges[-1]) & (logsnr == high)
        inside = (logsnr >= low) & ((logsnr < high) | at_end)
        if inside.any():
            mean, error = mean_and_error(losses[:, inside].mean(1))
            count = int(inside.sum())
            rows.append(Bin(float(low), float(high), count, float(mean), float(error)))
    return rows


def _mean(elements: Float[Array, "B ..."]) -> Float[Array, " B"]:
    return jnp.mean(elements, axis=tuple(range(1, elements.ndim)))
