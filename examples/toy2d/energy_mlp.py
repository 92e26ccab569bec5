"""A small network whose output is a gradient: a scalar energy of points [AG].

With h the last layer's outputs on [y, c_noise, 1], each layer magnitude-preserving,

    E(y; c_noise) = gain mean_j h_j^2,        F(y; c_noise) = grad_y E / sigma_data.

Under `EDM(sigma_data)`, y = c_in x, the score of the denoiser is then the gradient of

    G(x; sigma) = E(c_in x; c_noise) / sigma - |c_in x|^2 / 2,

so the network learns a log-density at every level, up to a constant.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.networks.mp_layers import MPConv, mp_silu
from jaxdiff.types import UNCONDITIONAL, Condition, Output
from jaxdiff.types.ranges import Blocks, Positive, Width, checked


@checked
class EnergyMLP(nn.Module):
    """Points y [B, d] and c_noise, which broadcasts to [B, 1], to F [B, d].

    One input layer and `layers` more, all `features` wide; gain starts at 0, which gives
    the denoiser of N(0, sigma_data^2 I). Conditions are ignored.
    """

    features: Width = 64
    layers: Blocks = 4
    sigma_data: Positive = 0.5

    @nn.compact
    def energy(
        self, y: Float[Array, "B d"], c_noise: Float[Array, "..."]
    ) -> Float[Array, " B"]:
        """E(y; c_noise) of each point."""
        label = jnp.broadcast_to(c_noise, (y.shape[0], 1)).astype(y.dtype)
        h = jnp.concatenate([y, label, jnp.ones_like(label)], axis=-1)
        h = MPConv(self.features, name="layer0")(h)
        for i in range(1, self.layers + 1):
            h = MPConv(self.features, name=f"layer{i}")(mp_silu(h))
        return self.param("gain", nn.initializers.zeros, ()) * jnp.mean(h**2, axis=-1)

    def __call__(
        self,
        x: Float[Array, "B d"],
        c_noise: Float[Array, "..."],
        cond: Condition = UNCONDITIONAL,
    ) -> Output:
        energy, pull = nn.vjp(lambda net, y: net.energy(y, c_noise), self, x)
        _, gradient = pull(jnp.ones_like(energy))
        return Output(gradient / self.sigma_data)
