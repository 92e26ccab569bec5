"""Arrays brought to magnitude 1, which is their root mean square, and wide dtypes.

Networks normalise weights and features in the graph, the optimiser the weights that it
stores.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float


def wide(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of what must not be rounded: float32, or float64 where the input is."""
    return jnp.promote_types(dtype, jnp.float32)


def unit(
    x: Float[Array, "..."], axes: int | Sequence[int] = -1, eps: float = 1e-4
) -> Float[Array, "..."]:
    """x / (eps + rms(x)), the rms over `axes`; zeros stay zeros [EDM2 eq. 47].

    The rms is taken in float32 or wider, the division in x's own dtype. The gradient at
    x = 0 is 1 / eps, as if the rms were constant there.
    """
    square = jnp.square(x.astype(wide(x.dtype)))
    mean = jnp.mean(square, axis=axes, keepdims=True)
    positive = mean > 0
    rms = jnp.where(positive, jnp.sqrt(jnp.where(positive, mean, 1)), 0)
    return (x.astype(square.dtype) / (eps + rms)).astype(x.dtype)


def unit_rows(w: Float[Array, "..."], eps: float = 1e-4) -> Float[Array, "..."]:
    """`unit` of every output unit of a weight [..., in, out]: all axes but the last."""
    return unit(w, tuple(range(w.ndim - 1)), eps)
