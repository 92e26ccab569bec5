"""Many items in batches of one size over a mesh, so that one compiled program serves all.

The last batch, and one that does not split over the devices, is padded with repeated items
whose results are discarded. So if each item's result depends only on that item, neither the
batch size nor the number of devices changes it.

    for batch in equal_batches(len(images), 256, mesh):
        features = look(variables, batch.put(images[batch.numbers]))
        kept.append(batch.fetch(features))

`over_items` is this loop for a function of arrays.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, PyTree, Shaped

from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.progress import bar, compiling


@dataclass(frozen=True, eq=False)
class Batch:
    """The items in a batch. B is equal for all batches, and a multiple of the devices."""

    numbers: Int[np.ndarray, " B"]
    """Indices of the items; the first `count` are new, the others are padding."""
    count: int
    mesh: Mesh

    @property
    def items(self) -> Int[np.ndarray, " n"]:
        """The indices of the `count` items whose results are kept."""
        return self.numbers[: self.count]

    @property
    def real(self) -> Bool[np.ndarray, " B"]:
        """True for items, False for padding."""
        return np.arange(len(self.numbers)) < self.count

    @property
    def first(self) -> bool:
        """Whether this is the first batch, whose call compiles the program."""
        return bool(self.numbers[0] == 0)

    def put(self, arrays: PyTree[Shaped[Array | np.ndarray, "B ..."]]) -> PyTree[Array]:
        """Arrays with one row per item, split over the devices; random keys too.

        Every process passes the whole batch, and places the rows that its devices hold.
        """
        rows = sharding.rows(self.mesh, len(self.numbers))

        def one(a: Array | np.ndarray) -> Array:
            if not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
                return sharding.put_batch(np.asarray(a)[rows], self.mesh)
            data = np.asarray(jax.random.key_data(a))[rows]
            placed = sharding.put_batch(data, self.mesh)
            return jax.random.wrap_key_data(placed, impl=jax.random.key_impl(a))

        return jax.tree.map(one, arrays)

    def fetch(self, results: PyTree[Array]) -> PyTree[Shaped[np.ndarray, "n ..."]]:
        """The rows of the `count` items, on the host of every process."""
        return jax.tree.map(lambda a: a[: self.count], processes.on_host(results))


def equal_batches(
    total: int, size: int, mesh: Mesh, *, full: bool = False
) -> Iterator[Batch]:
    """The items 0 ... total - 1, in order, in batches of one size over the mesh.

    The size is the smaller of `size` and `total`, rounded up to a multiple of the mesh's
    devices; with `full` it starts from `size` even for fewer items, to match a program that
    is already compiled.

    Raises:
        ValueError: no items, or a size below 1.

    >>> mesh = sharding.data_mesh(jax.devices()[:1])
    >>> [(b.numbers.tolist(), b.count) for b in equal_batches(5, 2, mesh)]
    [([0, 1], 2), ([2, 3], 2), ([4, 4], 1)]
    """
    if min(total, size) < 1:
        raise ValueError(f"a batch holds 1 item or more; got {total} items, {size} a batch")
    return _batches(total, size if full else min(size, total), mesh)


def _batches(total: int, size: int, mesh: Mesh) -> Iterator[Batch]:
    size += -size % mesh.size
    for start in range(0, total, size):
        items = np.arange(start, min(start + size, total))
        yield Batch(np.resize(items, size), len(items), mesh)


def over_items(
    function: Callable[..., PyTree[Shaped[Array, "B ..."]]],
    arrays: tuple[Any, ...],
    size: int,
    mesh: Mesh,
    *,
    unit: str = "images",
    desc: str = "",
    progress: bool = False,
) -> PyTree[Shaped[np.ndarray, "N ..."]]:
    """function(*arrays) over N items, `size` at a time, as arrays on the host, in order.

    Each of `arrays` is an array, or a tree of arrays, with one row per item. The function
    is called with the rows of one batch on the devices, all batches of one size, and should
    be compiled.

    Raises:
        ValueError: no items, or a size below 1.

    >>> over_items(lambda x: 2 * x, (np.arange(3.0),), 2, sharding.data_mesh()).tolist()
    [0.0, 2.0, 4.0]
    """
    total, parts = len(jax.tree.leaves(arrays)[0]), []
    with bar(total=total, unit=unit, desc=desc, show=progress) as done:
        for batch in equal_batches(total, size, mesh):
            rows = jax.tree.map(lambda a, batch=batch: a[batch.numbers], arrays)
            with compiling(done, first=batch.first):
                results = function(*batch.put(rows))
            parts.append(batch.fetch(results))
            done.update(batch.count)
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)
