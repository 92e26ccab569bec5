"""Where arrays live: a mesh of all devices, the batch split over it, the rest on each.

Computations are written for the global batch; jit splits them by the shardings of their
arguments. Axes are Auto, so that XLA places intermediates.
"""

from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree


def data_mesh(devices: Sequence[jax.Device] = ()) -> Mesh:
    """Devices along one axis, `data`; by default all of all processes."""
    devices = devices or jax.devices()
    auto = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), ("data",), axis_types=auto, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """One copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def put_batch(batch: PyTree[np.ndarray], mesh: Mesh) -> PyTree[jax.Array]:
    """This process' part of a batch, as part of the global arrays on the devices.

    Copies: the host's buffers may be written to again.
    """
    place = lambda a: jax.make_array_from_process_local_data(split(mesh), a)
    return jax.tree.map(place, batch)


def mesh_for(batch_size: int) -> Mesh:
    """A mesh over which a batch splits evenly.

    Of a CPU's virtual devices, which are one for each core, it takes as many as divide
    the batch. Accelerators are not left idle.

    Raises:
        ValueError: the batch does not split over the accelerators.
    """
    devices = jax.devices()
    if devices[0].platform == "cpu":
        most = max(n for n in range(1, len(devices) + 1) if batch_size % n == 0)
        return data_mesh(devices[:most])
    if batch_size % len(devices):
        raise ValueError(
            f"batch_size is {batch_size}, which does not split over {len(devices)} "
            f"devices: use a multiple of {len(devices)}"
        )
    return data_mesh(devices)
