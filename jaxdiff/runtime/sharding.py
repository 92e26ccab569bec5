"""Where arrays live: a mesh of all devices, and one rule for each kind of array.

The mesh has two axes. A batch is split over both; the state is split over `fsdp`, with a
copy for each position along `data`. So fsdp = 1 puts a copy on every device, and fsdp = all
devices makes one copy in all. Computations are written for the global batch; jit splits
them by the shardings of their arguments. Axes are Auto, so XLA places intermediates.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

from jaxdiff.types.placement import AXES, share


def data_mesh(devices: Sequence[jax.Device] = (), fsdp: int = 1) -> Mesh:
    """A mesh of devices, by default those of all processes; `fsdp` of them share a state.

    Raises:
        ValueError: the devices do not split into groups of `fsdp`.
    """
    devices = devices or jax.devices()
    if len(devices) % fsdp:
        raise ValueError(
            f"fsdp is {fsdp}, which does not divide the {len(devices)} devices: use 1, "
            f"{len(devices)}, or another divisor"
        )
    shape, auto = (len(devices) // fsdp, fsdp), (AxisType.Auto,) * 2
    return jax.make_mesh(shape, AXES, axis_types=auto, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """One copy on each device."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def shared(tree: PyTree, mesh: Mesh) -> PyTree[NamedSharding]:
    """The sharding of each array of a state, given as shapes or arrays.

    Each array is split over `fsdp` by its shape alone (`types.placement.share`), so that
    averages and moments are split like their parameters.
    """
    parts = mesh.shape["fsdp"]
    one = lambda a: NamedSharding(mesh, share(a.shape, parts))
    return jax.tree.map(one, tree)


def rows(mesh: Mesh, size: int) -> Int[np.ndarray, " b"]:
    """Indices of the images in a batch that this process' devices hold, in order."""
    held = split(mesh).addressable_devices_indices_map((size,))
    return np.unique(np.concatenate([np.arange(size)[index] for index in held.values()]))


def put_batch(batch: PyTree[np.ndarray], mesh: Mesh) -> PyTree[jax.Array]:
    """Puts this process' `rows` of a batch on its devices, as part of global arrays.

    The data are copied, so the host's buffers can be reused.
    """
    place = lambda a: jax.make_array_from_process_local_data(split(mesh), a)
    return jax.tree.map(place, batch)


def ahead(batches: Iterator[PyTree], mesh: Mesh, depth: int = 2) -> Iterator[PyTree]:
    """The batches on the devices; a thread transfers up to `depth` of them ahead."""
    put = lambda: put_batch(next(batches), mesh)
    with ThreadPoolExecutor(1, "batches") as reader:
        waiting = deque(reader.submit(put) for _ in range(depth))
        while True:
            waiting.append(reader.submit(put))
            yield waiting.popleft().result()


def mesh_for(batch_size: int, fsdp: int = 1, devices: Sequence[jax.Device] = ()) -> Mesh:
    """A mesh over which a batch splits evenly, by default of all devices.

    On a CPU, with a virtual device for each core, it uses as many devices as divide the
    batch, the same number in each process. It uses all accelerators.

    Raises:
        ValueError: the batch does not split over the accelerators, or they do not split
            into groups of `fsdp`.
    """
    devices = devices or jax.devices()
    if devices[0].platform == "cpu":
        groups = itertools.groupby(devices, lambda device: device.process_index)
        here = [list(ours) for _, ours in groups]
        counts = [n * len(here) for n in range(1, min(map(len, here)) + 1)]
        fits = [n for n in counts if not (batch_size % n or n % fsdp)]
        if not fits:
            raise ValueError(
                f"fsdp is {fsdp}, but no multiple of it divides the batch of {batch_size} "
                f"over {len(devices)} devices of {len(here)} processes: set --cpu_devices, "
                "or fsdp to 1"
            )
        used = [d for ours in here for d in ours[: max(fits) // len(here)]]
        return data_mesh(used, fsdp)
    if batch_size % len(devices):
        raise ValueError(
            f"batch_size / accumulation is {batch_size}, which does not split over "
            f"{len(devices)} devices: use a multiple of {len(devices)}"
        )
    return data_mesh(devices, fsdp)
