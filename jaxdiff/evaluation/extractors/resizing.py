"""Resizing as two matrices, one for each protocol by which metrics prepare images.

Along one axis, with r = in / out source pixels to an output pixel, output i looks at

    c_i = (i + 1/2) r - 1/2        or  i r  without half pixels,

and is the sum over taps j of w(j - c_i; s) x_j, its weights divided by their sum. The
profile w is s = 1 source pixels wide, or s = max(r, 1) when antialiased. A tap outside of
the image is left out when antialiased, else it reads the nearest pixel of the edge.
Matrices are made in float64, but for the positions c_i of what is not antialiased:
TensorFlow 1 and torch have those in float32, which moves a value by up to 6e-4 of 255.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Real

Images = Real[Array | np.ndarray, "B H W C"]


@dataclass(frozen=True)
class Triangle:
    """Linear interpolation: 1 - |d| / s."""

    support: float = 1.0

    def __call__(self, d: np.ndarray, s: float) -> np.ndarray:
        return np.maximum(1 - np.abs(d) / s, 0)


@dataclass(frozen=True)
class Cubic:
    """Cubic convolution whose slope at |d| = s is a; a = -1/2 is of third order [Keys]."""

    a: float
    support: float = 2.0

    def __call__(self, d: np.ndarray, s: float) -> np.ndarray:
        a, d = self.a, np.abs(d) / s
        inner = ((a + 2) * d - (a + 3)) * d**2 + 1
        outer = a * (((d - 5) * d + 8) * d - 4)
        return np.where(d <= 1, inner, np.where(d < 2, outer, 0))


@dataclass(frozen=True)
class Area:
    """What an output pixel of width s covers of a source pixel; linear where s = 1."""

    support: float = 1.0

    def __call__(self, d: np.ndarray, s: float) -> np.ndarray:
        return np.clip((s + 1) / 2 - np.abs(d), 0, 1)


@dataclass(frozen=True)
class ResizingKernel:
    """How to resize: a profile, and what a protocol does with it."""

    profile: Triangle | Cubic | Area
    antialias: bool = False
    half_pixel: bool = True
    fixed_point: bool = False
    """uint8 to uint8 with weights of 22 bits, rounded after each pass, as PIL."""


TF1_BILINEAR = ResizingKernel(Triangle(), half_pixel=False)
"""TensorFlow 1's `resize_bilinear`: the Inception graph's own."""
BILINEAR = ResizingKernel(Triangle())
"""torch's `interpolate(mode="bilinear")`."""
BILINEAR_ANTIALIASED = ResizingKernel(Triangle(), antialias=True)
BICUBIC = ResizingKernel(Cubic(-0.75))
"""torch's `interpolate(mode="bicubic")`."""
BICUBIC_ANTIALIASED = ResizingKernel(Cubic(-0.5), antialias=True)
"""torch's bicubic with `antialias=True`, and PIL's on floats."""
PIL_BILINEAR = ResizingKernel(Triangle(), antialias=True, fixed_point=True)
PIL_BICUBIC = ResizingKernel(Cubic(-0.5), antialias=True, fixed_point=True)
AREA = ResizingKernel(Area(), antialias=True)
"""The mean over what an output pixel covers."""

BITS = 22


def matrix(
    kernel: ResizingKernel, source: int, size: int, ratio: float | None = None
) -> Float64[np.ndarray, "size source"]:
    """The weights [size, source] of every source pixel in every output pixel.

    `ratio` is source pixels to an output pixel, source / size unless given.

    >>> matrix(BILINEAR, 2, 4)[:, 0]
    array([1.  , 0.75, 0.25, 0.  ])
    """
    if source < 1 or size < 1:
        raise ValueError(f"sizes must be at least 1, got {source} -> {size}")
    r = source / size if ratio is None else ratio
    half = 0.5 if kernel.half_pixel else 0.0
    real = np.float64 if kernel.antialias else np.float32
    center = (np.arange(size)[:, None].astype(real) + real(half)) * real(r) - real(half)
    s = max(r, 1.0) if kernel.antialias else 1.0
    reach = int(np.ceil(kernel.profile.support * s)) + 1
    taps = np.floor(center).astype(int) + np.arange(-reach, reach + 1)
    weight = kernel.profile(taps - center, s)
    if kernel.antialias:
        weight = np.where((taps >= 0) & (taps < source), weight, 0)
    out = np.zeros((size, source))
    np.add.at(out, (np.arange(size)[:, None], np.clip(taps, 0, source - 1)), weight)
    return out / out.sum(1, keepdims=True)


def resize(
    images: Images,
    size: int | tuple[int, int],
    kernel: ResizingKernel,
    ratio: float | None = None,
) -> Real[Array, "B h w C"]:
    """Images of a new height and width, in their own units and not clipped.

    float32, or float64 if the images are; uint8 where the kernel computes in fixed point.

    Raises:
        ValueError: sizes below 1, or a fixed-point kernel for anything but uint8.

    >>> resize(jnp.ones((1, 8, 8, 3)), 4, AREA).shape
    (1, 4, 4, 3)
    """
    height, width = (size, size) if isinstance(size, int) else size
    rows = matrix(kernel, images.shape[1], height, ratio)
    columns = matrix(kernel, images.shape[2], width, ratio)
    if kernel.fixed_point:
        if images.dtype != jnp.uint8:
            raise ValueError(f"PIL's kernels resize uint8 images, got {images.dtype}")
        return _fixed(rows, _fixed(columns, images, "qj,bijc->biqc"), "pi,biqc->bpqc")
    x = jnp.asarray(images, jnp.promote_types(images.dtype, jnp.float32))
    exact = jax.lax.Precision.HIGHEST
    x = jnp.einsum("qj,bijc->biqc", columns.astype(x.dtype), x, precision=exact)
    return jnp.einsum("pi,biqc->bpqc", rows.astype(x.dtype), x, precision=exact)


def _fixed(weights: Float64[np.ndarray, "m n"], x: Images, axes: str) -> Array:
    """One pass in integers: weights of 22 bits, the sum rounded and clipped to uint8."""
    whole = np.trunc(weights * 2**BITS + np.copysign(0.5, weights)).astype(np.int32)
    total = jnp.einsum(axes, whole, jnp.asarray(x, jnp.int32)) + (1 << (BITS - 1))
    return jnp.clip(total >> BITS, 0, 255).astype(jnp.uint8)
