"""Self-attention over the positions of an image, shared by the networks that scale by d."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdiff.types.magnitude import wide


def attend(
    q: Float[Array, "B T N D"], k: Float[Array, "B T N D"], v: Float[Array, "B T N D"]
) -> Float[Array, "B T N D"]:
    """softmax(q k / sqrt(D)) v for T positions and N heads; the softmax is float32."""
    exact = {"preferred_element_type": wide(q.dtype)}
    logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, **exact) / math.sqrt(q.shape[-1])
    weight = jax.nn.softmax(logits).astype(q.dtype)
    return jnp.einsum("bhqk,bkhd->bqhd", weight, v)
