"""InceptionV3 as the Fréchet inception distance has it, the graph of 2015 [FID].

It differs from torchvision's: averages leave the padding out of the count, the last block
pools by maximum, there are 1008 classes. Features are the mean over the last 8 x 8
positions, 2048 numbers; the inception score is of logits without their bias, as its
inventors computed it [IS]. Images have 299 x 299 pixels. Names are torch's.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from jaxdiff.evaluation.extractors.convolutions import STATISTICS, Convolution, Flat, folded
from jaxdiff.evaluation.extractors.resizing import (
    BICUBIC_ANTIALIASED,
    BILINEAR,
    TF1_BILINEAR,
    Images,
    resize,
)
from jaxdiff.evaluation.extractors.weights import require

SIDE, WIDTH, CLASSES = 299, 2048, 1008


@dataclass(frozen=True)
class Layer:
    """A convolution and a ReLU."""

    features: int
    height: int = 1
    width: int = 1
    stride: int = 1
    padding: str = "SAME"

    def __call__(self, name: str, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        size = (self.height, self.width)
        convolve = Convolution(self.features, size, self.stride, self.padding, name=name)
        return nn.relu(convolve(x))


@dataclass(frozen=True)
class Fork:
    """Layers side by side, which end a branch; their names end on a, b."""

    layers: tuple[Layer, ...]

    def __call__(self, name: str, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        ends = zip("ab", self.layers, strict=True)
        return jnp.concatenate([part(name + end, x) for end, part in ends], axis=-1)


@dataclass(frozen=True)
class Pool:
    """The maximum of 3 x 3 positions, or their mean; halved is without padding."""

    mean: bool = False
    halved: bool = False

    def __call__(self, name: str, x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
        stride, padding = (2, "VALID") if self.halved else (1, "SAME")
        if self.mean:
            return nn.avg_pool(x, (3, 3), (stride, stride), padding, False)
        return nn.max_pool(x, (3, 3), (stride, stride), padding)


Chain = tuple[tuple[str, Layer | Fork | Pool], ...]
"""What follows one another, by name."""

HALVED, MAXIMUM, AVERAGE = Pool(halved=True), Pool(), Pool(mean=True)
SPLIT = Fork((Layer(384, 1, 3), Layer(384, 3, 1)))
square = lambda features: Layer(features, 3, 3)
row = lambda features: Layer(features, 1, 7)
column = lambda features: Layer(features, 7, 1)
halving = lambda features: Layer(features, 3, 3, 2, "VALID")


def branch(name: str, *parts: Layer | Fork | Pool) -> Chain:
    """A branch; its layers are numbered where there are several.

    >>> [name for name, _ in branch("branch_pool", AVERAGE, Layer(32))]
    ['', 'branch_pool']
    """
    several = sum(not isinstance(part, Pool) for part in parts) > 1
    names = iter([f"{name}_{i + 1}" for i in range(len(parts))] if several else [name])
    return tuple(("" if isinstance(part, Pool) else next(names), part) for part in parts)


def at_35(pooled: int) -> tuple[Chain, ...]:
    """Squares of 3 and 5, at 35 x 35 positions."""
    return (
        branch("branch1x1", Layer(64)),
        branch("branch5x5", Layer(48), Layer(64, 5, 5)),
        branch("branch3x3dbl", Layer(64), square(96), square(96)),
        branch("branch_pool", AVERAGE, Layer(pooled)),
    )


def at_17(c: int) -> tuple[Chain, ...]:
    """Rows and columns of 7, at 17 x 17 positions."""
    twice = Layer(c), column(c), row(c), column(c), row(192)
    return (
        branch("branch1x1", Layer(192)),
        branch("branch7x7", Layer(c), row(c), column(192)),
        branch("branch7x7dbl", *twice),
        branch("branch_pool", AVERAGE, Layer(192)),
    )


def at_8(pool: Pool) -> tuple[Chain, ...]:
    """Branches that end in a row and a column of 3, at 8 x 8 positions."""
    return (
        branch("branch1x1", Layer(320)),
        branch("branch3x3", Layer(384), SPLIT),
        branch("branch3x3dbl", Layer(448), square(384), SPLIT),
        branch("branch_pool", pool, Layer(192)),
    )


TO_17 = (
    branch("branch3x3", halving(384)),
    branch("branch3x3dbl", Layer(64), square(96), halving(96)),
    branch("pool", HALVED),
)
TO_8 = (
    branch("branch3x3", Layer(192), halving(320)),
    branch("branch7x7x3", Layer(192), row(192), column(192), halving(192)),
    branch("pool", HALVED),
)


class Mixed(nn.Module):
    """Branches of one input, side by side along the channels."""

    branches: tuple[Chain, ...]

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
        ends = []
        for parts in self.branches:
            y = x
            for name, part in parts:
                y = part(name, y)
            ends.append(y)
        return jnp.concatenate(ends, axis=-1)


NETWORK: tuple[tuple[str, Layer | Pool | tuple[Chain, ...]], ...] = (
    ("Conv2d_1a_3x3", halving(32)),
    ("Conv2d_2a_3x3", Layer(32, 3, 3, padding="VALID")),
    ("Conv2d_2b_3x3", square(64)),
    ("64", HALVED),
    ("Conv2d_3b_1x1", Layer(80)),
    ("Conv2d_4a_3x3", Layer(192, 3, 3, padding="VALID")),
    ("192", HALVED),
    ("Mixed_5b", at_35(32)),
    ("Mixed_5c", at_35(64)),
    ("Mixed_5d", at_35(64)),
    ("Mixed_6a", TO_17),
    ("Mixed_6b", at_17(128)),
    ("Mixed_6c", at_17(160)),
    ("Mixed_6d", at_17(160)),
    ("Mixed_6e", at_17(192)),
    ("Mixed_7a", TO_8),
    ("Mixed_7b", at_8(AVERAGE)),
    ("Mixed_7c", at_8(MAXIMUM)),
)
"""Layers, pools and blocks, in order."""


class InceptionV3(nn.Module):
    """Features [B, 2048] and logits without bias [B, 1008] of normalised images.

    The mean over positions after every part, by its name, and `logits` are sown.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "B 299 299 3"]
    ) -> tuple[Float[Array, "B 2048"], Float[Array, "B 1008"]]:
        for name, part in NETWORK:
            x = Mixed(part, name=name)(x) if isinstance(part, tuple) else part(name, x)
            self.sow("intermediates", f"after {name}", x.mean((1, 2)))
        x = x.mean((1, 2))
        zeros, exact = nn.initializers.zeros_init(), jax.lax.Precision.HIGHEST
        kernel = self.param("fc_kernel", zeros, (WIDTH, CLASSES))
        bias = self.param("fc_bias", zeros, (CLASSES,))
        logits = jnp.matmul(x, kernel, precision=exact)
        self.sow("intermediates", "logits", logits + bias)
        return x, logits


def tf(images: Images) -> Float[Array, "B 299 299 C"]:
    """(x - 128) / 128 after TensorFlow 1's own resize: EDM, ADM, torch-fidelity."""
    return (resize(images, SIDE, TF1_BILINEAR) - 128) / 128


def pytorch(images: Images) -> Float[Array, "B 299 299 C"]:
    """2 x / 255 - 1 after torch's bilinear resize: pytorch-fid."""
    return resize(images, SIDE, BILINEAR) / 127.5 - 1


def clean(images: Images) -> Float[Array, "B 299 299 C"]:
    """(x - 128) / 128 after an antialiased cubic resize in floats, clipped [CleanFID]."""
    return (jnp.clip(resize(images, SIDE, BICUBIC_ANTIALIASED), 0, 255) - 128) / 128


def variables(flat: Flat) -> dict[str, Any]:
    """The network's parameters, of torch's tensors.

    Raises:
        ValueError: tensors that are missing, unknown or of another shape.
    """
    require("FID's InceptionV3", {k: a.shape for k, a in flat.items()}, shapes())
    tree = {
        tuple(path.split(".")): folded(flat, f"{path}.conv", f"{path}.bn")
        for path in _kernels()
    }
    fc = {("fc_kernel",): flat["fc.weight"].T, ("fc_bias",): flat["fc.bias"]}
    real = lambda a: np.asarray(a, np.float32)
    return {"params": unflatten_dict(tree | jax.tree.map(real, fc))}


def shapes() -> dict[str, tuple[int, ...]]:
    """The names and shapes of torch's tensors, 566 of them.

    >>> shapes()["fc.weight"]
    (1008, 2048)
    """
    shapes = {"fc.weight": (CLASSES, WIDTH), "fc.bias": (CLASSES,)}
    for path, (height, width, inputs, features) in _kernels().items():
        shapes[f"{path}.conv.weight"] = (features, inputs, height, width)
        shapes |= {f"{path}.bn.{name}": (features,) for name in STATISTICS}
        shapes[f"{path}.bn.num_batches_tracked"] = ()
    return shapes


@cache
def _kernels() -> dict[str, tuple[int, ...]]:
    """The shape of every convolution's kernel, by path."""
    init = lambda: InceptionV3().init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))
    params = flatten_dict(jax.eval_shape(init)["params"], sep=".")
    ends = ".kernel"
    return {k.removesuffix(ends): a.shape for k, a in params.items() if k.endswith(ends)}
