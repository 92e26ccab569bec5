"""The variational autoencoder of latent diffusion, images <-> latents [LDM].

With n an affine group norm, a block is x + conv2(silu(n(conv1(silu(n(x)))))), the first x
by a 1 x 1 convolution where the channels change, and attention x + out(attend(q, k, v))
with one head of all channels, q, k and v linear in n(x).

    encoder   conv_in; at each level `num_blocks` blocks, then, but on the last, a
              convolution of stride 2; block, attention, block; conv_out(silu(n(x)))
    decoder   conv_in; block, attention, block; at each level from the last `num_blocks` + 1
              blocks, then, but on the first, nearest-neighbour doubling and a convolution

The strided convolution sees one row and column of zeros at the bottom and the right, and
none at the top and the left. Before the latent and after it lies a 1 x 1 convolution.
"""

from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.networks.attention import attend
from jaxdiff.networks.mp_layers import resample
from jaxdiff.networks.unet_skeleton import DType
from jaxdiff.types.magnitude import wide
from jaxdiff.types.ranges import Blocks, Items, Width, checked

Pair = tuple[Float[Array, "B H2 W2 L"], Float[Array, "B H2 W2 L"]]
LOWEST, HIGHEST = -30.0, 20.0
"""Where the log-variance is clipped."""


@checked
class AutoencoderKL(nn.Module):
    """`encode`: images [B, H, W, C] -> mean and log-variance; `decode`: latents -> images.

    Images have the range that the weights were trained for, [-1, 1] in [LDM]; latents have
    their own units, no factor applied. A level halves the sides, but for the last one.
    `dtype` is what convolutions compute in; parameters, norms' statistics, the softmax and
    the outputs are float32 whatever it is.

    >>> import jax
    >>> vae = AutoencoderKL(channels=(8, 8), num_blocks=1, groups=4)
    >>> x = jnp.zeros([1, 16, 16, 3])
    >>> image, variables = jax.eval_shape(vae.init_with_output, jax.random.key(0), x)
    >>> mean, _ = jax.eval_shape(lambda v: vae.apply(v, x, method="encode"), variables)
    >>> image.shape, mean.shape
    ((1, 16, 16, 3), (1, 8, 8, 4))
    """

    channels: Annotated[tuple[Width, ...], Items(1, 10)] = (128, 256, 512, 512)
    num_blocks: Blocks = 2
    latent_channels: Width = 4
    image_channels: Width = 3
    groups: Width = 32
    attention: bool = True
    quant_conv: bool = True
    post_quant_conv: bool = True
    dtype: DType = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(c % self.groups for c in self.channels):
            raise ValueError(
                f"channels must be multiples of the {self.groups} groups, got "
                f"{self.channels}"
            )

    @property
    def factor(self) -> int:
        """How many times smaller than an image's the sides of its latent are."""
        return 2 ** (len(self.channels) - 1)

    def setup(self) -> None:
        """Creates encoder and decoder, and 1 x 1 convolutions around the latent."""
        shared = (self.channels, self.num_blocks, self.groups, self.attention)
        self.encoder = Encoder(*shared, 2 * self.latent_channels)
        self.decoder = Decoder(*shared, self.image_channels)
        dtype = jnp.dtype(self.dtype)
        if self.quant_conv:
            self.quant = nn.Conv(2 * self.latent_channels, (1, 1), dtype=dtype)
        if self.post_quant_conv:
            self.post_quant = nn.Conv(self.latent_channels, (1, 1), dtype=dtype)

    def encode(self, image: Float[Array, "B H W C"]) -> Pair:
        """Mean and log-variance [B, H / factor, W / factor, latent_channels].

        The log-variance is clipped to [-30, 20]; std = exp(log-variance / 2). Odd sides
        are rounded down when halved.
        """
        x = self.encoder(image.astype(self.dtype))
        x = self.quant(x) if self.quant_conv else x
        mean, logvar = jnp.split(x.astype(wide(x.dtype)), 2, axis=-1)
        return mean, jnp.clip(logvar, LOWEST, HIGHEST)

    def decode(self, latent: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        """Images, `factor` times as large; they may lie outside of the images' range."""
        x = latent.astype(self.dtype)
        x = self.decoder(self.post_quant(x) if self.post_quant_conv else x)
        return x.astype(wide(x.dtype))

    def __call__(self, image: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        """The decoded mean of the encoded image."""
        mean, _ = self.encode(image)
        return self.decode(mean)


class Encoder(nn.Module):
    """Images -> features of the coarsest level."""

    channels: tuple[int, ...]
    num_blocks: int
    groups: int
    attention: bool
    outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        x = _conv(x, self.channels[0], "conv_in")
        for level, features in enumerate(self.channels):
            for i in range(self.num_blocks):
                x = ResidualBlock(features, self.groups, name=f"level{level}_block{i}")(x)
            if level < len(self.channels) - 1:
                x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
                down = nn.Conv(
                    features, (3, 3), 2, "VALID", dtype=x.dtype, name=f"level{level}_down"
                )
                x = down(x)
        x = _middle(x, self.groups, self.attention)
        x = nn.silu(_norm(x, self.groups, "norm_out"))
        return _conv(x, self.outputs, "conv_out")


class Decoder(nn.Module):
    """Latents -> images; level0 is the finest, as in the encoder."""

    channels: tuple[int, ...]
    num_blocks: int
    groups: int
    attention: bool
    outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H2 W2 C2"]:
        x = _conv(x, self.channels[-1], "conv_in")
        x = _middle(x, self.groups, self.attention)
        for level, features in reversed(list(enumerate(self.channels))):
            for i in range(self.num_blocks + 1):
                x = ResidualBlock(features, self.groups, name=f"level{level}_block{i}")(x)
            if level:
                x = _conv(resample(x, (1.0, 1.0), "up"), features, f"level{level}_up")
        x = nn.silu(_norm(x, self.groups, "norm_out"))
        return _conv(x, self.outputs, "conv_out")


class ResidualBlock(nn.Module):
    """x + conv2(silu(n(conv1(silu(n(x))))))."""

    features: int
    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C2"]:
        y = _conv(nn.silu(_norm(x, self.groups, "norm1")), self.features, "conv1")
        y = _conv(nn.silu(_norm(y, self.groups, "norm2")), self.features, "conv2")
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), dtype=x.dtype, name="conv_skip")(x)
        return x + y


class Attention(nn.Module):
    """x + out(attend(q, k, v)), one head of all channels over all positions."""

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        b, h, w, c = x.shape
        layer = lambda name: nn.Dense(c, dtype=x.dtype, name=name)
        y = _norm(x, self.groups, "norm").reshape(b, h * w, 1, c)
        y = attend(layer("q")(y), layer("k")(y), layer("v")(y))
        return x + layer("out")(y).reshape(x.shape)


def _middle(
    x: Float[Array, "B H W C"], groups: int, attention: bool
) -> Float[Array, "B H W C"]:
    x = ResidualBlock(x.shape[-1], groups, name="mid_block0")(x)
    x = Attention(groups, name="mid_attention")(x) if attention else x
    return ResidualBlock(x.shape[-1], groups, name="mid_block1")(x)


def _conv(x: Float[Array, "B H W C"], features: int, name: str) -> Array:
    """A 3 x 3 convolution that keeps the sides."""
    return nn.Conv(features, (3, 3), padding=1, dtype=x.dtype, name=name)(x)


def _norm(x: Float[Array, "B H W C"], groups: int, name: str) -> Array:
    return nn.GroupNorm(
        groups, epsilon=1e-6, use_fast_variance=False, dtype=x.dtype, name=name
    )(x)
