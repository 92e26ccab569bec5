"""A residual MLP for studies that compare trainings: steps of milliseconds on one core.

On 8x8 or 16x16 pixels it learns in a minute what convolutions learn in ten, which pays for
more seeds. Nothing in it suits one prediction or path better than another.
"""

from typing import Annotated

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

import jaxdiff as jd
from jaxdiff.types.ranges import Whole, checked

OCTAVES = np.array([0.5, 1.0, 2.0, 4.0, 8.0], np.float32)


@jd.register
@checked
class ResidualMLP(nn.Module):
    """Pixels through `depth` residual blocks of `width`, modulated by level and class.

        h <- h + W2 silu(W1 silu((1 + a) norm(h) + b)),    (a, b) = A silu(embedding)

    with `inner` rows in W1, 0 for `width`. The embedding is a layer on sines of c_noise
    plus a row of each class, and zeros in the place of what is withheld. W2 and the last
    layer start at 0, so an untrained network is 0. With `learned_variance` another last
    layer gives v, which starts at 0, too. The features are what the last layer reads.

    Raises:
        ValueError: it is narrower than an image, and cannot return all of its noise.
    """

    label_dim: Annotated[int, Whole(-1, 10**6)] = 0
    width: Annotated[int, Whole(1, 10**5)] = 192
    depth: Annotated[int, Whole(1, 100)] = 3
    embedding: Annotated[int, Whole(1, 10**5)] = 64
    learned_variance: bool = False
    inner: Annotated[int, Whole(0, 10**5)] = 0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "..."],
        cond: jd.Condition,
        train: bool = False,
    ) -> jd.Output:
        """The prediction for x at c_noise, [] or [B]; labels are int [B]."""
        if self.width < x[0].size:
            raise ValueError(
                f"ResidualMLP is {self.width} wide and an image has {x[0].size} elements: "
                "what it predicts would lack most of the noise; use at least that width"
            )
        zero = nn.initializers.zeros
        angle = jnp.broadcast_to(jnp.reshape(c_noise, (-1, 1)), (len(x), 1)) * OCTAVES
        embedding = nn.Dense(self.embedding)(
            jnp.concatenate([angle[:, :1], jnp.sin(angle), jnp.cos(angle)], axis=1)
        )
        if cond.noise is not None:
            embedding = jnp.where(cond.noise[:, None], embedding, 0)
        if self.label_dim:
            label = jnp.full(len(x), -1) if cond.label is None else cond.label
            classes = (label[:, None] == jnp.arange(self.label_dim)).astype(x.dtype)
            embedding += nn.Dense(self.embedding, use_bias=False)(classes)
        embedding = nn.silu(embedding)
        h = nn.Dense(self.width)(x.reshape(len(x), -1))
        for _ in range(self.depth):
            a, b = jnp.split(nn.Dense(2 * self.width, kernel_init=zero)(embedding), 2, 1)
            inner = (1 + a) * nn.LayerNorm(use_bias=False, use_scale=False)(h) + b
            inner = nn.silu(nn.Dense(self.inner or self.width)(nn.silu(inner)))
            h += nn.Dense(self.width, kernel_init=zero)(inner)
        h = nn.silu(h)
        heads = [nn.Dense(x[0].size, kernel_init=zero)(h)]
        if self.learned_variance:
            heads.append(nn.Dense(x[0].size, kernel_init=zero)(h))
        shaped = (head.reshape(x.shape) for head in heads)
        return jd.Output(*shaped, features=h[:, None, None])
