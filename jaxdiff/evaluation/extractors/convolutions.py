"""Convolutions with their batch normalisation folded in, from torch's tensors.

    gamma (W * x - mean) / sqrt(variance + eps) + beta = (s W) * x + (beta - s mean)

with s = gamma / sqrt(variance + eps), computed in float64. Both networks have eps = 1e-3.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

EPS = 1e-3
STATISTICS = ("weight", "bias", "running_mean", "running_var")
Flat = Mapping[str, np.ndarray]
"""A state dict of torch's: arrays by name."""


class Convolution(nn.Module):
    """A convolution [h, w, in, features] and a bias, at full float32 precision."""

    features: int
    size: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"
    depthwise: bool = False
    """Each channel by itself; kernel [h, w, features]."""

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        axes = () if self.depthwise else (x.shape[-1],)
        kernel = self.param("kernel", _zeros, (*self.size, *axes, self.features))
        bias = self.param("bias", _zeros, (self.features,))
        if self.depthwise:
            return depthwise(x, kernel, self.stride) + bias
        if self.size == (1, 1) and self.stride == 1:
            exact = jax.lax.Precision.HIGHEST
            return jnp.einsum("bijc,cd->bijd", x, kernel[0, 0], precision=exact) + bias
        return _convolve(x, kernel, self.stride, self.padding) + bias


def depthwise(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l C"], stride: int
) -> Float[Array, "B h w C"]:
    """Each channel convolved by itself, padded as TensorFlow's SAME.

    On a CPU as a sum of k l shifted products, which XLA makes faster than a grouped
    convolution there.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: shifted(x, kernel, stride),
        default=lambda x, kernel: grouped(x, kernel, stride),
    )


def grouped(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l C"], stride: int
) -> Float[Array, "B h w C"]:
    """`depthwise` as one grouped convolution."""
    return _convolve(x, kernel[:, :, None], stride, "SAME", x.shape[-1])


def shifted(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l C"], stride: int
) -> Float[Array, "B h w C"]:
    """`depthwise` as sum over (i, j) of x, shifted by (i, j), times kernel[i, j]."""
    sides, sizes = x.shape[1:3], kernel.shape[:2]
    pads = jax.lax.padtype_to_pads(sides, sizes, (stride, stride), "SAME")
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    height, width = (-(-side // stride) for side in sides)
    reach = lambda start, count: slice(start, start + stride * (count - 1) + 1, stride)
    return sum(
        x[:, reach(i, height), reach(j, width)] * kernel[i, j]
        for i in range(sizes[0])
        for j in range(sizes[1])
    )


def folded(
    flat: Flat, convolution: str, norm: str, depthwise: bool = False
) -> dict[str, Float[np.ndarray, "..."]]:
    """The kernel [h, w, in, out] and bias of torch's convolution and the norm after it."""
    read = lambda name: np.asarray(flat[name], np.float64)
    gamma, beta, mean, variance = (read(f"{norm}.{name}") for name in STATISTICS)
    scale = gamma / np.sqrt(variance + EPS)
    kernel = read(f"{convolution}.weight").transpose(2, 3, 1, 0) * scale
    kernel = kernel[:, :, 0] if depthwise else kernel
    bias = beta - scale * mean
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}


def _convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k l c D"],
    stride: int,
    padding: str,
    groups: int = 1,
) -> Float[Array, "B h w D"]:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=jax.lax.Precision.HIGHEST,
    )


_zeros = nn.initializers.zeros_init()
