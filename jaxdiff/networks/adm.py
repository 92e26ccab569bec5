"""The U-Net of Improved DDPM and ADM, where EDM2's ladder begins.

Convolutions and linear layers have biases, the group norm is affine and subtracts a mean,
and the embedding scales and shifts. With n = group norm, for each block

    x = conv_skip(resample(x))              scale, shift = split(emb_linear(emb))
    y = conv_res1(silu(n(conv_res0(resample(silu(n(x))))) (1 + scale) + shift))
    x = x + y,        then x = x + attn_proj(attention(attn_qkv(n(x))))

and for the network, pe(c) = [cos(c f_i), sin(c f_i)] with f_i = 10000^(-2 i / features),

    emb = silu(emb_hidden(silu(emb_noise(pe(c_noise)))) + emb_label(label))
    raw = out_conv(silu(n(decoder(encoder(x; emb); emb))))               [EDM2 fig. 17]

Two options lead from ADM to Improved DDPM: without `scale_shift` the embedding is added,
y = conv_res1(silu(n(conv_res0(...) + emb_linear(emb)))); without `resample_blocks` a
convolution of stride 2, or one after nearest-neighbour doubling, changes the resolution.

conv_res1, attn_proj and out_conv start at 0, so an untrained block adds nothing and an
untrained network returns 0. Other weights start He-uniform, the label's N(0, 1).
"""

import functools
import math
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.networks.attention import attend
from jaxdiff.networks.edm2_block import require_heads
from jaxdiff.networks.mp_layers import Mode, MPFourier, resample
from jaxdiff.networks.unet_skeleton import (
    Decoder,
    DType,
    Encoder,
    LabelDim,
    Multiple,
    Multiples,
    label_rows,
    rematerialized,
    require_square,
    stopped_where_withheld,
    withhold_noise,
)
from jaxdiff.types import Condition, Network, Output, implements
from jaxdiff.types.magnitude import wide
from jaxdiff.types.ranges import Blocks, FractionBelowOne, Size, Whole, Width, checked

ZEROS = nn.initializers.zeros
HE_UNIFORM = nn.initializers.he_uniform()


def positions(c: Float[Array, " B"], features: int) -> Float[Array, "B N"]:
    """[cos(c f_i), sin(c f_i)], f_i = 10000^(-2 i / features); features are even [DDPM].

    >>> positions(jnp.zeros([1]), 4).tolist()
    [[1.0, 1.0, 0.0, 0.0]]
    """
    half = features // 2
    freqs = jnp.exp(-math.log(10000) / half * jnp.arange(half, dtype=c.dtype))
    angle = c[:, None] * freqs
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


class ADMBlock(nn.Module):
    """Residual block, with self-attention if `attention`: (x, emb) -> x.

    Attention has `heads` heads, or if that is 0, features // channels_per_head, and none
    below one. Encoder and decoder have the same blocks. Logits and softmax of attention
    are float32.
    """

    features: int
    decoder: bool = False
    resample: Mode = "keep"
    attention: bool = False
    channels_per_head: int = 64
    heads: int = 0
    scale_shift: bool = True
    dropout: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], emb: Float[Array, "B E"], train: bool = False
    ) -> Float[Array, "B H2 W2 C2"]:
        half = (1.0, 1.0)  # the 2 x 2 mean, and nearest neighbour
        y = resample(nn.silu(norm(x, "norm_res0")), half, self.resample)
        y = conv(self.features, (3, 3), x.dtype, "conv_res0")(y)
        y = nn.silu(self._modulated(y, emb))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        y = conv(self.features, (3, 3), x.dtype, "conv_res1", ZEROS)(y)
        x = resample(x, half, self.resample)
        if x.shape[-1] != self.features:
            x = conv(self.features, (1, 1), x.dtype, "conv_skip")(x)
        x = x + y
        heads = self.heads or self.features // self.channels_per_head
        return x + self._attend(x, heads) if self.attention and heads else x

    def _modulated(self, y: Float[Array, "B H W C"], emb: Array) -> Float[Array, "B H W C"]:
        """norm(y) (1 + scale) + shift by the embedding, or norm(y + embedding)."""
        width = (1 + self.scale_shift) * self.features
        emb = linear(width, emb.dtype, "emb_linear")(emb)
        emb = emb.astype(y.dtype)[:, None, None, :]
        if not self.scale_shift:
            return norm(y + emb, "norm_res1")
        scale, shift = jnp.split(emb, 2, axis=-1)
        return norm(y, "norm_res1") * (1 + scale) + shift

    def _attend(self, x: Float[Array, "B H W C"], heads: int) -> Float[Array, "B H W C"]:
        """softmax(q k / sqrt(d)) v; the channels of attn_qkv are (qkv, head, d)."""
        b, h, w, c = x.shape
        require_heads(c, heads, self.channels_per_head)
        qkv = conv(3 * c, (1, 1), x.dtype, "attn_qkv")(norm(x, "attn_norm"))
        q, k, v = jnp.moveaxis(qkv.reshape(b, h * w, 3, heads, c // heads), 2, 0)
        out = attend(q, k, v).reshape(b, h, w, c)
        return conv(c, (1, 1), x.dtype, "attn_proj", ZEROS)(out)


class Resampling(nn.Module):
    """Half or double the resolution by a convolution, (x, emb) -> x; emb is not read."""

    features: int
    resample: Mode

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], emb: Float[Array, "B E"], train: bool = False
    ) -> Float[Array, "B H2 W2 C2"]:
        if self.resample == "up":
            x = resample(x, (1.0, 1.0), "up")
            return conv(self.features, (3, 3), x.dtype, "conv")(x)
        return nn.Conv(
            self.features, (3, 3), 2, ((1, 1), (1, 1)), dtype=x.dtype,
            kernel_init=HE_UNIFORM, name="conv",
        )(x)  # fmt: skip


@implements(Network)
@checked
class ADM(nn.Module):
    """The ADM network [EDM2 fig. 17], and with other settings Improved DDPM's.

    Fields are those of `UNet`. EDM2's config B is the default; A attends at resolution 32
    too and has no uncertainty head. `channel_mult_noise` and `channel_mult_emb` give the
    widths of the position features and of the embedding in model_channels; 0 stands for
    max(channel_mult). `heads` fixes the number of heads at every resolution. As published,
    both networks have channel_mult_emb = 4 (2 * 4 at half the model_channels, for a
    channel_mult of 1/2), no uncertainty head, and blocks of the bottom that attend.
    With `learned_variance` a second head gives v, 0 in an untrained network, as Improved
    DDPM's.

    >>> net = ADM(model_channels=8, channel_mult=(1, 2), num_blocks=1, channels_per_head=8)
    >>> args = (jax.random.key(0), jnp.zeros([2, 8, 8, 3]), jnp.zeros([]), Condition())
    >>> out, variables = jax.eval_shape(net.init_with_output, *args)
    >>> out.raw.shape, out.uncertainty.shape
    ((2, 8, 8, 3), (2,))
    """

    label_dim: LabelDim = 0
    model_channels: Width = 192
    channel_mult: Multiples = (1, 2, 3, 4)
    num_blocks: Blocks = 3
    attn_resolutions: tuple[Size, ...] = (16, 8)
    channels_per_head: Width = 64
    channel_mult_noise: Annotated[int, Whole(1, 64)] = 1
    channel_mult_emb: Multiple = 0
    heads: Annotated[int, Whole(0, 2**13)] = 0
    scale_shift: bool = True
    resample_blocks: bool = True
    dropout: FractionBelowOne = 0.0
    logvar_channels: Width = 128
    uncertainty: bool = True
    learned_variance: bool = False
    dtype: DType = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_channels % 2:
            raise ValueError(f"model_channels must be even, got {self.model_channels}")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "..."],
        cond: Condition,
        train: bool = False,
    ) -> Output:
        """The prediction for x [B, R, R, C] at c_noise, as `UNet`'s.

        Raises: ValueError on images that are not square or do not halve evenly.
        """
        *_, channels = x.shape
        require_square(x.shape, len(self.channel_mult))
        dtype = jnp.dtype(self.dtype)
        c_noise = jnp.broadcast_to(c_noise.astype(wide(dtype)).reshape(-1), x.shape[:1])
        emb = self._embed(c_noise, cond)
        widths = tuple(self.model_channels * mult for mult in self.channel_mult)
        shared = (widths, self.num_blocks, self.attn_resolutions)
        layer = functools.partial(nn.Conv, dtype=dtype, kernel_init=HE_UNIFORM)
        join = lambda x, skip: jnp.concatenate([x, skip], axis=-1)
        block = _blocks(self)
        skips = Encoder(*shared, layer, block, name="enc")(x.astype(dtype), emb, train)
        x = Decoder(*shared, join, block, name="dec")(skips, emb, train)
        x = nn.silu(norm(x, "out_norm"))
        raw = conv(channels, (3, 3), dtype, "out_conv", ZEROS)(x).astype(wide(dtype))
        uncertainty = self._log_variance(c_noise, cond)
        return Output(raw, self._variance(x, channels), uncertainty, features=x)

    def _embed(self, c_noise: Float[Array, " B"], cond: Condition) -> Float[Array, "B E"]:
        width = self.model_channels * (self.channel_mult_emb or max(self.channel_mult))
        emb = positions(c_noise, self.model_channels * self.channel_mult_noise)
        emb = nn.silu(linear(width, emb.dtype, "emb_noise")(emb))
        emb = withhold_noise(linear(width, emb.dtype, "emb_hidden")(emb), cond)
        if self.label_dim:
            rows = label_rows(cond, c_noise.shape[0], self.label_dim).astype(emb.dtype)
            table = self.param(
                "emb_label", nn.initializers.normal(1.0), (self.label_dim, width)
            )
            emb = emb + jnp.matmul(rows, table, precision=jax.lax.Precision.HIGHEST)
        return nn.silu(emb)

    def _variance(self, x: Float[Array, "B R R F"], channels: int) -> Array | None:
        """v, a second output, with `learned_variance` [IDDPM eq. 15]."""
        if not self.learned_variance:
            return None
        v = conv(channels, (3, 3), x.dtype, "variance_conv", ZEROS)(x)
        return v.astype(wide(x.dtype))

    def _log_variance(
        self, c_noise: Float[Array, " B"], cond: Condition
    ) -> Float[Array, " B"] | None:
        """u(sigma), one linear layer on Fourier features [EDM2 eq. 21]."""
        if not self.uncertainty:
            return None
        features = MPFourier(self.logvar_channels, gain=1.0, name="logvar_fourier")
        u = linear(1, c_noise.dtype, "logvar_linear")(features(c_noise))[:, 0]
        return stopped_where_withheld(u, cond)


def _blocks(net: ADM) -> Callable[..., nn.Module]:
    """A factory of blocks of (features), or of convolutions that resample instead."""
    block = functools.partial(
        rematerialized(ADMBlock, net.remat),
        channels_per_head=net.channels_per_head,
        heads=net.heads,
        scale_shift=net.scale_shift,
        dropout=net.dropout,
    )

    def make(features: int, resample: Mode = "keep", **where: Any) -> nn.Module:
        if resample != "keep" and not net.resample_blocks:
            return Resampling(features, resample, name=where["name"])
        return block(features, resample=resample, **where)

    return make


def norm(x: Float[Array, "B H W C"], name: str) -> Float[Array, "B H W C"]:
    """Affine group norm, with 32 groups or, where they do not divide C, the gcd."""
    groups = math.gcd(32, x.shape[-1])
    return nn.GroupNorm(groups, epsilon=1e-5, dtype=x.dtype, name=name)(x)


def conv(
    features: int,
    kernel: tuple[int, int],
    dtype: jnp.dtype,
    name: str,
    init: nn.initializers.Initializer = HE_UNIFORM,
) -> nn.Conv:
    """Convolution with a bias that keeps H and W."""
    return nn.Conv(features, kernel, dtype=dtype, kernel_init=init, name=name)


def linear(features: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    """Linear layer with a bias, exact in float32."""
    high = jax.lax.Precision.HIGHEST
    return nn.Dense(
        features, dtype=dtype, precision=high, kernel_init=HE_UNIFORM, name=name
    )
