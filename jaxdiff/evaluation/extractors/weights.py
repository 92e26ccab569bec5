"""Files of extractors' weights: an NPZ with the network's name and the origin.

Its arrays have the names and layouts of the published state dict; one more, `json`, has the
schema's version, the network's name, and the name and SHA-256 of the file it was made from.
`jaxdiff convert_features` writes them. Reading builds arrays and runs nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.interop import archives, npz
from jaxdiff.interop.npz import Stored
from jaxdiff.interop.sources import Source, require_shapes
from jaxdiff.runtime import jsontext
from jaxdiff.runtime.files import PathLike, place, printable, write_atomically

SCHEMA = 1
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Weights:
    """A network's tensors by their published names, and their origin."""

    network: str
    tensors: Mapping[str, np.ndarray]
    source: str
    """The name of the file that they were read from."""
    sha256: str
    """Of that file, which is the same whoever converts it: 64 hexadecimal digits."""


def sha256(path: PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with place(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(path: PathLike, weights: Weights) -> None:
    """Writes a file of weights, whole or not at all; the same bytes each time.

    Floats are stored as they are, bfloat16 and float64 as float32.

    Raises:
        ValueError: a tensor that is not finite.
    """
    origin = {"schema": SCHEMA, "network": weights.network}
    origin |= {"source": weights.source, "sha256": weights.sha256}
    arrays = {"json": np.frombuffer(json.dumps(origin).encode(), np.uint8)}
    for name, value in weights.tensors.items():
        other = value.dtype in (jnp.bfloat16, np.float64)
        arrays[name] = _finite(name, value.astype(np.float32) if other else value)
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load(path: PathLike, network: str, shapes: Shapes) -> Weights:
    """The weights of a network, with the tensors that it has and no others.

    Floats are as they were stored.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damage, another kind of file, another network's weights, or tensors
            that are missing, extra, of another shape or not finite; one line.
    """
    path = place(path)
    try:
        stored = npz.arrays(archives.mapped(path))
        origin = _origin(stored.pop("json", None))
        if origin["network"] != network:
            raise ValueError(f"the weights of {origin['network'][:80]!r}, not of {network}")
        require(network, {name: part.shape for name, part in stored.items()}, shapes)
        tensors = {name: _finite(name, stored[name].read()) for name in shapes}
        return Weights(network, tensors, origin["source"], origin["sha256"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def require(network: str, held: Shapes, shapes: Shapes) -> None:
    """Refuses tensors that are not a network's own.

    Raises:
        ValueError: those that are missing, left over or of another shape; one line.

    >>> require("tiny", {"a": (2,), "c": ()}, {"a": (3,), "b": ()})
    Traceback (most recent call last):
        ...
    ValueError: not the tensors of tiny: 1 missing (b); 1 left over (c); \
1 of another shape (a is (2,), must be (3,))
    """
    require_shapes(network, [Source(name, shapes[name]) for name in shapes], held)


ORIGIN = {"schema": int, "network": str, "source": str, "sha256": str}
"""The fields of the array `json`, and their types."""


def _origin(stored: Stored | None) -> dict[str, Any]:
    """The network, source and SHA-256 in a file.

    Raises:
        ValueError: it has none of these, or another schema.
    """
    give = "give one that jaxdiff convert_features wrote"
    try:
        small = stored is not None and stored.shape < (2**16,)
        origin = jsontext.loads(bytes(stored.read()), "it") if small else {}
    except ValueError:
        origin = {}
    if {k: type(v) for k, v in origin.items()} != ORIGIN:
        raise ValueError(f"not a file of an extractor's weights: {give}")
    if origin["schema"] != SCHEMA:
        raise ValueError(f"its schema is {origin['schema']}, not {SCHEMA}: {give}")
    return origin


def _finite(name: str, value: np.ndarray) -> np.ndarray:
    if not np.isfinite(value).all():
        raise ValueError(f"{printable(name)[:80]} has nan or inf in it")
    return value
