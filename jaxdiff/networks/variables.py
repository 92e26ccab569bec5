"""The arrays of a network: initial values, shapes, and a check of loaded ones."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Key, PyTree

from jaxdiff.types import UNCONDITIONAL


def initial(network: nn.Module, shape: tuple[int, int, int], key: Key[Array, ""]) -> PyTree:
    """The {"params", "constants"} of a network of images of this shape, before training.

    A network without classes, an autoencoder, takes the image alone.

    Raises:
        ValueError: it has other collections of variables, or nothing to be trained.

    >>> vae = nn.Dense(4)  # stands for a network without classes
    >>> initial(vae, (8, 8, 3), jax.random.key(0))["params"]["kernel"].shape
    (3, 4)
    """
    x = jnp.zeros((1, *shape))
    if not hasattr(network, "label_dim"):
        return network.init(key, x)
    variables = network.init(key, x, jnp.zeros(()), UNCONDITIONAL)
    if not {*variables} <= {"params", "constants"}:
        raise ValueError(
            f"{type(network).__name__} has variables in {', '.join(variables)}: "
            'a network has what is trained in "params", and what is not in "constants"; '
            "statistics of batches are neither"
        )
    if "params" not in variables:
        raise ValueError(
            f'{type(network).__name__} has nothing to be trained: no variables in "params"'
        )
    return variables


@functools.lru_cache(maxsize=8)
def shapes(network: nn.Module, shape: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's arrays by name, "params/conv/weight"; none is computed.

    >>> from jaxdiff.networks import UNet
    >>> of_tiny = shapes(UNet(model_channels=8, channel_mult=(1,), num_blocks=1), (8, 8, 1))
    >>> of_tiny["params/enc/8x8_conv/weight"]  # of the image and a channel of ones
    (3, 3, 2, 8)
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    abstract = jax.eval_shape(functools.partial(initial, network, shape), key)
    flat = traverse_util.flatten_dict(abstract, sep="/")
    return {name: tuple(array.shape) for name, array in flat.items()}


def require_shapes(held: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Any]) -> None:
    """Checks that arrays are those of a network.

    >>> require_shapes({"w": (2,)}, {"w": (3,)})
    Traceback (most recent call last):
    ValueError: w is (2,), its network wants (3,)

    Raises:
        ValueError: one is missing, extra, or of another shape; the first, with shapes.
    """
    for name in sorted(wanted.keys() | held.keys()):
        if name not in held:
            raise ValueError(f"{name} is missing, which its network wants {wanted[name]}")
        if name not in wanted:
            raise ValueError(
                f"{name} {held[name]} is an array that its network does not have"
            )
        if held[name] != wanted[name]:
            raise ValueError(f"{name} is {held[name]}, its network wants {wanted[name]}")
