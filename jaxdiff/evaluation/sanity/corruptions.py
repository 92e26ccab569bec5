"""Faults of images, by level: a good metric grows with each.

A corruption takes images x at a level l, of which 0 is the identity, to

    noise         x + l eps, eps ~ N(0, 1)           l in grey levels
    blur          k * x, k a Gaussian of sigma l     l in pixels
    darkening     x - l                              l in grey levels
    desaturation  x + l (Y(x) - x), Y the luma       l in [0, 1]
    JPEG          at quality 100 - l                 l in 1 ... 99
    warp          x(p + l u(p)), u smooth, rms 1     l in pixels

rounded and clipped to 0 ... 255.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, UInt8

Images = UInt8[np.ndarray, "N H W C"]
Seed = int | tuple[int, ...]
"""Of NumPy's generator: the same images for the same seed."""

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""The brightness of red, green and blue, as JPEG has it (ITU-R BT.601)."""


@dataclass(frozen=True)
class Corruption:
    """Images, level, seed -> images; and the levels to look at, from least to most.

    >>> darker = Corruption(darken, levels=(10.0, 20.0), unit="grey levels")
    >>> grey = np.full((1, 2, 2, 1), 15, np.uint8)
    >>> [int(darker(grey, level, seed=(0,)).max()) for level in (0.0, *darker.levels)]
    [15, 5, 0]
    """

    apply: Callable[[Images, float, Seed], Images]
    levels: tuple[float, ...]
    unit: str
    of_colour: bool = False
    """Whether it leaves grey images as they are."""

    def __call__(self, images: Images, level: float, seed: tuple[int, ...]) -> Images:
        """Of any number of images, 500 at a time."""
        parts = np.array_split(images, -(-len(images) // 500))
        corrupted = [self.apply(part, level, (*seed, i)) for i, part in enumerate(parts)]
        return np.concatenate(corrupted)


def noise(images: Images, level: float, seed: Seed = 0) -> Images:
    """White noise of standard deviation `level` grey levels."""
    eps = np.random.default_rng(seed).standard_normal(images.shape, np.float32)
    return grey(images + np.float32(level) * eps)


def blur(images: Images, level: float, seed: Seed = 0) -> Images:
    """Smoothed by a Gaussian of sigma `level` pixels; images go on mirrored.

    Mirrored edges keep an image's mean.
    """
    down, across = (smoothing(n, level).astype(np.float32) for n in images.shape[1:3])
    rows = np.einsum("ih,nhwc->niwc", down, images.astype(np.float32), optimize=True)
    return grey(np.einsum("jw,niwc->nijc", across, rows, optimize=True))


def darken(images: Images, level: float, seed: Seed = 0) -> Images:
    """`level` grey levels less."""
    return grey(images - np.float32(level))


def desaturate(images: Images, level: float, seed: Seed = 0) -> Images:
    """The share `level` of the way to grey of the same luma; of grey images, no change."""
    if images.shape[-1] == 1:
        return images
    luma = (images @ LUMA)[..., None]
    return grey(images + np.float32(level) * (luma - images))


def jpeg(images: Images, level: float, seed: Seed = 0) -> Images:
    """Compressed by Pillow at quality 100 - level, and read again; 0 = not compressed."""
    from PIL import Image

    if level == 0:
        return images
    out = np.empty_like(images)
    for image, left in zip(images, out, strict=True):
        file = io.BytesIO()
        Image.fromarray(np.squeeze(image)).save(file, "JPEG", quality=round(100 - level))
        left[:] = np.asarray(Image.open(file)).reshape(left.shape)
    return out


def warp(images: Images, level: float, seed: Seed = 0) -> Images:
    """Bent by two waves an image, as long as it or longer, of rms `level` pixels."""
    count, high, wide, _ = images.shape
    rng = np.random.default_rng(seed)
    y, x = np.indices((high, wide), np.float32)
    at = []
    for place, last in ((y, high - 1), (x, wide - 1)):
        a, b, phase = rng.uniform(-1, 1, (3, count, 1, 1)).astype(np.float32)
        wave = np.sin(2 * np.pi * (a * y / high + b * x / wide) + np.pi * phase)
        at.append(np.clip(place + np.float32(level * np.sqrt(2)) * wave, 0, last))
    return grey(_between(images, *at))


def grey(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Rounded to whole grey levels and clipped to those there are."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def smoothing(size: int, sigma: float) -> Float64[np.ndarray, "size size"]:
    """The matrix that smooths a line of pixels; its rows and its columns sum to 1.

    >>> smoothing(3, 0.0).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    if sigma == 0:
        return np.eye(size)
    reach = int(np.ceil(4 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    source = np.pad(np.arange(size), reach, mode="symmetric")
    matrix = np.zeros((size, size))
    for shift, weight in enumerate(kernel / kernel.sum()):
        matrix[np.arange(size), source[shift : shift + size]] += weight
    return matrix


def _between(
    images: Images, y: Float[np.ndarray, "N H W"], x: Float[np.ndarray, "N H W"]
) -> Float[np.ndarray, "N H W C"]:
    """Images at places between pixels, bilinearly."""
    n = np.arange(len(images))[:, None, None]
    top, left = y.astype(int), x.astype(int)
    below = np.minimum(top + 1, images.shape[1] - 1)
    right = np.minimum(left + 1, images.shape[2] - 1)
    down, across = (y - top)[..., None], (x - left)[..., None]
    upper = images[n, top, left] * (1 - across) + images[n, top, right] * across
    lower = images[n, below, left] * (1 - across) + images[n, below, right] * across
    return upper * (1 - down) + lower * down


CORRUPTIONS: Mapping[str, Corruption] = {
    "noise": Corruption(noise, (1.0, 2.0, 5.0, 20.0), "σ, grey levels"),
    "blur": Corruption(blur, (0.4, 0.7, 1.0, 2.0), "σ, pixels"),
    "darkening": Corruption(darken, (1.0, 4.0, 16.0, 32.0), "grey levels"),
    "desaturation": Corruption(desaturate, (0.1, 0.25, 0.5, 1.0), "share", of_colour=True),
    "JPEG": Corruption(jpeg, (5.0, 25.0, 50.0, 75.0), "100 − quality"),
    "warp": Corruption(warp, (0.25, 0.5, 1.0, 2.0), "rms, pixels"),
}
"""Corruptions of single images; missing classes are a fault of a set."""
