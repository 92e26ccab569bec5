"""Where arrays live: a mesh of all devices, and one rule for each kind of array.

The mesh has two axes. A batch is split over both; the state is split over `fsdp` and has a
copy for each position along `data`. So fsdp = 1 is a copy on every device, and fsdp = all
devices one copy in all. Computations are written for the global batch; jit splits them by
the shardings of their arguments. Axes are Auto, so that XLA places intermediates.
"""

import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int, PyTree

AXES = ("data", "fsdp")

SMALL = 1024
"""Elements of an array up to which every device keeps a copy."""


def data_mesh(devices: Sequence[jax.Device] = (), fsdp: int = 1) -> Mesh:
    """Devices, by default all of all processes; each `fsdp` of them share one state.

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
    """The sharding of each array of a state, which holds shapes or arrays.

    An array of more than SMALL elements is split over `fsdp` along the longest of its axes
    that divides evenly; others are on every device. Arrays of one shape lie alike, so an
    average or a moment lies as its parameter does.
    """
    size = mesh.shape["fsdp"]

    def one(a: jax.Array | jax.ShapeDtypeStruct) -> NamedSharding:
        fitting = [i for i, n in enumerate(a.shape) if n % size == 0]
        if size == 1 or a.size <= SMALL or not fitting:
            return replicated(mesh)
        axis = max(fitting, key=lambda i: a.shape[i])
        return NamedSharding(mesh, PartitionSpec(*(None,) * axis, "fsdp"))

    return jax.tree.map(one, tree)


def rows(mesh: Mesh, size: int) -> Int[np.ndarray, " b"]:
    """Which images of a batch are this process', for its devices to hold, in order."""
    held = split(mesh).addressable_devices_indices_map((size,))
    return np.unique(np.concatenate([np.arange(size)[index] for index in held.values()]))


def put_batch(batch: PyTree[np.ndarray], mesh: Mesh) -> PyTree[jax.Array]:
    """This process' `rows` of a batch, as part of the global arrays on the devices.

    Copies: the host's buffers may be written to again.
    """
    place = lambda a: jax.make_array_from_process_local_data(split(mesh), a)
    return jax.tree.map(place, batch)


def ahead(batches: Iterator[PyTree], mesh: Mesh, depth: int = 2) -> Iterator[PyTree]:
    """The batches, on the devices, where a thread puts the next `depth` of them."""
    put = lambda: put_batch(next(batches), mesh)
    with ThreadPoolExecutor(1, "batches") as reader:
        waiting = deque(reader.submit(put) for _ in range(depth))
        while True:
            waiting.append(reader.submit(put))
            yield waiting.popleft().result()


def mesh_for(batch_size: int, fsdp: int = 1) -> Mesh:
    """A mesh over which a batch splits evenly.

    Of a CPU's virtual devices, which are one for each core, it takes as many as divide
    the batch, the same number in each process. Accelerators are not left idle.

    Raises:
        ValueError: the batch does not split over the accelerators, or these not into
            groups of `fsdp`.
    """
    devices = jax.devices()
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
            f"batch_size is {batch_size}, which does not split over {len(devices)} "
            f"devices: use a multiple of {len(devices)}"
        )
    return data_mesh(devices, fsdp)
