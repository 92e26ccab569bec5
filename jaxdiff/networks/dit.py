"""The diffusion transformer: DiT's network, which is SiT's too.

An image is cut into patches of p x p pixels, each one token. With LN a layer norm without
parameters, and c the embedding of the noise level plus that of the label,

    c = emb_hidden(silu(emb_noise(pe(c_noise)))) + emb_label[label]
    h = patch(patches) + positions
    for each block, s1, m1, g1, s2, m2, g2 = modulation(silu(c)):
        h = h + g1 * attention(LN(h) (1 + m1) + s1)
        h = h + g2 * mlp(LN(h) (1 + m2) + s2)
    s, m = out_modulation(silu(c)),      raw = out_linear(LN(h) (1 + m) + s) [DiT 3.2]

pe(c) = [cos(c f_i), sin(c f_i)] has 256 features, the MLP's GELU is the tanh form, and the
last row of emb_label stands for "no class". All modulations and out_linear start at 0
(adaLN-Zero), so an untrained block adds nothing and an untrained network returns 0.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.networks.adm import positions
from jaxdiff.networks.attention import attend
from jaxdiff.networks.unet_skeleton import DType, LabelDim, label_rows, rematerialized
from jaxdiff.types import Condition, Network, Output, implements
from jaxdiff.types.magnitude import wide
from jaxdiff.types.ranges import Blocks, Range, Width, checked

SIZES: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "S": MappingProxyType({"width": 384, "depth": 12, "heads": 6}),
        "B": MappingProxyType({"width": 768, "depth": 12, "heads": 12}),
        "L": MappingProxyType({"width": 1024, "depth": 24, "heads": 16}),
        "XL": MappingProxyType({"width": 1152, "depth": 28, "heads": 16}),
    }
)
"""The published sizes: `DiT(**SIZES["XL"], patch=2)` is DiT-XL/2."""
TIME_FEATURES = 256
"""Features of the noise level."""

ZEROS = nn.initializers.zeros
SMALL = nn.initializers.normal(0.02)
XAVIER = nn.initializers.xavier_uniform()


@implements(Network)
@checked
class DiT(nn.Module):
    """DiT's and SiT's network [DiT fig. 3]: images [B, H, W, C] -> `Output`.

    `width` is that of tokens. `dtype` is that of the tokens' path; the embedding and the
    modulations are float32 whatever it is, as all parameters are. With `learned_variance`
    the last layer gives 2 C channels, the second half being v. Where the noise level is
    withheld its embedding is zero, or with `learned_null` a parameter that starts at zero.
    `remat` computes the inside of blocks twice instead of keeping it for the gradient.

    The table of positions is the collection "constants": it is fixed, and belongs to the
    image size that the network was made for.

    >>> net = DiT(width=8, depth=1, heads=2)
    >>> args = (jax.random.key(0), jnp.zeros([2, 8, 8, 4]), jnp.zeros([]), Condition())
    >>> out, variables = jax.eval_shape(net.init_with_output, *args)
    >>> out.raw.shape, variables["constants"]["positions"].shape
    ((2, 8, 8, 4), (16, 8))
    """

    label_dim: LabelDim = 0
    patch: Width = 2
    width: Width = 384
    depth: Blocks = 12
    heads: Width = 6
    mlp_ratio: Annotated[float, Range(0, 64, above=True)] = 4.0
    learned_variance: bool = False
    learned_null: bool = False
    dtype: DType = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % 4 or self.width % self.heads:
            raise ValueError(
                f"width must be a multiple of 4 and of heads, got width {self.width} and "
                f"{self.heads} heads"
            )

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "..."],
        cond: Condition,
        train: bool = False,
    ) -> Output:
        """The prediction for x at c_noise, flattened and broadcast to [B].

        Labels are int [B], -1 = withheld, or rows of float [B, label_dim] that sum to 1,
        or to 0 where withheld: what is missing from 1 is the share of "no class".

        Raises:
            ValueError: sides that the patch does not divide, or another image size than
                that of the table of positions.
        """
        batch, height, width, channels = x.shape
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"the image is {height} x {width}, which patches of {self.patch} do not "
                "tile: crop or pad it, or choose another patch"
            )
        dtype = jnp.dtype(self.dtype)
        c_noise = jnp.broadcast_to(c_noise.astype(wide(dtype)).reshape(-1), (batch,))
        c = nn.silu(self._embed(c_noise, cond))
        grid = (height // self.patch, width // self.patch)
        h = dense(self.width, dtype, "patch")(_patches(x.astype(dtype), self.patch))
        h = h + self._positions(grid).astype(dtype)
        block = rematerialized(DiTBlock, self.remat)
        for i in range(self.depth):
            h = block(self.heads, self.mlp_ratio, name=f"block{i}")(h, c, train)
        shift, scale = modulated(c, 2, h.dtype, "out_modulation")
        h = layer_norm(h) * (1 + scale) + shift
        outputs = (1 + self.learned_variance) * channels
        out = dense(self.patch**2 * outputs, dtype, "out_linear", ZEROS)(h)
        out = _image(out, grid, self.patch).astype(wide(dtype))
        raw, variance = out[..., :channels], out[..., channels:]
        features = h.reshape(batch, *grid, self.width)
        return Output(raw, variance if self.learned_variance else None, features=features)

    def _embed(self, c_noise: Float[Array, " B"], cond: Condition) -> Float[Array, "B D"]:
        emb = positions(c_noise, TIME_FEATURES)
        emb = nn.silu(exact(self.width, emb.dtype, "emb_noise", SMALL)(emb))
        emb = exact(self.width, emb.dtype, "emb_hidden", SMALL)(emb)
        null = 0.0
        if self.learned_null:
            null = self.param("emb_null", ZEROS, (self.width,))
        if cond.noise is not None:
            emb = jnp.where(cond.noise[:, None], emb, null)
        if self.label_dim:
            rows = label_rows(cond, c_noise.shape[0], self.label_dim).astype(emb.dtype)
            rows = jnp.concatenate([rows, 1 - rows.sum(-1, keepdims=True)], axis=-1)
            table = self.param("emb_label", SMALL, (self.label_dim + 1, self.width))
            emb = emb + jnp.matmul(rows, table, precision=jax.lax.Precision.HIGHEST)
        return emb

    def _positions(self, grid: tuple[int, int]) -> Float[Array, "T D"]:
        table = self.variable(
            "constants", "positions", lambda: jnp.asarray(grid_positions(grid, self.width))
        ).value
        if table.shape[0] != math.prod(grid):
            raise ValueError(
                f"the network's table has {table.shape[0]} positions, and an image of "
                f"{grid[0]} x {grid[1]} patches has {math.prod(grid)}: make the network "
                "for this size"
            )
        return table


class DiTBlock(nn.Module):
    """Attention and MLP, modulated by the embedding (adaLN-Zero) [DiT fig. 3]."""

    heads: int
    mlp_ratio: float = 4.0

    @nn.compact
    def __call__(
        self, h: Float[Array, "B T D"], c: Float[Array, "B D"], train: bool = False
    ) -> Float[Array, "B T D"]:
        width = h.shape[-1]
        parts = modulated(c, 6, h.dtype, "modulation")
        shift1, scale1, gate1, shift2, scale2, gate2 = parts
        h = h + gate1 * self._attend(layer_norm(h) * (1 + scale1) + shift1)
        y = layer_norm(h) * (1 + scale2) + shift2
        y = dense(int(width * self.mlp_ratio), h.dtype, "mlp_hidden")(y)
        y = dense(width, h.dtype, "mlp_out")(nn.gelu(y, approximate=True))
        return h + gate2 * y

    def _attend(self, y: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The channels of attn_qkv are (qkv, head, d)."""
        batch, tokens, width = y.shape
        qkv = dense(3 * width, y.dtype, "attn_qkv")(y)
        q, k, v = jnp.moveaxis(qkv.reshape(batch, tokens, 3, self.heads, -1), 2, 0)
        return dense(width, y.dtype, "attn_proj")(attend(q, k, v).reshape(y.shape))


def grid_positions(grid: tuple[int, int], width: int) -> Float[np.ndarray, "T D"]:
    """Positions of a grid of patches, row by row, float32 [DiT sec. 3.2].

    The first half of the features is of the column, the second of the row; each is
    [sin(n f_k), cos(n f_k)] with f_k = 10000^(-4 k / width), k = 0 ... width / 4 - 1.
    """
    frequency = 10000.0 ** (-np.arange(width // 4) / (width // 4))
    rows, columns = np.indices(grid).reshape(2, -1, 1)
    angles = np.concatenate([columns * frequency, rows * frequency], axis=-1)
    parts = [f(half) for half in np.split(angles, 2, axis=-1) for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=-1).astype(np.float32)


def modulated(
    c: Float[Array, "B D"], parts: int, dtype: jnp.dtype, name: str
) -> list[Float[Array, "B 1 D"]]:
    """Shifts, scales and gates: so many parts of a linear layer of silu(c), from 0 on."""
    out = exact(parts * c.shape[-1], c.dtype, name, ZEROS)(c).astype(dtype)
    return jnp.split(out[:, None, :], parts, axis=-1)


def dense(
    features: int, dtype: jnp.dtype, name: str, init: nn.initializers.Initializer = XAVIER
) -> nn.Dense:
    """Linear layer with a bias, on tokens."""
    return nn.Dense(features, dtype=dtype, kernel_init=init, name=name)


def exact(
    features: int, dtype: jnp.dtype, name: str, init: nn.initializers.Initializer
) -> nn.Dense:
    """Linear layer with a bias, exact in float32."""
    high = jax.lax.Precision.HIGHEST
    return nn.Dense(features, dtype=dtype, precision=high, kernel_init=init, name=name)


def layer_norm(h: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """(h - mean) / sqrt(variance + 1e-6) over the features of each token."""
    wider = h.astype(wide(h.dtype))
    centred = wider - wider.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + 1e-6)).astype(h.dtype)


def _patches(x: Float[Array, "B H W C"], size: int) -> Float[Array, "B T F"]:
    """Patches row by row; the features of one are (row in it, column in it, channel)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h // size, size, w // size, size, c).swapaxes(2, 3)
    return x.reshape(b, (h // size) * (w // size), size * size * c)


def _image(
    tokens: Float[Array, "B T F"], grid: tuple[int, int], size: int
) -> Float[Array, "B H W C"]:
    """The inverse of `_patches`."""
    rows, columns = grid
    x = tokens.reshape(len(tokens), rows, columns, size, size, -1).swapaxes(2, 3)
    return x.reshape(len(tokens), rows * size, columns * size, -1)
