"""Magnitude-preserving layers: unit variance in, unit variance out, on average.

A vector's magnitude is its root mean square. With every weight row w_i of magnitude 1 and
inputs that are uncorrelated and of magnitude 1, w_i . x / sqrt(fan_in) has magnitude 1
again, so nothing has to be learned, or normalised, to keep activations in range:

    unit(x)   = x / (eps + rms(x))                            [EDM2 eq. 47, eps on the rms]
    conv(x)   = (unit(w) gain / sqrt(fan_in)) * x             [EDM2 eq. 47, 66]
    silu(x)   = x sigmoid(x) / 0.596                          [EDM2 eq. 81]
    sum(a, b) = ((1 - t) a + t b) / sqrt((1 - t)^2 + t^2)     [EDM2 eq. 88]
    cat(a, b) = C [ (1 - t) / sqrt(Na) a, t / sqrt(Nb) b ]    [EDM2 eq. 103]

Weights are normalised in the graph, so the gradient has no part along w. Keeping the
stored weights themselves at magnitude 1 is the optimiser's work: `forced_weight_norm`.
What they replaced is here too: plain `functions`, layers without `weight_norm`, and
`group_norm`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.networks.convolution import convolve
from jaxdiff.types.magnitude import unit_rows, wide
from jaxdiff.types.placement import shared

Mode = Literal["keep", "up", "down"]


def mp_silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """silu(x) / 0.596, whose output has magnitude 1 where x ~ N(0, 1) [EDM2 eq. 81]."""
    return (jax.nn.silu(x.astype(wide(x.dtype))) / 0.596).astype(x.dtype)


def mp_sum(
    a: Float[Array, "..."], b: Float[Array, "..."], t: float = 0.5
) -> Float[Array, "..."]:
    """((1 - t) a + t b) / sqrt((1 - t)^2 + t^2), t in [0, 1] [EDM2 eq. 88].

    >>> float(mp_sum(jnp.float32(3.0), jnp.float32(5.0), t=0.0))
    3.0
    """
    dtype = wide(a.dtype)
    both = (1 - t) * a.astype(dtype) + t * b.astype(dtype)
    return (both / math.hypot(1 - t, t)).astype(a.dtype)


def mp_cat(
    a: Float[Array, "... Na"], b: Float[Array, "... Nb"], t: float = 0.5
) -> Float[Array, "... N"]:
    """Channels of a, then of b, weighed as if by `mp_sum` [EDM2 eq. 103].

    C = sqrt((Na + Nb) / ((1 - t)^2 + t^2)), so t is b's share whatever the widths.
    """
    na, nb = a.shape[-1], b.shape[-1]
    c = math.sqrt(na + nb) / math.hypot(1 - t, t)
    dtype = wide(a.dtype)
    scaled = [
        a.astype(dtype) * (c * (1 - t) / math.sqrt(na)),
        b.astype(dtype) * (c * t / math.sqrt(nb)),
    ]
    return jnp.concatenate(scaled, axis=-1).astype(a.dtype)


@dataclass(frozen=True)
class Functions:
    """What joins learned layers: preserving magnitude, or plain as in config F."""

    silu: Callable[[Array], Array]
    sum: Callable[[Array, Array, float], Array]
    """(a, b, t) -> a + b where plain, whatever t."""
    cat: Callable[[Array, Array, float], Array]
    """(a, b, t) -> [a, b] where plain, whatever t."""
    fourier: float
    """The gain of random Fourier features."""


def functions(fixed_magnitudes: bool) -> Functions:
    """Functions that preserve magnitude, or plain ones [EDM2 sec. 2.4]."""
    if fixed_magnitudes:
        return Functions(mp_silu, mp_sum, mp_cat, math.sqrt(2))

    def cat(a: Array, b: Array, t: float) -> Array:
        return jnp.concatenate([a, b], axis=-1)

    return Functions(jax.nn.silu, lambda a, b, t: a + b, cat, 1.0)


def group_norm(
    x: Float[Array, "B H W C"], size: int = 32, eps: float = 1e-4
) -> Float[Array, "B H W C"]:
    """x / sqrt(eps + ms), ms the mean square of `size` channels over the image.

    No mean is subtracted and nothing is learned. Channels that do not divide by `size` are
    grouped by the greatest common divisor. ms is float32 or wider.
    """
    b, h, w, c = x.shape
    groups = x.reshape(b, h, w, -1, math.gcd(size, c))
    square = jnp.square(groups.astype(wide(x.dtype)))
    rms = jnp.sqrt(eps + jnp.mean(square, axis=(1, 2, 4), keepdims=True))
    return (groups / rms.astype(x.dtype)).reshape(x.shape)


def resample(
    x: Float[Array, "B H W C"], filter: Sequence[float], mode: Mode
) -> Float[Array, "B H2 W2 C"]:
    """Halves or doubles an image by one even-length filter f along each axis.

    With F = f / sum(f) of length k and p = (k - 1) // 2,

        down: y_i = sum_m F_m x_{2i + m - p},        up: y_{2i + m - p} += 2 F_m x_i,

    zero outside the image. (1.0, 1.0) is the 2 x 2 mean, and nearest neighbour.
    """
    if mode == "keep":
        return x
    f = [value / sum(filter) for value in filter]
    return _resample(_resample(x, f, mode, axis=1), f, mode, axis=2)


def _resample(
    x: Float[Array, "B H W C"], f: Sequence[float], mode: Mode, axis: int
) -> Float[Array, "B H2 W2 C"]:
    """One axis of `resample`, as a sum of k shifted copies; f sums to 1."""
    k, p, size = len(f), (len(f) - 1) // 2, x.shape[axis]
    if mode == "down":
        low, high, spread, stride, out = p, p, 0, 2, size // 2
    else:  # the transpose: zeros between the samples, f reversed, gain 2
        low, high, spread, stride, out = k - 1 - p, k - 1 - p, 1, 1, 2 * size
        f = [2 * value for value in reversed(f)]
    edges = [(0, 0, 0)] * x.ndim
    edges[axis] = (low, high, spread)
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), edges)
    return sum(
        weight
        * jax.lax.slice_in_dim(padded, m, m + stride * (out - 1) + 1, stride, axis=axis)
        for m, weight in enumerate(f)
    )


class MPFourier(nn.Module):
    """gain cos(f_j x_i + phi_j), random features of a scalar [EDM2 eq. 75].

    f_j ~ 2 pi bandwidth N(0, 1) and phi_j ~ 2 pi U[0, 1) are drawn once, with the
    parameters, and never trained: collection "constants". x [B] -> [B, features], of
    magnitude 1 where gain = sqrt(2).
    """

    features: int
    bandwidth: float = 1.0
    gain: float = math.sqrt(2)

    @nn.compact
    def __call__(self, x: Float[Array, " B"]) -> Float[Array, "B N"]:
        turn, shape = 2 * math.pi, (self.features,)
        freqs = self.variable(
            "constants",
            "freqs",
            lambda: turn * self.bandwidth * jax.random.normal(self.make_rng(), shape),
        )
        phases = self.variable(
            "constants",
            "phases",
            lambda: turn * jax.random.uniform(self.make_rng(), shape),
        )
        angle = x.astype(wide(x.dtype))[:, None] * freqs.value + phases.value
        return (self.gain * jnp.cos(angle)).astype(x.dtype)


class MPConv(nn.Module):
    """Linear layer or stride-1 convolution by unit(w) gain / sqrt(fan_in) [EDM2 eq. 47].

    kernel = () is linear, [..., in] -> [..., out]; (3, 3) pads by zeros to keep H and W.
    The parameter `weight` is [*kernel, in, out], float32, N(0, 1). There is no bias. The
    gain, a scalar that may be trained, multiplies the weight before it is rounded to x's
    dtype. Without `weight_norm` it is an ordinary layer, w gain with w He-uniform: uniform
    in +-sqrt(6 / fan_in).
    """

    features: int
    kernel: tuple[int, ...] = ()
    weight_norm: bool = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "..."], gain: Float[Array, ""] | float = 1.0
    ) -> Float[Array, "..."]:
        shape = (*self.kernel, x.shape[-1], self.features)
        if self.weight_norm:
            w = self.param("weight", nn.initializers.normal(1.0), shape)
            w = unit_rows(w) * (gain / math.sqrt(math.prod(shape[:-1])))
        else:
            w = self.param("weight", nn.initializers.he_uniform(), shape) * gain
        w = w.astype(x.dtype)
        if not self.kernel:  # embeddings: small, and float32 must mean it
            return jnp.matmul(x, w, precision=jax.lax.Precision.HIGHEST)
        return shared(convolve)(x, w)
