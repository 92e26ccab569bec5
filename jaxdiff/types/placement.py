"""Where arrays lie on a mesh of devices, and what a program says of it while it is traced.

Under `fsdp` every device holds a share of each weight. A program traced `on` such a mesh
normalises its share, rounds it, and only then collects the whole weight, which is dropped
after use and collected again for the gradient; the gradient's sum goes back as shares
(`shared`). So a step moves each weight twice, in the dtype that it computes in, and each
gradient once. Elsewhere these functions change nothing.
"""

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

AXES = ("data", "fsdp")

Layer = Callable[[Float[Array, "B ..."], Float[Array, "..."]], Float[Array, "B ..."]]
"""(x, w) -> y, image by image."""

SMALL = 1024
"""Arrays of up to this many elements are on every device."""


def share(shape: tuple[int, ...], parts: int) -> PartitionSpec:
    """How an array is split over `fsdp`: along its last axis, or the longest that divides.

    The last axis of a weight counts its output units, each of which is normalised by
    itself, so that needs no other device. Arrays of up to SMALL elements, and those without
    an axis that divides, are on every device.

    >>> share((3, 3, 64, 128), 4), share((3, 3, 64, 3), 4), share((32, 32), 4)
    (P(None, None, None, 'fsdp'), P(None, None, 'fsdp'), P())
    """
    fitting = [axis for axis, size in enumerate(shape) if size % parts == 0]
    if parts == 1 or math.prod(shape) <= SMALL or not fitting:
        return PartitionSpec()
    last = len(shape) - 1
    axis = last if last in fitting else max(fitting, key=lambda i: shape[i])
    return PartitionSpec(*(None,) * axis, "fsdp")


def on(mesh: Mesh) -> AbstractContextManager:
    """The context in which a program is traced for a mesh that shares weights."""
    if mesh.shape["fsdp"] == 1:
        return contextlib.nullcontext()
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def shared(layer: Layer) -> Layer:
    """layer(x, w), whose weight is collected from its shares, and again for the gradient.

    Each device takes its images through the whole weight, which it drops after use. What
    the backward pass collects is not kept from the forward one: a second time, or a third
    inside of blocks that are rematerialised. x [B, ...] is split over all devices.
    """

    def split(x: Float[Array, "B ..."], w: Float[Array, "..."]) -> Float[Array, "B ..."]:
        spec = share(w.shape, _parts())
        if "fsdp" not in spec:
            return layer(x, w)
        sizes = jax.sharding.get_abstract_mesh().shape
        images = PartitionSpec(tuple(name for name in AXES if sizes[name] > 1))
        axis = spec.index("fsdp")

        def own(x: Float[Array, "b ..."], w: Float[Array, "..."]) -> Float[Array, "b ..."]:
            return layer(x, jax.lax.all_gather(w, "fsdp", axis=axis, tiled=True))

        mapped = jax.shard_map(own, in_specs=(images, spec), out_specs=images)
        return jax.checkpoint(mapped)(x, w)

    return split


def _parts() -> int:
    """Devices that share a weight in the program that is traced."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get("fsdp", 1)
