"""The arrays of a state: names, parts that fit in memory, and checksums."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree, UInt32

from jaxdiff.runs.record import DamagedError
from jaxdiff.runs.state import TrainState

PART = 64 * 2**20
"""Bytes of a state to read back at a time; a larger array is read alone."""


def parts(target: TrainState) -> Iterator[TrainState]:
    """The state in parts of at most `PART` bytes, or one array; `...` replaces the rest."""
    leaves, tree = jax.tree.flatten(target)
    first, size = 0, 0
    for i, leaf in enumerate(leaves):
        if i > first and size + size_in_bytes(leaf) > PART:
            yield tree.unflatten(_only(leaves, first, i))
            first, size = i, 0
        size += size_in_bytes(leaf)
    yield tree.unflatten(_only(leaves, first, len(leaves)))


def _only(leaves: Sequence[Any], start: int, stop: int) -> list[Any]:
    """The leaves, outside of the range replaced by `...`, which Orbax does not read."""
    return [leaf if start <= i < stop else ... for i, leaf in enumerate(leaves)]


def present(part: PyTree) -> list[Any]:
    """The leaves of a part, without the `...` for the others."""
    return [leaf for leaf in jax.tree.leaves(part) if leaf is not ...]


def size_in_bytes(leaf: Any) -> int:
    """Bytes of an array, or of one with this shape and type."""
    return leaf.size * leaf.dtype.itemsize


def compare(state: PyTree, computed: Sequence[int], kept: Sequence[int]) -> None:
    """Compares checksums.

    Raises:
        DamagedError: names the first array whose checksum differs.
    """
    if tuple(computed) == tuple(kept):
        return
    names = [name for name, _ in named(state)]
    pairs = itertools.zip_longest(names, computed, kept)
    name = next((name for name, one, other in pairs if one != other), None)
    raise DamagedError(f"{name or 'a list of checksums'} does not fit its checksum")


def named(tree: PyTree) -> list[tuple[str, Any]]:
    """Arrays with their names as Orbax joins them, in the order of the tree."""
    part = lambda key: str(
        getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))
    )
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [("/".join(map(part, path)), leaf) for path, leaf in flat]


def shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without random keys, which are saved as integers."""
    return {
        name: tuple(leaf.shape)
        for name, leaf in named(tree)
        if name != "key" and hasattr(leaf, "shape")
    }


def checksum(state: PyTree) -> UInt32[Array, " leaves"]:
    """One number for each array of a state, or of a part, which any flipped bit changes.

    The sum over the array's 32-bit words w_i of (2 i + 1) w_i, modulo 2^32: a sum of
    integers is the same on any number of devices.
    """
    return _checksum(jax.tree.leaves(state))  # one program for a state and its arrays


@jax.jit
def _checksum(leaves: list[Array]) -> UInt32[Array, " leaves"]:
    def add(leaf: Array) -> UInt32[Array, ""]:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        bits = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
        words = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
        words = jax.lax.bitcast_convert_type(words, bits[words.dtype.itemsize])
        words = words.astype(jnp.uint32).reshape(-1)
        return jnp.sum(words * (2 * jnp.arange(words.size, dtype=jnp.uint32) + 1))

    return jnp.stack([add(leaf) for leaf in leaves])
