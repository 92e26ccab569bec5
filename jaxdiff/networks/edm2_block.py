"""The block of EDM2's network: a residual branch, then self-attention, (x, emb) -> x.

    x = sum(x, y),        y the residual branch,        then x = sum(x, attention(x))

Configs F and G resample and join the main path once, first [EDM2 fig. 21],

    enc: x = unit(conv_skip(resample(x)))        dec: x = conv_skip(resample(x)), after y
         y = conv_res1(silu(conv_res0(silu(x)) * (1 + emb_linear(emb) emb_gain)))

with unit() over the channels of each pixel. C to E, with `group_norm`, resample each branch
for itself, in the encoder as in the decoder [EDM2 fig. 18-20]:

    x = conv_skip(resample(x))              n = group_norm
    y = conv_res1(silu(n(conv_res0(resample(silu(n(x))))) * (1 + emb_linear(emb) emb_gain)))

With `fixed_magnitudes` sum and silu preserve magnitude and emb_gain is learned, from 0 on;
without, both are plain and emb_gain is 1.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.networks.mp_layers import Mode, MPConv, functions, group_norm, resample
from jaxdiff.types.magnitude import unit


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
    fixed_magnitudes: bool = True
    group_norm: bool = False
    weight_norm: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], emb: Float[Array, "B E"], train: bool = False
    ) -> Float[Array, "B H2 W2 C2"]:
        f = functions(self.fixed_magnitudes)
        branches = self._normed if self.group_norm else self._joined_first
        x, y = branches(x, emb, train)
        x = f.sum(x, y, self.res_balance)
        heads = self.features // self.channels_per_head if self.attention else 0
        if heads:
            x = f.sum(x, self._attend(x, heads), self.attn_balance)
        return jnp.clip(x, -self.clip_act, self.clip_act) if self.clip_act else x

    def _joined_first(
        self, x: Float[Array, "B H W C"], emb: Float[Array, "B E"], train: bool
    ) -> tuple[Float[Array, "B H2 W2 C2"], Float[Array, "B H2 W2 C2"]]:
        """The main path and the residual branch of F and G."""
        f = functions(self.fixed_magnitudes)
        x = resample(x, self.resample_filter, self.resample)
        if not self.decoder:
            x = unit(self._skip(x))
        y = self._layer("conv_res0", (3, 3))(f.silu(x))
        y = f.silu(y.astype(emb.dtype) * self._scale(emb)).astype(y.dtype)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        y = self._layer("conv_res1", (3, 3))(y)
        return (self._skip(x) if self.decoder else x), y

    def _normed(
        self, x: Float[Array, "B H W C"], emb: Float[Array, "B E"], train: bool
    ) -> tuple[Float[Array, "B H2 W2 C2"], Float[Array, "B H2 W2 C2"]]:
        """The main path and the residual branch of C to E."""
        f = functions(self.fixed_magnitudes)
        y = resample(f.silu(group_norm(x)), self.resample_filter, self.resample)
        y = group_norm(self._layer("conv_res0", (3, 3))(y))
        y = f.silu(y.astype(emb.dtype) * self._scale(emb)).astype(y.dtype)
        y = nn.Dropout(self.dropout, deterministic=not train)(y)
        y = self._layer("conv_res1", (3, 3))(y)
        return self._skip(resample(x, self.resample_filter, self.resample)), y

    def _layer(self, name: str, kernel: tuple[int, ...], features: int = 0) -> MPConv:
        return MPConv(features or self.features, kernel, self.weight_norm, name=name)

    def _skip(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C2"]:
        if x.shape[-1] == self.features:
            return x
        return self._layer("conv_skip", (1, 1))(x)

    def _scale(self, emb: Float[Array, "B E"]) -> Float[Array, "B 1 1 C2"]:
        """What the embedding multiplies the channels by: 1 + emb_linear(emb) emb_gain."""
        gain = 1.0
        if self.fixed_magnitudes:
            gain = self.param("emb_gain", nn.initializers.zeros, ())
        return (self._layer("emb_linear", ())(emb, gain) + 1)[:, None, None, :]

    def _attend(self, x: Float[Array, "B H W C"], heads: int) -> Float[Array, "B H W C"]:
        """Cosine attention: q, k and v of magnitude 1, so logits stay below sqrt(d).

        The channels of attn_qkv are (head, d, qkv), q/k/v the fastest.
        """
        b, h, w, c = x.shape
        require_heads(c, heads, self.channels_per_head)
        qkv = self._layer("attn_qkv", (1, 1), 3 * c)(x)
        qkv = unit(qkv.reshape(b, h * w, heads, c // heads, 3), axes=3)
        q, k, v = qkv[..., 0], qkv[..., 1] / math.sqrt(c // heads), qkv[..., 2]
        weight = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        out = jnp.einsum("bhqk,bkhd->bqhd", weight, v).reshape(b, h, w, c)
        return self._layer("attn_proj", (1, 1))(out)


def require_heads(channels: int, heads: int, channels_per_head: int) -> None:
    """Checks that channels split into heads.

    Raises:
        ValueError: they do not.
    """
    if channels % heads:
        raise ValueError(
            f"{channels} channels do not split into {heads} heads: choose a "
            f"channels_per_head that divides {channels}, not {channels_per_head}"
        )
