"""Extractors: networks that make features of images, named in every metric.

Numbers are comparable only with the same network, weights and preparation of the images, so
an extractor is one value of all three.
"""

import hashlib
import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, Shaped

from jaxdiff.evaluation.extractors import dinov2, inception, lite0
from jaxdiff.evaluation.extractors import weights as files
from jaxdiff.evaluation.extractors.resizing import AREA, Images, resize
from jaxdiff.interop import torch_legacy
from jaxdiff.runtime.files import PathLike, place
from jaxdiff.types import Leaf, pytree
from jaxdiff.types.ranges import quote

VARIABLE = "JAXDIFF_WEIGHTS"
"""The environment variable that names the folder of weights."""


@pytree
class Features:
    """The output of an extractor."""

    pooled: Leaf
    """[B, D] float32, what distances compare."""
    logits: Leaf | None = None
    """[B, K] float32, what the inception score reads; None of networks without classes."""


@dataclass(frozen=True)
class Extractor:
    """A network, its weights, and how it prepares images; made by `extractor`.

    Two are equal, and their features comparable, if all fields but `variables` are.
    """

    name: str
    preprocessing: str
    dims: int
    sha256: str
    """Of the published file of weights; "" where there are none."""
    variables: PyTree = field(repr=False, compare=False)

    def apply(
        self, variables: PyTree, images: Shaped[Array | np.ndarray, "..."]
    ) -> Features:
        """Features of uint8 images [B, H, W, 3 or 1], any size; pure, to be jitted.

        Raises:
            ValueError: images that are not uint8, or neither RGB nor grey.
        """
        network = NETWORKS[self.name]
        pooled, logits = network.compute(variables, network.prepare(rgb(images)))
        return Features(pooled, logits)


@dataclass(frozen=True)
class Network:
    """How an extractor of some name is made."""

    preprocessing: str
    dims: int
    prepare: Callable[[Images], Array]
    compute: Callable[[PyTree, Array], tuple[Array, Array | None]]
    read: Callable[[Path | None], tuple[PyTree, str]]
    """Path of the weights or None -> variables, and the SHA-256 of the published file."""
    registered: str = ""
    """The name of a user's function that it is made of."""


def extractor(name: str, weights: PathLike | None = None) -> Extractor:
    """The extractor of that name.

    `weights` is a file that jaxdiff convert_features wrote or a folder of such files;
    None is the folder that JAXDIFF_WEIGHTS names. lite0 and pixels8 need none.

    Raises:
        ValueError: unknown name, no path of weights, or a file of other weights.
        FileNotFoundError: no weights there.
        ModuleNotFoundError: lite0's package is not installed.

    >>> extractor("pixels8").dims
    192
    """
    if name not in NETWORKS:
        raise ValueError(f"unknown extractor {name!r}; known are {', '.join(NETWORKS)}")
    network, path = NETWORKS[name], weights or os.environ.get(VARIABLE)
    variables, sha256 = network.read(place(path) if path else None)
    return Extractor(name, network.preprocessing, network.dims, sha256, variables)


def rgb(images: Shaped[Array | np.ndarray, "..."]) -> Images:
    """uint8 images [B, H, W, 3]; grey ones are repeated.

    Raises:
        ValueError: images that are not uint8, or neither RGB nor grey.

    >>> rgb(np.zeros((1, 8, 8, 1), np.uint8)).shape
    (1, 8, 8, 3)
    """
    if images.dtype != np.uint8:
        raise ValueError(
            f"images must be uint8, got {images.dtype}: of x in [-1, 1] it is "
            "clip(round(127.5 (x + 1)), 0, 255)"
        )
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images must be [B, H, W, 3], or [B, H, W, 1] if grey, got {images.shape}"
            + ": drop alpha, or lay it over a colour" * (images.shape[-1:] == (4,))
        )
    return jnp.repeat(images, 3, axis=-1) if images.shape[-1] == 1 else jnp.asarray(images)


def pixels8(images: Images) -> Float[Array, "B 8 8 C"]:
    """The mean of each of 8 x 8 parts of equal area, in [-1, 1]."""
    return resize(images, 8, AREA) / 127.5 - 1


def _no_weights(path: Path | None) -> tuple[PyTree, str]:
    return {}, ""


def _packaged(path: Path | None) -> tuple[PyTree, str]:
    """Lite0's, out of the package that ships them, whose name has their hash."""
    file = lite0.weights_file()
    sha256 = files.sha256(file)
    if not sha256.startswith(file.stem.rpartition("-")[2]):
        raise ValueError(f"{file} is damaged: install {lite0.DISTRIBUTION} again")
    flat = torch_legacy.load(memoryview(file.read_bytes()))
    return lite0.variables(flat), sha256


def _converted(
    network: str,
    shapes: Callable[[], Mapping[str, tuple[int, ...]]],
    variables: Callable[[Mapping[str, np.ndarray]], Any],
    path: Path | None,
) -> tuple[PyTree, str]:
    """Of a file that jaxdiff convert_features wrote."""
    how = f"jaxdiff convert_features --network={network} makes {network}.npz"
    if path is None:
        raise ValueError(
            f"{network} needs weights, which are never downloaded: give the folder of "
            f"{network}.npz by --weights or {VARIABLE}; {how}"
        )
    file = path / f"{network}.npz" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"there is no file of weights {file}; {how}")
    weights = files.load(file, network, shapes())
    return variables(weights.tensors), weights.sha256


def _inception(prepare: Callable[[Images], Array], preprocessing: str) -> Network:
    read = partial(_converted, "inception", inception.shapes, inception.variables)
    compute = inception.InceptionV3().apply
    return Network(preprocessing, inception.WIDTH, prepare, compute, read)


def _dinov2(name: str) -> Network:
    network = dinov2.NETWORKS[name]
    read = partial(_converted, name, partial(dinov2.shapes, network), dinov2.tree)
    compute = lambda variables, x: (network.apply(variables, x), None)
    preprocessing = "antialiased bicubic to 224 x 224 in floats, ImageNet's mean and std"
    return Network(preprocessing, network.width, dinov2.prepare, compute, read)


NETWORKS: dict[str, Network] = {
    "pixels8": Network(
        "the mean of each of 8 x 8 parts of equal area, x / 127.5 - 1",
        192,
        pixels8,
        lambda variables, x: (x.reshape(len(x), -1), None),
        _no_weights,
    ),
    "lite0": Network(
        "bilinear to 64 x 64 with half pixels and no antialias, (x - 127) / 128, mean "
        "after block 10",
        112,
        lite0.prepare,
        lite0.Lite0().apply,
        _packaged,
    ),
    "inception_tf": _inception(
        inception.tf,
        "TensorFlow 1's bilinear to 299 x 299, no half pixels and no antialias, "
        "(x - 128) / 128",
    ),
    "inception_pytorch": _inception(
        inception.pytorch,
        "bilinear to 299 x 299 with half pixels and no antialias, x / 127.5 - 1",
    ),
    "inception_clean": _inception(
        inception.clean,
        "antialiased cubic to 299 x 299 in floats, clipped to 0..255, (x - 128) / 128",
    ),
    "dinov2": _dinov2("dinov2_vitl14"),
    "dinov2_vitb14": _dinov2("dinov2_vitb14"),
    "dinov2_vits14": _dinov2("dinov2_vits14"),
}
"""Every extractor, by name."""

See = Callable[[Images], Array]
"""uint8 images [B, H, W, 3] of any size -> features [B, D] float32."""


def register_extractor(
    name: str, dims: int, preprocessing: str = "its own"
) -> Callable[[See], See]:
    """A decorator of functions: makes one an extractor that `extractor(name)` returns.

    The function sees uint8 images [B, H, W, 3], is jitted, and returns [B, dims] numbers.
    Its source code takes the place of the weights' hash: numbers compare, and features that
    were kept are read again, as long as it stays as it is.

    Raises:
        ValueError: a name that is not of small letters and digits, or is another's.

    >>> @register_extractor("meancolour", dims=3)
    ... def mean_colour(images):
    ...     return images.mean((1, 2))
    >>> red = np.full((1, 4, 4, 3), (255, 0, 0), np.uint8)
    >>> extractor("meancolour").apply({}, red).pooled.tolist()
    [[255.0, 0.0, 0.0]]
    >>> _ = NETWORKS.pop("meancolour")  # forgets it
    """
    if not re.fullmatch("[a-z][a-z0-9]*", name):
        raise ValueError(
            f"an extractor's name is of small letters and digits, got {quote(name)}"
        )

    def register(see: See) -> See:
        there = NETWORKS.get(name)
        if there and there.registered != see.__qualname__:
            raise ValueError(f"there is an extractor {name} already: take another name")
        try:
            text = inspect.getsource(see).encode()
        except (OSError, TypeError):  # of no file
            text = see.__code__.co_code
        digest = hashlib.sha256(text).hexdigest()

        def compute(variables: PyTree, images: Images) -> tuple[Array, None]:
            return jnp.asarray(see(images), jnp.float32).reshape(len(images), dims), None

        as_they_are, read = lambda images: images, lambda path: ({}, digest)
        NETWORKS[name] = Network(
            preprocessing, dims, as_they_are, compute, read, see.__qualname__
        )
        return see

    return register
