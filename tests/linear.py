"""The smallest network that reads all that a run's network may: quickly compiled."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

import jaxdiff as jd
from jaxdiff.networks.unet_skeleton import label_rows


@jd.register
class Linear(nn.Module):
    """One layer of x, to which it adds one of the noise level and one of the class."""

    label_dim: int = -1

    @nn.compact
    def __call__(self, x: Any, c_noise: Any, cond: Any, train: bool = False) -> jd.Output:
        level = jnp.broadcast_to(c_noise.reshape(-1), len(x))[:, None]
        if cond.noise is not None:
            level = jnp.where(cond.noise[:, None], level, 0)
        added = nn.Dense(x.shape[-1], use_bias=False, name="level")(level)
        if self.label_dim:
            rows = label_rows(cond, len(x), self.label_dim)
            added += nn.Dense(x.shape[-1], use_bias=False, name="label")(rows)
        return jd.Output(nn.Dense(x.shape[-1], name="x")(x) + added[:, None, None])
