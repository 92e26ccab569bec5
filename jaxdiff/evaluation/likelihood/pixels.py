"""Bits/dim of pixels by the flow, which has densities: uniform dequantisation.

Pixels are x = 2 k / 255 - 1, k = 0 ... 255, so a bin is w = 2 / 255 wide. With u uniform in
(-1/2, 1/2) and by Jensen's inequality

    -log2 P(k) / d <= E_u[-log2 p(x + w u)] / d - log2 w,        -log2 w = 6.994

(7 for the pixels 2 k / 256 - 1 of others). The middle of a bin is the value that the
network was trained on.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxdiff.evaluation.likelihood.divergence import Divergence, Hutchinson
from jaxdiff.evaluation.likelihood.flow import GaussianPrior, Prior, log_density
from jaxdiff.evaluation.likelihood.inputs import WIDTH, Image, as_pixels
from jaxdiff.evaluation.likelihood.integrate import RK4, IntegrationRule
from jaxdiff.types import Condition, Denoiser, Leaf, NoiseLevel, Real, pytree

DEQUANTISATION = 0
"""What an image's key is folded with for u."""


@pytree
class Bits:
    """What the flow says of B images, dequantised once each. All [B].

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.evaluation.likelihood import rising
    >>> from jaxdiff.schedules import Cosine
    >>> image = jnp.full((1, 4), 190, jnp.uint8)
    >>> keys = jax.random.split(jax.random.key(0), 1)
    >>> toy, levels = gaussian_denoiser(0.0, 0.5), rising(Cosine(), 4)
    >>> of_image = flow_bits_per_dim(toy, Condition(), image, keys, levels)
    >>> int(of_image.evaluations[0]), bool(jnp.isnan(of_image.error[0]))  # of one probe
    (16, True)
    """

    bits: Leaf
    """-log2 (p(x) w^d) / d, in bits an element."""
    error: Leaf
    """Its standard error over the probes: 0 if exact, nan for one probe."""
    evaluations: Leaf
    """Calls of the denoiser, each with one tangent a probe."""


def dequantise(keys: Key[Array, " B"], image: Image) -> Float[Array, "B ..."]:
    """2 (k + u) / 255 - 1, u uniform in (-1/2, 1/2), from each image's own key.

    Images are uint8 k or floats 2 k / 255 - 1, as in all of `likelihood`.

    >>> keys, black = jax.random.split(jax.random.key(0), 2), jnp.zeros((2, 4), jnp.uint8)
    >>> bool((abs(dequantise(keys, black) + 1) <= 1 / 255).all())  # half a bin
    True
    """
    x0 = as_pixels(image)
    own = jax.vmap(lambda key: jax.random.fold_in(key, DEQUANTISATION))(keys)
    draw = lambda key: jax.random.uniform(key, image.shape[1:], minval=-0.5, maxval=0.5)
    return x0 + WIDTH * jax.vmap(draw)(own)


def bits(log_density: Real, size: int, width: float = WIDTH) -> Real:
    """-log2 (p(x) width^size) / size: from nats an image to bits an element.

    >>> bits(0.0, 16, 2 / 256)
    7.0
    """
    return -(log_density / size + math.log(width)) / math.log(2)


def flow_bits_per_dim(
    denoise: Denoiser,
    cond: Condition,
    image: Image,
    keys: Key[Array, " B"],
    levels: NoiseLevel,
    rule: IntegrationRule = RK4,
    divergence: Divergence = Hutchinson(),
    prior: Prior = GaussianPrior(),
) -> Bits:
    """Bits/dim of pixels [B, ...] by `log_density` up the levels, in the data's units.

    Images are uint8 k or floats 2 k / 255 - 1. Other keys give other probes and another u;
    the mean over both is without bias.

    Raises:
        ValueError: images of another kind, or a grid that does not rise.

    >>> from jaxdiff.denoisers import gaussian_denoiser
    >>> from jaxdiff.evaluation.likelihood import rising
    >>> from jaxdiff.schedules import Cosine
    >>> toy, levels = gaussian_denoiser(0.0, 0.5), rising(Cosine(), 40)
    >>> image = jnp.full((1, 4), 190, jnp.uint8)
    >>> keys = jax.random.split(jax.random.key(0), 1)
    >>> result = flow_bits_per_dim(toy, Condition(), image, keys, levels)
    >>> round(float(result.bits[0]), 1)
    8.0
    """
    size, alpha = math.prod(image.shape[1:]), levels.alpha[0]
    x = alpha * dequantise(keys, image)
    solution = log_density(denoise, cond, x, keys, levels, rule, divergence, prior)
    each = bits(solution.log_density + size * jnp.log(alpha), size)
    return Bits(each, solution.error / (size * math.log(2)), solution.evaluations)
