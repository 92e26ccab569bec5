"""DINOv2's vision transformers, ViT-S/B/L with patches of 14 pixels and no registers.

An image of 224 pixels is 16 x 16 patches, each one token, with a class token before them:

    h = [class, W_p patches] + positions,
    h = h + g1 * attention(norm(h)),   h = h + g2 * mlp(norm(h))    depth times,

and the feature is norm(h)[0]. Attention is softmax(q k^T / sqrt(d)) v in heads of d = 64,
the MLP four times as wide with the exact GELU, g1 and g2 LayerScale's vectors, and norms
have eps = 1e-6. Positions are learned on a grid of 37 x 37 and interpolated [DINOv2].
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float, UInt8

from jaxdiff.evaluation.extractors.resizing import (
    BICUBIC,
    BICUBIC_ANTIALIASED,
    PIL_BICUBIC,
    ResizingKernel,
    resize,
)

SIDE, PATCH, GRID = 224, 14, 37
"""Pixels of an image, pixels of a patch, and positions along a side as they are stored."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, of pixels in [0, 1]."""

PREPARATIONS: Mapping[str, ResizingKernel] = {
    "edm2": BICUBIC_ANTIALIASED,
    "dgm": PIL_BICUBIC,
}
"""How images are resized: as EDM2 does, torch's bicubic with antialias on floats, neither
rounded nor clamped; and as dgm-eval does, PIL's on uint8."""

EXACT = jax.lax.Precision.HIGHEST


class TransformerBlock(nn.Module):
    """Attention and MLP, each normalised before and scaled after."""

    heads: int

    @nn.compact
    def __call__(self, h: Float[Array, "B N D"]) -> Float[Array, "B N D"]:
        batch, tokens, width = h.shape
        scale = lambda name: self.param(name, nn.initializers.ones, (width,))
        dense = lambda size, name: nn.Dense(size, precision=EXACT, name=name)
        x = nn.LayerNorm(1e-6, name="norm1")(h)
        qkv = dense(3 * width, "qkv")(x).reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = jnp.moveaxis(qkv, 2, 0)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, k, precision=EXACT)
        share = nn.softmax(logits / q.shape[-1] ** 0.5)
        x = jnp.einsum("bhqk,bkhd->bqhd", share, v, precision=EXACT)
        h = h + scale("ls1") * dense(width, "proj")(x.reshape(h.shape))
        x = nn.LayerNorm(1e-6, name="norm2")(h)
        x = nn.gelu(dense(4 * width, "fc1")(x), approximate=False)
        return h + scale("ls2") * dense(width, "fc2")(x)


class DINOv2(nn.Module):
    """Prepared images [B, 224, 224, 3] -> class tokens [B, width] after the last norm."""

    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
        width, patch = self.width, (PATCH, PATCH)
        token = lambda name, n: self.param(name, nn.initializers.normal(), (1, n, width))
        x = nn.Conv(width, patch, patch, "VALID", precision=EXACT, name="patch")(x)
        cls, position = token("cls_token", 1), token("pos_embed", 1 + GRID**2)
        grid = position[:, 1:].reshape(1, GRID, GRID, width)
        x = x + positions(grid, x.shape[1])
        first = jnp.broadcast_to(cls + position[:, :1], (len(x), 1, width))
        h = jnp.concatenate([first, x.reshape(len(x), -1, width)], 1)
        for i in range(self.depth):
            h = TransformerBlock(self.heads, name=f"blocks_{i}")(h)
        return nn.LayerNorm(1e-6, name="norm")(h[:, 0])


NETWORKS: Mapping[str, DINOv2] = {
    "dinov2_vits14": DINOv2(384, 12, 6),
    "dinov2_vitb14": DINOv2(768, 12, 12),
    "dinov2_vitl14": DINOv2(1024, 24, 16),
}
"""The published networks, by the names of torch's hub."""


def prepare(
    images: UInt8[Array | np.ndarray, "B H W 3"], preparation: str = "edm2"
) -> Float[Array, "B 224 224 3"]:
    """The network's input: images resized to 224 pixels, (x - MEAN) / STD.

    Raises:
        ValueError: a preparation that is not in `PREPARATIONS`.
    """
    if preparation not in PREPARATIONS:
        known = ", ".join(PREPARATIONS)
        raise ValueError(f"unknown preparation {preparation!r}; known are {known}")
    x = resize(images, SIDE, PREPARATIONS[preparation]).astype(jnp.float32)
    return (x / 255 - jnp.array(MEAN)) / jnp.array(STD)


def positions(grid: Float[Array, "1 M M D"], size: int) -> Float[Array, "1 n n D"]:
    """The grid of positions, interpolated to another: torch's bicubic, a = -3/4.

    The hub's networks pass the scale (size + 0.1) / M, so that source positions are
    (i + 1/2) M / (size + 0.1) - 1/2, and not those of the sizes alone.
    """
    if size == grid.shape[1]:
        return grid
    return resize(grid, size, BICUBIC, grid.shape[1] / (size + 0.1))


def shapes(network: DINOv2) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the hub's state dict, in its order.

    >>> shapes(NETWORKS["dinov2_vitl14"])["blocks.23.attn.qkv.weight"]
    (3072, 1024)
    """
    w = network.width
    pair = lambda name, *shape: {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    block = {
        **pair("norm1", w),
        **pair("attn.qkv", 3 * w, w),
        **pair("attn.proj", w, w),
        "ls1.gamma": (w,),
        **pair("norm2", w),
        **pair("mlp.fc1", 4 * w, w),
        **pair("mlp.fc2", w, 4 * w),
        "ls2.gamma": (w,),
    }
    return {
        "cls_token": (1, 1, w),
        "pos_embed": (1, 1 + GRID**2, w),
        "mask_token": (1, w),
        **pair("patch_embed.proj", w, 3, PATCH, PATCH),
        **{f"blocks.{i}.{n}": s for i in range(network.depth) for n, s in block.items()},
        **pair("norm", w),
    }


def tree(flat: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """{"params": ...} of the network, float32, from a state dict that has its `shapes`."""
    params = {}
    for name, value in flat.items():
        if name == "mask_token":  # training's alone
            continue
        name = name.replace("patch_embed.proj", "patch").replace("blocks.", "blocks_")
        path = tuple(
            part for part in name.split(".") if part not in ("attn", "mlp", "gamma")
        )
        value = np.asarray(value, np.float32)
        if path[-1] == "weight":
            leaf, axes = WEIGHTS[value.ndim]
            path, value = (*path[:-1], leaf), value.transpose(axes)
        params[path] = value
    return {"params": traverse_util.unflatten_dict(params)}


WEIGHTS = {1: ("scale", (0,)), 2: ("kernel", (1, 0)), 4: ("kernel", (2, 3, 1, 0))}
"""What Flax calls a `weight`, by its dimensions, and the order of its axes there."""
