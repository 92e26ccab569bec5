"""Networks that estimate something else than x0: a head over a backbone.

    h = mean_pixels([features of the backbone, 1]),    output = gain * W h

`LevelEstimator` estimates the noise level from x, p(ln(sigma / alpha) | x) [NAG]:

    features of backbone(x / rms(x); c_noise = ln(rms(x)) / 4)

The scale of x holds its mean square alone, which takes the place of the noise level; no
other information about the level goes in. `Classifier` estimates the class from x and the
level, p(label | x; level), for classifier guidance [ADM sec. 4].

The backbone keeps the names of its parameters: a trained denoiser can be where an
estimator's training starts.
"""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.networks.mp_layers import MPConv
from jaxdiff.types import Condition, Network, Output, implements
from jaxdiff.types.magnitude import wide
from jaxdiff.types.ranges import checked


class Estimator(nn.Module):
    """What the estimators share: the backbone and its pooled features."""

    backbone: Network

    @property
    def label_dim(self) -> int:
        """The number of classes of the backbone."""
        return self.backbone.label_dim

    @property
    def dtype(self) -> str:
        """The backbone's compute dtype."""
        return self.backbone.dtype

    def pooled(self, out: Output) -> Float[Array, "B F"]:
        """The backbone's features, a mean over pixels, and a 1."""
        features = out.features.astype(wide(out.features.dtype))
        pooled = jnp.mean(features, axis=(1, 2))
        return jnp.concatenate([pooled, jnp.ones_like(pooled[:, :1])], axis=-1)


@implements(Network)
@checked
class LevelEstimator(Estimator):
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

    @property
    def estimates(self) -> str:
        """The noise level; it denoises nothing."""
        return "noise level"

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
        level = self.level_linear(self.pooled(out)) * self.level_gain
        return Output(out.raw, level=level)


@implements(Network)
@checked
class Classifier(Estimator):
    """`Output.logits`: unnormalised log-probabilities of the backbone's label_dim classes.

    The backbone is given c_noise and neither label nor cond.noise. The gain starts at 0,
    so to an untrained classifier all classes are alike. `raw` is the backbone's.

    >>> import jax
    >>> from jaxdiff.networks import UNet
    >>> small = UNet(label_dim=2, model_channels=8, channel_mult=(1,), num_blocks=1)
    >>> args = (jax.random.key(0), jnp.ones([1, 8, 8, 3]), jnp.zeros([]), Condition())
    >>> abs(Classifier(small).init_with_output(*args)[0].logits).tolist()
    [[0.0, 0.0]]
    """

    @property
    def estimates(self) -> str:
        """The class; it denoises nothing."""
        return "class"

    def setup(self) -> None:
        """Shares the scope of the backbone, so that its parameters keep their names."""
        nn.share_scope(self, self.backbone)
        self.class_linear = MPConv(self.label_dim, (), True)
        self.class_gain = self.param("class_gain", nn.initializers.zeros, ())

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "..."],
        cond: Condition,
        train: bool = False,
    ) -> Output:
        out = self.backbone(x, c_noise, Condition(), train)
        logits = self.class_linear(self.pooled(out)) * self.class_gain
        return Output(out.raw, logits=logits)
