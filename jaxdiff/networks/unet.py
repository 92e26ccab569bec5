"""The EDM2 U-Net, config G: magnitude-preserving throughout, no biases, no group norm.

A block turns x into mp_sum(x, residual(x; emb)), then mp_sum(x, attention(x)):

    enc: x = unit(conv_skip(resample(x)))        dec: x = conv_skip(resample(x)), after y
         y = conv_res1(mp_silu(conv_res0(mp_silu(x)) * (1 + emb_linear(emb) emb_gain)))

with unit() over the channels of each pixel [EDM2 fig. 21]. The encoder keeps every
output, the decoder joins them by mp_cat, last first. Gains start at 0, so an untrained
network returns 0. Parameters have the names of the published networks, see interop.edm2.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from jaxdiff.networks.magnitude import (
    Mode,
    MPConv,
    MPFourier,
    mp_cat,
    mp_silu,
    mp_sum,
    resample,
    unit,
    wide,
)
from jaxdiff.types import Condition, Output


class Block(nn.Module):
    """Residual block, and self-attention if asked: (x, emb) -> x [EDM2 fig. 21].

    Attention has features // channels_per_head heads, and none below one head.
    """

    features: int
    decoder: bool = False
    resample: Mode = "keep"
    attention: bool = False
    channels_per_head: int = 64
    res_balance: float = 0.3
    attn_balance: float = 0.3
    dropout: float = 0.0
    clip_act: float = 256.0
    resample_filter: tuple[float, ...] = (1.0, 1.0)

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], emb: Float[Array, "B E"], train: bool = False
    ) -> Float[Array, "B H2 W2 C2"]:
        x = resample(x, self.resample_filter, self.resample)
        if not self.decoder:
            x = unit(self._skip(x))
        y = self._residual(x, emb, train)
        if self.decoder:
            x = self._skip(x)
        x = mp_sum(x, y, self.res_balance)
        heads = self.features // self.channels_per_head if self.attention else 0
        if heads:
            x = mp_sum(x, self._attend(x, heads), self.attn_balance)
        return jnp.clip(x, -self.clip_act, self.clip_act) if self.clip_act else x

    def _skip(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C2"]:
        if x.shape[-1] == self.features:
            return x
        return MPConv(self.features, (1, 1), name="conv_skip")(x)

    def _residual(
        self, x: Float[Array, "B H W C"], emb: Float[Array, "B E"], train: bool
    ) -> Float[Array, "B H W C2"]:
        """Two convolutions; the embedding scales the channels between them."""
        gain = self.param("emb_gain", nn.initializers.zeros, ())
        scale = MPConv(self.features, name="emb_linear")(emb, gain) + 1
        y = MPConv(self.features, (3, 3), name="conv_res0")(mp_silu(x))
        y = mp_silu(y * scale[:, None, None, :].astype(y.dtype))
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        return MPConv(self.features, (3, 3), name="conv_res1")(y)

    def _attend(self, x: Float[Array, "B H W C"], heads: int) -> Float[Array, "B H W C"]:
        """Cosine attention: q, k and v of magnitude 1, so logits stay below sqrt(d).

        The channels of attn_qkv are (head, d, qkv), q/k/v the fastest.
        """
        b, h, w, c = x.shape
        if c % heads:
            raise ValueError(
                f"{c} channels do not split into {heads} heads: choose a "
                f"channels_per_head that divides {c}, not {self.channels_per_head}"
            )
        qkv = MPConv(3 * c, (1, 1), name="attn_qkv")(x)
        qkv = unit(qkv.reshape(b, h * w, heads, c // heads, 3), axes=3)
        q, k, v = qkv[..., 0], qkv[..., 1] / math.sqrt(c // heads), qkv[..., 2]
        weight = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        out = jnp.einsum("bhqk,bkhd->bqhd", weight, v).reshape(b, h, w, c)
        return MPConv(c, (1, 1), name="attn_proj")(out)


class Encoder(nn.Module):
    """Image -> the output of every layer, finest first: the skips of the decoder."""

    channels: tuple[int, ...]
    num_blocks: int
    attn_resolutions: tuple[int, ...]
    block: Callable[..., Block]

    @nn.compact
    def __call__(
        self, x: Float[Array, "B R R C"], emb: Float[Array, "B E"], train: bool
    ) -> list[Array]:
        skips, resolution = [], x.shape[1]
        for level, features in enumerate(self.channels):
            r = resolution >> level
            if level == 0:
                x = MPConv(features, (3, 3), name=f"{r}x{r}_conv")(x)
            else:
                before = self.channels[level - 1]
                x = self.block(before, resample="down", name=f"{r}x{r}_down")(x, emb, train)
            skips.append(x)
            for i in range(self.num_blocks):
                attention = r in self.attn_resolutions
                block = self.block(features, attention=attention, name=f"{r}x{r}_block{i}")
                x = block(x, emb, train)
                skips.append(x)
        return skips


class Decoder(nn.Module):
    """Skips -> features of the image, from the coarsest level up."""

    channels: tuple[int, ...]
    num_blocks: int
    attn_resolutions: tuple[int, ...]
    concat_balance: float
    block: Callable[..., Block]

    @nn.compact
    def __call__(
        self, skips: list[Array], emb: Float[Array, "B E"], train: bool
    ) -> Float[Array, "B R R C"]:
        make = functools.partial(self.block, decoder=True)
        x, resolution = skips[-1], skips[0].shape[1]
        for level, features in reversed(list(enumerate(self.channels))):
            r = resolution >> level
            if level == len(self.channels) - 1:  # attention here whatever the resolution
                x = make(features, attention=True, name=f"{r}x{r}_in0")(x, emb, train)
                x = make(features, name=f"{r}x{r}_in1")(x, emb, train)
            else:
                after = self.channels[level + 1]
                x = make(after, resample="up", name=f"{r}x{r}_up")(x, emb, train)
            for i in range(self.num_blocks + 1):
                attention = r in self.attn_resolutions
                block = make(features, attention=attention, name=f"{r}x{r}_block{i}")
                *skips, skip = skips
                x = block(mp_cat(x, skip, self.concat_balance), emb, train)
        return x


class UNet(nn.Module):
    """EDM2's network of config G, with its uncertainty head [EDM2 fig. 21].

    c_l = model_channels channel_mult[l]. channel_mult_noise and channel_mult_emb give the
    widths of the Fourier features and of the embedding; 0 stands for c_0 and max(c_l).
    `dtype` is that of the image's path; the embedding, its layers and the uncertainty
    head are float32 whatever it is, as all parameters are. clip_act = 0 clips nothing.
    With `learned_variance` a second head gives v [B, R, R, C], Improved DDPM's position
    between the posterior's variances: not bounded, -1 the smaller, +1 the larger, and 0
    (their geometric mean) in an untrained network.

    >>> net = UNet(model_channels=8, channel_mult=(1, 2), num_blocks=1, channels_per_head=8)
    >>> x = jnp.zeros([2, 8, 8, 3])
    >>> args = (jax.random.key(0), x, jnp.zeros([]), Condition())
    >>> out, variables = jax.eval_shape(net.init_with_output, *args)
    >>> out.raw.shape, sorted(variables)
    ((2, 8, 8, 3), ['constants', 'params'])
    """

    label_dim: int = 0
    model_channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    channel_mult_noise: int = 0
    channel_mult_emb: int = 0
    num_blocks: int = 3
    attn_resolutions: tuple[int, ...] = (16, 8)
    channels_per_head: int = 64
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attn_balance: float = 0.3
    dropout: float = 0.0
    clip_act: float = 256.0
    resample_filter: tuple[float, ...] = (1.0, 1.0)
    logvar_channels: int = 128
    uncertainty: bool = True
    learned_variance: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        sizes = {
            "model_channels": self.model_channels,
            "num_blocks": self.num_blocks,
            "channels_per_head": self.channels_per_head,
            "logvar_channels": self.logvar_channels,
            "channel_mult": min(self.channel_mult, default=0),
        }
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "..."],
        cond: Condition,
        train: bool = False,
    ) -> Output:
        """The prediction for x [B, R, R, C] at c_noise, flattened and broadcast to [B].

        Labels are int [B], -1 = withheld, or rows of float [B, label_dim]; a withheld
        label, or none, is a row of zeros. Where cond.noise is False the noise embedding
        is zero. Dropout draws from the "dropout" stream, in training only.

        Raises: ValueError on images that are not square or do not halve evenly.
        """
        *_, channels = x.shape
        self._check(x.shape)
        dtype = jnp.dtype(self.dtype)
        c_noise = jnp.broadcast_to(c_noise.astype(wide(dtype)).reshape(-1), x.shape[:1])
        emb = self._embed(c_noise, cond)
        widths = tuple(self.model_channels * mult for mult in self.channel_mult)
        block = functools.partial(
            Block,
            channels_per_head=self.channels_per_head,
            res_balance=self.res_balance,
            attn_balance=self.attn_balance,
            dropout=self.dropout,
            clip_act=self.clip_act,
            resample_filter=self.resample_filter,
        )
        shared = (widths, self.num_blocks, self.attn_resolutions)
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1).astype(dtype)
        skips = Encoder(*shared, block, name="enc")(x, emb, train)
        x = Decoder(*shared, self.concat_balance, block, name="dec")(skips, emb, train)
        gain = self.param("out_gain", nn.initializers.zeros, ())
        raw = MPConv(channels, (3, 3), name="out_conv")(x, gain).astype(wide(dtype))
        return Output(raw, self._variance(x, channels), self._log_variance(c_noise))

    def _embed(self, c_noise: Float[Array, " B"], cond: Condition) -> Float[Array, "B E"]:
        """mp_silu(mp_sum(noise embedding, label embedding)) [EDM2 fig. 21]."""
        noise_width = self.model_channels * (
            self.channel_mult_noise or self.channel_mult[0]
        )
        width = self.model_channels * (self.channel_mult_emb or max(self.channel_mult))
        emb = MPFourier(noise_width, name="emb_fourier")(c_noise)
        emb = MPConv(width, name="emb_noise")(emb)
        if cond.noise is not None:
            told: Bool[Array, " B"] = cond.noise
            emb = jnp.where(told[:, None], emb, 0)
        if self.label_dim:
            rows = self._rows(cond, c_noise.shape[0]).astype(emb.dtype)
            rows = rows * math.sqrt(self.label_dim)
            label = MPConv(width, name="emb_label")(rows)
            emb = mp_sum(emb, label, self.label_balance)
        return mp_silu(emb)

    def _rows(self, cond: Condition, batch: int) -> Float[Array, "B L"]:
        """Labels as rows [B, label_dim] that sum to 1, or 0 where withheld."""
        label = cond.label
        if label is None:
            return jnp.zeros((batch, self.label_dim))
        if not jnp.issubdtype(label.dtype, jnp.floating):
            label = jax.nn.one_hot(label, self.label_dim)
        if label.shape != (batch, self.label_dim):
            raise ValueError(
                f"label has shape {cond.label.shape}; give int labels [{batch}] or float "
                f"rows [{batch}, {self.label_dim}]"
            )
        return label

    def _variance(self, x: Float[Array, "B R R F"], channels: int) -> Array | None:
        """v, a second output with a gain of its own, where asked for [IDDPM eq. 15]."""
        if not self.learned_variance:
            return None
        gain = self.param("variance_gain", nn.initializers.zeros, ())
        v = MPConv(channels, (3, 3), name="variance_conv")(x, gain)
        return v.astype(wide(x.dtype))

    def _log_variance(self, c_noise: Float[Array, " B"]) -> Float[Array, " B"] | None:
        """u(sigma), one linear layer on Fourier features of its own [EDM2 eq. 21]."""
        if not self.uncertainty:
            return None
        features = MPFourier(self.logvar_channels, name="logvar_fourier")(c_noise)
        return MPConv(1, name="logvar_linear")(features)[:, 0]

    def _check(self, shape: tuple[int, ...]) -> None:
        _, height, width, _ = shape
        step = 2 ** (len(self.channel_mult) - 1)
        if height != width or height % step:
            raise ValueError(
                f"the image is {height} x {width}, and {len(self.channel_mult)} levels "
                f"need a square whose side is a multiple of {step}: crop or pad it, or "
                f"change channel_mult"
            )
