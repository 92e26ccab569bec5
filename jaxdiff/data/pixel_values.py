"""Pixels: bytes 0 ... 255 in storage, floats in [-1, 1] in models.

    float = byte / 127.5 - 1,        byte = round(127.5 float + 127.5), held to 0 ... 255

This is the one place that converts. Functions that take images take either form, and call
`to_uint8` or `to_float`, which reject anything else.
"""

from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

OVERSHOOT = 3.0
"""Floats as large as this are still pixels, as samplers overshoot: they are clipped. Larger
ones have other units, such as 0 ... 255 or the latents of a VAE."""


def to_uint8(images: Any) -> UInt8[np.ndarray, "..."]:
    """Images as bytes: uint8 as they are, floats in [-1, 1] rounded to the nearest byte.

    >>> to_uint8(np.array([-1.0, 0.25, 1.2])).tolist()
    [0, 159, 255]

    Raises:
        ValueError: numbers of another type, not finite, or of other units than [-1, 1].
    """
    images = _pixels(images)
    if images.dtype == np.uint8:
        return images
    return np.clip(np.round(images * 127.5 + 127.5), 0, 255).astype(np.uint8)


def to_float(images: Any) -> Float32[np.ndarray, "..."]:
    """Images as float32 in [-1, 1]: bytes converted, floats as they are.

    >>> to_float(np.array([0, 255], np.uint8)).tolist()
    [-1.0, 1.0]

    Raises:
        ValueError: numbers of another type, not finite, or of other units than [-1, 1].
    """
    images = _pixels(images)
    if images.dtype == np.uint8:
        return images / np.float32(127.5) - 1
    return images


def _pixels(images: Any) -> np.ndarray:
    """The array, uint8 or float32."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind not in "fV":  # V: bfloat16 and the like
        raise ValueError(
            f"images are uint8 in 0 ... 255 or floats in [-1, 1], got {images.dtype}: "
            "convert them, such as images.astype(np.uint8)"
        )
    images = images.astype(np.float32)
    if not images.size:
        return images
    low, high = float(images.min()), float(images.max())
    if not np.isfinite([low, high]).all():
        raise ValueError(
            f"images have values that are not finite ({low} to {high}): check their source"
        )
    if max(-low, high) > OVERSHOOT:
        raise ValueError(
            "images are floats in [-1, 1], or uint8 in 0 ... 255; got floats from "
            f"{low:.4g} to {high:.4g}. Scale them, or np.clip(images, -1, 1)"
        )
    return images
