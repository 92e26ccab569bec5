"""What likelihoods are measured of: one convention for all functions that take images.

uint8 are pixels k = 0 ... 255, floats are what networks see, x0 = 2 k / 255 - 1 in [-1, 1];
the dtype says which, and both give the same number. Other integers are refused. Floats that
cannot be such values are refused where they are known, and are nan inside jit.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

WIDTH = 2 / 255
"""The distance between two values of a pixel."""

FAR = 16.0
"""No image in [-1, 1], nor latent of unit size, has values beyond this."""

Image = Shaped[Array, "B ..."]
"""Pixels, or data as networks see them; `as_data` tells which."""


def as_data(image: Image) -> Float[Array, "B ..."]:
    """x0 of images [B, ...]: uint8 k becomes 2 k / 255 - 1, floats stay.

    >>> as_data(jnp.asarray([0, 255], jnp.uint8)).tolist()
    [-1.0, 1.0]

    Raises:
        ValueError: other integers, or floats of 0 ... 255.
    """
    image = jnp.asarray(image)
    if image.dtype == jnp.uint8:
        return WIDTH * image - 1
    require_float(image, "x0", "give uint8 pixels, or floats 2 k / 255 - 1")
    if not isinstance(image, jax.core.Tracer) and (far := np.abs(image).max()) > FAR:
        raise ValueError(
            f"x0 has values of {far:.4g}: pixels in 0 ... 255 are uint8, and floats are "
            "2 k / 255 - 1, in [-1, 1]"
        )
    return image


def as_pixels(image: Image) -> Float[Array, "B ..."]:
    """`as_data` of images whose values are pixels': 2 k / 255 - 1 for whole k.

    Raises:
        ValueError: other integers, or floats beyond [-1, 1] or between two pixels.
    """
    image = jnp.asarray(image)
    x0 = as_data(image)
    if image.dtype == jnp.uint8:
        return x0
    k = (x0 + 1) / WIDTH
    good = (jnp.abs(x0) <= 1 + WIDTH / 100) & (jnp.abs(k - jnp.round(k)) < 0.01)
    if isinstance(image, jax.core.Tracer):
        return jnp.where(good, x0, jnp.nan)
    if not good.all():
        bad = float(x0[~good][0])
        raise ValueError(
            f"{bad:.6g} is the value of no pixel: floats are 2 k / 255 - 1 for k = 0 ... "
            "255, in [-1, 1]; give uint8 pixels, or images as networks see them"
        )
    return x0


def require_float(x: Array, name: str, advice: str) -> None:
    """Refuses integers, which no network is given.

    Raises:
        ValueError: the dtype, and what to give.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} is of {x.dtype}: {advice}")
