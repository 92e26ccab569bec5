"""The skeleton of EDM2's U-Nets: encoder, decoder, labels and checks.

Level l has images of side R / 2^l. The encoder keeps every output, the decoder joins them
to its own, last first. Attention is in the blocks of `attn_resolutions`, and in the
first block at the bottom. The caller chooses the layer, the block and the join.
"""

import functools
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.types import Condition
from jaxdiff.types.ranges import Choice, Items, Whole

LabelDim = Annotated[int, Whole(-1, 10**6)]
"""Classes: 0 = none, -1 = as many as the data have."""
Multiple = Annotated[int, Whole(0, 64)]
"""A width in multiples of model_channels; 0 = the default."""
Multiples = Annotated[tuple[Annotated[int, Whole(1, 64)], ...], Items(1, 14)]
"""Widths by level, each half as fine as the one before."""
DType = Annotated[str, Choice("float32", "bfloat16", "float16", "float64")]
"""The dtype a network computes in."""


class Encoder(nn.Module):
    """Image -> the output of every layer, finest first: the skips of the decoder.

    `layer` makes a convolution of (features, kernel), `block` a block of (features).
    """

    channels: tuple[int, ...]
    num_blocks: int
    attn_resolutions: tuple[int, ...]
    layer: Callable[..., nn.Module]
    block: Callable[..., nn.Module]

    @nn.compact
    def __call__(
        self, x: Float[Array, "B R R C"], emb: Float[Array, "B E"], train: bool
    ) -> list[Array]:
        skips, resolution = [], x.shape[1]
        for level, features in enumerate(self.channels):
            r = resolution >> level
            if level == 0:
                x = self.layer(features, (3, 3), name=f"{r}x{r}_conv")(x)
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
    """Skips -> features of the image, from the coarsest level up.

    `join` makes one input of what came from below and of a skip.
    """

    channels: tuple[int, ...]
    num_blocks: int
    attn_resolutions: tuple[int, ...]
    join: Callable[[Array, Array], Array]
    block: Callable[..., nn.Module]

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
                x = block(self.join(x, skip), emb, train)
        return x


def rematerialized(block: type[nn.Module], remat: bool) -> type[nn.Module]:
    """The block as it is, or one whose inside is computed again for the gradient.

    Parameters, outputs and gradients are the same; less is kept between the two passes.
    """
    return nn.remat(block, static_argnums=(3,)) if remat else block


def label_rows(cond: Condition, batch: int, label_dim: int) -> Float[Array, "B L"]:
    """Labels as rows [B, label_dim] that sum to 1, or 0 where withheld.

    A class that does not exist is an error where labels are concrete; inside jit its row
    is nan, and so are the outputs of its image.

    Raises:
        ValueError: labels of another shape or kind, or classes that do not exist.
    """
    if cond.label is None:
        return jnp.zeros((batch, label_dim))
    require_labels(cond.label, label_dim)
    label = jnp.asarray(cond.label)
    shape = (batch, label_dim) if jnp.issubdtype(label.dtype, jnp.floating) else (batch,)
    if label.shape != shape:
        raise ValueError(
            f"label has shape {label.shape}; give int labels [{batch}] or float rows "
            f"[{batch}, {label_dim}]"
        )
    if label.ndim == 2:
        return label
    known = (label >= -1) & (label < label_dim)
    return jnp.where(known[:, None], jax.nn.one_hot(label, label_dim), jnp.nan)


def require_labels(label: Any, label_dim: int) -> None:
    """Checks for classes that a network has; traced labels are not checked.

    >>> require_labels(np.array([3, 12]), label_dim=10)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: label 12 does not exist: this network has the 10 classes 0 to 9...

    Raises:
        ValueError: an int outside -1 ... label_dim - 1, a weight that is not finite, or
            neither ints nor floats.
    """
    if isinstance(label, jax.core.Tracer) or label_dim < 1:
        return
    if not getattr(label, "is_fully_addressable", True):  # other processes hold a part
        return
    label = np.asarray(label)
    if np.issubdtype(label.dtype, np.floating):
        if not np.isfinite(label).all():
            raise ValueError(f"label has weights that are not finite: {label.tolist()}")
        return
    if not np.issubdtype(label.dtype, np.integer):
        raise ValueError(
            f"label has dtype {label.dtype}; give ints from 0 to {label_dim - 1}, or rows "
            f"of {label_dim} floats"
        )
    bad = np.unique(label[(label < -1) | (label >= label_dim)])
    if bad.size:
        raise ValueError(
            f"label {', '.join(map(str, bad[:5]))} does not exist: this network has the "
            f"{label_dim} classes 0 to {label_dim - 1}, and -1 stands for no label"
        )


def withhold_noise(emb: Float[Array, "B E"], cond: Condition) -> Float[Array, "B E"]:
    """The noise embedding, zero where cond.noise is False."""
    return emb if cond.noise is None else jnp.where(cond.noise[:, None], emb, 0)


def stopped_where_withheld(u: Float[Array, " B"], cond: Condition) -> Float[Array, " B"]:
    """The uncertainty u, without gradient for images whose noise level is withheld.

    Their errors are larger, which u at that level must not learn: for them u weights the
    loss as it is.
    """
    if cond.noise is None:
        return u
    return jnp.where(cond.noise, u, jax.lax.stop_gradient(u))


def require_square(shape: tuple[int, ...], levels: int) -> None:
    """Checks that images [B, H, W, C] are square and halve evenly.

    Raises:
        ValueError: they are not, or do not.
    """
    _, height, width, _ = shape
    step = 2 ** (levels - 1)
    if height != width or height % step:
        raise ValueError(
            f"the image is {height} x {width}, but {levels} levels need a square whose "
            f"side is a multiple of {step}: crop or pad it, or change channel_mult"
        )
