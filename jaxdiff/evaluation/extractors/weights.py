"""Files of extractors' weights: an NPZ that says whose they are and where they came from.

Its arrays have the names and layouts of the published state dict; one more, `json`, has the
schema's version, the network's name, and the name and SHA-256 of the file it was made from.
`launch/convert_features.py` writes them. Reading builds arrays and runs nothing.
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
from jaxdiff.runtime import jsontext
from jaxdiff.runtime.files import PathLike, place, printable, write_atomically

SCHEMA = 1
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Weights:
    """A network's tensors by their published names, and what they were made from."""

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
    said = {"schema": SCHEMA, "network": weights.network}
    said |= {"source": weights.source, "sha256": weights.sha256}
    arrays = {"json": np.frombuffer(json.dumps(said).encode(), np.uint8)}
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
        said = _said(stored.pop("json", None))
        if said["network"] != network:
            raise ValueError(f"the weights of {said['network'][:80]!r}, not of {network}")
        require(network, {name: part.shape for name, part in stored.items()}, shapes)
        tensors = {name: _finite(name, stored[name].read()) for name in shapes}
        return Weights(network, tensors, said["source"], said["sha256"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def require(network: str, found: Shapes, shapes: Shapes) -> None:
    """Refuses tensors that are not a network's own.

    Raises:
        ValueError: how many are missing, extra or of another shape, and the first of them.

    >>> require("tiny", {"a": (2,), "c": ()}, {"a": (3,), "b": ()})
    Traceback (most recent call last):
        ...
    ValueError: not the tensors of tiny: 1 missing (b); 1 extra (c); 1 of another shape \
(a is (2,), must be (3,))
    """
    missing = [name for name in shapes if name not in found]
    extra = [name for name in found if name not in shapes]
    wrong = [
        f"{name} is {found[name]}, must be {shape}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name]) != tuple(shape)
    ]
    kinds = (("missing", missing), ("extra", extra), ("of another shape", wrong))
    parts = [
        f"{len(some)} {kind} ({printable(some[0])[:80]})" for kind, some in kinds if some
    ]
    if parts:
        raise ValueError(f"not the tensors of {network}: {'; '.join(parts)}")


SAID = {"schema": int, "network": str, "source": str, "sha256": str}
"""What the array `json` says, and as what."""


def _said(stored: Stored | None) -> dict[str, Any]:
    """The network, source and SHA-256 that a file says.

    Raises:
        ValueError: it says nothing of the kind, or by another schema.
    """
    give = "give one that launch/convert_features.py wrote"
    try:
        small = stored is not None and stored.shape < (2**16,)
        said = jsontext.loads(bytes(stored.read()), "it") if small else {}
    except ValueError:
        said = {}
    if {k: type(v) for k, v in said.items()} != SAID:
        raise ValueError(f"no file of an extractor's weights: {give}")
    if said["schema"] != SCHEMA:
        raise ValueError(f"its schema is {said['schema']}, not {SCHEMA}: {give}")
    return said


def _finite(name: str, value: np.ndarray) -> np.ndarray:
    if not np.isfinite(value).all():
        raise ValueError(f"{printable(name)[:80]} has nan or inf in it")
    return value
