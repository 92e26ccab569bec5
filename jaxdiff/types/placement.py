"""Where arrays lie on a mesh of devices, and what a program says of it while it is traced.

Under `fsdp` every device holds a share of each weight. A program traced `on` such a mesh
normalises its share, rounds it, and only then collects the whole weight (`gathered`), which
is dropped after use and collected again for the gradient (`regathered`); the gradient goes
back as shares. So a step moves each weight twice, in the dtype that it computes in, and
each gradient once. Elsewhere these functions change nothing.
"""

import contextlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float

AXES = ("data", "fsdp")

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


def gathered(w: Float[Array, "..."]) -> Float[Array, "..."]:
    """The whole weight on every device, of shares; its gradient is shares again."""
    parts = _parts()
    if parts == 1:
        return w
    return _whole(jax.lax.with_sharding_constraint(w, share(w.shape, parts)))


def regathered(layer: Callable) -> Callable:
    """The layer, whose weights are gathered again for its gradient.

    Inside of blocks that are rematerialised that makes a third time.
    """
    return layer if _parts() == 1 else jax.checkpoint(layer)


def _parts() -> int:
    """Devices that share a weight in the program that is traced."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape.get("fsdp", 1)


@jax.custom_jvp
def _whole(w: Float[Array, "..."]) -> Float[Array, "..."]:
    return jax.lax.with_sharding_constraint(w, PartitionSpec())


@_whole.defjvp
def _whole_jvp(w: tuple[Array], dw: tuple[Array]) -> tuple[Array, Array]:
    """The tangent is not gathered, so the gradient need not be whole on any device."""
    return _whole(*w), dw[0]
