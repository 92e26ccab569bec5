"""The EDM2 U-Net, config G: magnitude-preserving throughout, no biases, no group norm.

    emb = silu(sum(emb_noise(fourier(c_noise)), emb_label(label)))
    raw = out_gain out_conv(decoder(encoder([x, 1]; emb); emb))          [EDM2 fig. 21]

The gain starts at 0, so an untrained network returns 0. Parameters have the names of the
published networks, see interop.edm2. Three settings go back down the paper's ladder:

    config   fixed_magnitudes   group_norm   weight_norm
    G        yes                no           yes
    F        no                 no           yes            plain silu, sum, cat; no gains
    E, D     no                 yes          yes            normed blocks, output with silu
    C        no                 yes          no             ordinary layers, He-uniform

E differs from D in the optimiser alone. Configs A and B are `adm.ADM`.
"""

import functools
import math
from typing import Annotated

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.networks.edm2_block import Block
from jaxdiff.networks.mp_layers import MPConv, MPFourier, functions, group_norm
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
from jaxdiff.types.ranges import (
    Blocks,
    Finite,
    Fraction,
    FractionBelowOne,
    Items,
    NonNegative,
    Size,
    Width,
    checked,
)


@implements(Network)
@checked
class UNet(nn.Module):
    """EDM2's network of config G, with its uncertainty head [EDM2 fig. 21].

    c_l = model_channels channel_mult[l]. channel_mult_noise and channel_mult_emb give the
    widths of the Fourier features and of the embedding; 0 stands for c_0 and max(c_l).
    `dtype` is that of the image's path; the embedding, its layers and the uncertainty
    head are float32 whatever it is, as all parameters are. clip_act = 0 clips nothing.
    With `learned_variance` a second head gives v [B, R, R, C], Improved DDPM's position
    between the posterior's variances: not bounded, -1 the smaller, +1 the larger, and 0
    (their geometric mean) in an untrained network. `remat` computes the inside of blocks
    twice instead of keeping it for the gradient: less memory, more time, the same numbers.

    >>> import jax
    >>> net = UNet(model_channels=8, channel_mult=(1, 2), num_blocks=1, channels_per_head=8)
    >>> x = jnp.zeros([2, 8, 8, 3])
    >>> args = (jax.random.key(0), x, jnp.zeros([]), Condition())
    >>> out, variables = jax.eval_shape(net.init_with_output, *args)
    >>> out.raw.shape, sorted(variables)
    ((2, 8, 8, 3), ['constants', 'params'])
    """

    label_dim: LabelDim = 0
    model_channels: Width = 192
    channel_mult: Multiples = (1, 2, 3, 4)
    channel_mult_noise: Multiple = 0
    channel_mult_emb: Multiple = 0
    num_blocks: Blocks = 3
    attn_resolutions: tuple[Size, ...] = (16, 8)
    channels_per_head: Width = 64
    label_balance: Fraction = 0.5
    concat_balance: Fraction = 0.5
    res_balance: Fraction = 0.3
    attn_balance: Fraction = 0.3
    dropout: FractionBelowOne = 0.0
    clip_act: NonNegative = 256.0
    resample_filter: Annotated[tuple[Finite, ...], Items(1, 64)] = (1.0, 1.0)
    logvar_channels: Width = 128
    uncertainty: bool = True
    learned_variance: bool = False
    dtype: DType = "float32"
    remat: bool = False
    fixed_magnitudes: bool = True
    group_norm: bool = False
    weight_norm: bool = True

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
        require_square(x.shape, len(self.channel_mult))
        dtype, f = jnp.dtype(self.dtype), functions(self.fixed_magnitudes)
        c_noise = jnp.broadcast_to(c_noise.astype(wide(dtype)).reshape(-1), x.shape[:1])
        emb = self._embed(c_noise, cond)
        widths = tuple(self.model_channels * mult for mult in self.channel_mult)
        shared = (widths, self.num_blocks, self.attn_resolutions)
        layer = functools.partial(MPConv, weight_norm=self.weight_norm)
        join = functools.partial(f.cat, t=self.concat_balance)
        x = jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1).astype(dtype)
        skips = Encoder(*shared, layer, self._block(), name="enc")(x, emb, train)
        x = Decoder(*shared, join, self._block(), name="dec")(skips, emb, train)
        if self.group_norm:
            x = f.silu(group_norm(x))
        raw = self._layer("out_conv", channels, (3, 3))(x, self._out_gain())
        variance = self._variance(x, channels)
        return Output(
            raw.astype(wide(dtype)), variance, self._log_variance(c_noise, cond), features=x
        )

    def _block(self) -> functools.partial:
        """A factory of this network's blocks, given their features."""
        return functools.partial(
            rematerialized(Block, self.remat),
            channels_per_head=self.channels_per_head,
            res_balance=self.res_balance,
            attn_balance=self.attn_balance,
            dropout=self.dropout,
            clip_act=self.clip_act,
            resample_filter=self.resample_filter,
            fixed_magnitudes=self.fixed_magnitudes,
            group_norm=self.group_norm,
            weight_norm=self.weight_norm,
        )

    def _layer(self, name: str, features: int, kernel: tuple[int, ...] = ()) -> MPConv:
        return MPConv(features, kernel, self.weight_norm, name=name)

    def _embed(self, c_noise: Float[Array, " B"], cond: Condition) -> Float[Array, "B E"]:
        """silu(sum(noise embedding, label embedding)) [EDM2 fig. 21].

        With group norm the noise has a second layer, after a silu [EDM2 fig. 18].
        """
        f = functions(self.fixed_magnitudes)
        noise_width = self.model_channels * (
            self.channel_mult_noise or self.channel_mult[0]
        )
        width = self.model_channels * (self.channel_mult_emb or max(self.channel_mult))
        emb = MPFourier(noise_width, gain=f.fourier, name="emb_fourier")(c_noise)
        emb = self._layer("emb_noise", width)(emb)
        if self.group_norm:
            emb = self._layer("emb_hidden", width)(f.silu(emb))
        emb = withhold_noise(emb, cond)
        if self.label_dim:
            rows = label_rows(cond, c_noise.shape[0], self.label_dim).astype(emb.dtype)
            label = self._layer("emb_label", width)(rows * math.sqrt(self.label_dim))
            emb = f.sum(emb, label, self.label_balance)
        return f.silu(emb)

    def _out_gain(self) -> Float[Array, ""] | float:
        """The learned gain of the output, from 0 on; 1 without fixed magnitudes."""
        if not self.fixed_magnitudes:
            return 1.0
        return self.param("out_gain", nn.initializers.zeros, ())

    def _variance(self, x: Float[Array, "B R R F"], channels: int) -> Array | None:
        """v, a second output with its own gain, with `learned_variance` [IDDPM eq. 15]."""
        if not self.learned_variance:
            return None
        gain = self.param("variance_gain", nn.initializers.zeros, ())
        v = self._layer("variance_conv", channels, (3, 3))(x, gain)
        return v.astype(wide(x.dtype))

    def _log_variance(
        self, c_noise: Float[Array, " B"], cond: Condition
    ) -> Float[Array, " B"] | None:
        """u(sigma), one linear layer on separate Fourier features [EDM2 eq. 21]."""
        if not self.uncertainty:
            return None
        gain = functions(self.fixed_magnitudes).fourier
        features = MPFourier(self.logvar_channels, gain=gain, name="logvar_fourier")
        u = self._layer("logvar_linear", 1)(features(c_noise))[:, 0]
        return stopped_where_withheld(u, cond)
