"""A network that estimates the noise level from x: p(ln(sigma / alpha) | x) [NAG].

    F = features of backbone(x / rms(x); c_noise = ln(rms(x)) / 4)
    mean, ln variance = gain * W mean_pixels([F, 1])

The scale of x holds its mean square alone, which takes the place of the noise level; no
other information about the level goes in. The backbone keeps the names of its
parameters: a trained denoiser can be where the estimator's training starts.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.networks.mp_layers import MPConv
from jaxdiff.types import Condition, Network, Output, implements
from jaxdiff.types.magnitude import wide
from jaxdiff.types.ranges import checked


@implements(Network)
@checked
class LevelEstimator(nn.Module):
    """`Output.level`: mean and log-variance of ln(sigma / alpha), a normal law given x.

    c_noise and cond.noise are not read. The gains start at 0, so an untrained estimator
    returns N(0, 1). `raw` is the backbone's.

    >>> import jax
    >>> from jaxdiff.networks import UNet
    >>> net = LevelEstimator(UNet(model_channels=8, channel_mult=(1,), num_blocks=1))
    >>> args = (jax.random.key(0), jnp.ones([2, 8, 8, 3]), jnp.zeros([]), Condition())
    >>> abs(net.init_with_output(*args)[0].level).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """

    backbone: Network

    @property
    def estimates_level(self) -> bool:
        """It says the level, and denoises nothing."""
        return True

    @property
    def label_dim(self) -> int:
        """The number of classes of the backbone."""
        return self.backbone.label_dim

    @property
    def dtype(self) -> str:
        """The backbone's compute dtype."""
        return self.backbone.dtype

    def setup(self) -> None:
        """Shares the scope of the backbone, so that its parameters keep their names."""
        nn.share_scope(self, self.backbone)
        self.level_linear = MPConv(2, (), True)
        self.level_gain = self.param("level_gain", nn.initializers.zeros, (2,))

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "..."],
        cond: Condition,
        train: bool = False,
    ) -> Output:
        square = jnp.mean(jnp.square(x), axis=(1, 2, 3), keepdims=True)
        rms = jnp.sqrt(jnp.maximum(square, 1e-12))
        unread = Condition(label=cond.label)
        out = self.backbone(x / rms, jnp.log(rms) / 4, unread, train)
        pooled = jnp.mean(out.features.astype(wide(x.dtype)), axis=(1, 2))
        pooled = jnp.concatenate([pooled, jnp.ones_like(pooled[:, :1])], axis=-1)
        level = self.level_linear(pooled) * self.level_gain
        return Output(out.raw, level=level)
