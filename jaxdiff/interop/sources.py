"""From state dicts to variables: which tensor each variable is made from, and how.

A network's variables are known before a file is read, by abstract evaluation; each family
of files gives every variable its `Source`. All names and shapes are compared first, so a
file either matches the whole network, or is rejected with every difference in one line.
Layouts are those of PyTorch: weights [out, in] and [out, in, h, w].
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Shaped

from jaxdiff import networks
from jaxdiff.runtime.files import printable

Path = tuple[str, ...]
"""The path of a variable: its collection, modules and name."""
Tensors = Mapping[str, Shaped[np.ndarray, "..."]]
"""A state dict: tensors by name."""
FLOATS = ("float16", "bfloat16", "float32", "float64")
LISTED = 8
"""Differences of each kind that a message lists; it counts the rest."""


@dataclass(frozen=True)
class Source:
    """A tensor of a state dict, and how a variable is made from it."""

    name: str
    shape: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray] = np.asarray
    older: tuple[str, ...] = ()
    """Other names that published files have for it."""
    flat: bool = False
    """Whether trailing axes of length 1 may be missing or extra."""

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a tensor of this shape can be converted."""
        return _flat(shape) == _flat(self.shape) if self.flat else shape == self.shape


def layer(name: str, leaf: str, shape: tuple[int, ...], **more: Any) -> Source:
    """The source of a parameter of a linear layer, a convolution or a norm.

    `leaf` and `shape` are the variable's own: a kernel, a bias or a scale.

    >>> layer("conv", "kernel", (3, 3, 8, 16)).shape
    (16, 8, 3, 3)
    """
    if leaf == "bias":
        return Source(f"{name}.bias", shape, **more)
    if leaf == "scale":
        return Source(f"{name}.weight", shape, **more)
    if len(shape) == 2:
        return Source(f"{name}.weight", shape[::-1], np.transpose, **more)
    height, width, inputs, outputs = shape
    to_last = lambda a: a.transpose(2, 3, 1, 0)
    return Source(f"{name}.weight", (outputs, inputs, height, width), to_last, **more)


def shapes(net: nn.Module, image: tuple[int, int, int]) -> dict[Path, tuple[int, ...]]:
    """The shape of each variable of a network for images [H, W, C]; nothing is computed."""
    return {tuple(n.split("/")): s for n, s in networks.shapes(net, image).items()}


@dataclass(frozen=True, eq=False)
class Converted:
    """A float32 variable that `np.asarray` converts from its tensor, anew at each call."""

    source: Source
    name: str
    tensor: np.ndarray
    network: str

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        tensor = self.tensor
        if self.source.flat:
            tensor = tensor.reshape(self.source.shape)
        value = np.ascontiguousarray(self.source.convert(tensor), np.float32)
        if not np.isfinite(value).all():
            raise ValueError(f"{self.name} of the {self.network} has nan or inf in it")
        return value


def converted(
    sources: Mapping[Path, Source], tensors: Tensors, network: str
) -> dict[str, Any]:
    """The variables {"params": ..., ...} that a state dict holds, nested, as `Converted`s.

    Raises:
        ValueError: tensors that are missing, left over, of another shape, or not floats;
            one line. Non-finite numbers are rejected when they are read.
    """
    require(network, sources.values(), tensors)
    made = {}
    for path, source in sources.items():
        name = _chosen(source, tensors)
        made[path] = Converted(source, name, tensors[name], network)
    return traverse_util.unflatten_dict(made)


def variables(
    sources: Mapping[Path, Source], tensors: Tensors, network: str
) -> dict[str, Any]:
    """The same as `converted`, with the variables read as float32 arrays.

    Raises:
        ValueError: as `converted`, or numbers that are not finite.
    """
    return jax.tree.map(np.asarray, converted(sources, tensors, network))


def require(network: str, sources: Iterable[Source], tensors: Tensors) -> None:
    """Rejects a state dict that does not match a network.

    Raises:
        ValueError: the tensors that are missing, left over, or of another shape or type;
            one line.

    >>> tensors = {"a": np.zeros(2), "c": np.zeros(1)}
    >>> require("tiny network", [Source("a", (3,)), Source("b", ())], tensors)
    Traceback (most recent call last):
        ...
    ValueError: not the tensors of the tiny network: 1 missing (b); 1 left over (c); \
1 of another shape (a is (2,), must be (3,))
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    types = {name: tensor.dtype.name for name, tensor in tensors.items()}
    require_shapes(f"the {network}", sources, shapes, types)


def require_shapes(
    network: str,
    sources: Iterable[Source],
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, str] | None = None,
) -> None:
    """Rejects tensors by their shapes, and by their types if given; see `require`.

    Raises:
        ValueError: as `require`.
    """
    missing, wrong, numbers, used = [], [], [], set()
    for source in sources:
        name = _chosen(source, shapes)
        used.add(name)
        if name not in shapes:
            missing.append(name)
        elif not source.fits(shapes[name]):
            wrong.append(f"{name} is {shapes[name]}, must be {source.shape}")
        elif types and types[name] not in FLOATS:
            numbers.append(f"{name} is {types[name]}")
    extra = [printable(name)[:80] for name in shapes if name not in used]
    kinds = {
        "missing": missing,
        "left over": extra,
        "of another shape": wrong,
        "of no floating-point type": numbers,
    }
    parts = [_listed(kind, sorted(set(some))) for kind, some in kinds.items() if some]
    if parts:
        raise ValueError(f"not the tensors of {network}: {'; '.join(parts)}")


def shape_of(tensors: Tensors, name: str, ndim: int, network: str) -> tuple[int, ...]:
    """The shape of a tensor that identifies a network: `ndim` axes, none of length 0.

    Raises:
        ValueError: the tensor is missing, or its shape is another.
    """
    if name not in tensors:
        raise ValueError(f"not a {network}: its file has a tensor {name}, which is missing")
    shape = tensors[name].shape
    if len(shape) != ndim or not all(0 < size < 2**20 for size in shape):
        raise ValueError(
            f"not a {network}: {name} has shape {shape}, but needs {ndim} axes"
        )
    return shape


def numbered(tensors: Tensors, prefix: str) -> int:
    """The number of consecutive modules `prefix.0`, `prefix.1`, ...

    >>> numbered({"b.0.w": np.zeros(1), "b.1.w": np.zeros(1), "b.3.w": np.zeros(1)}, "b")
    2
    """
    parts = {n.removeprefix(f"{prefix}.").partition(".")[0] for n in tensors
             if n.startswith(f"{prefix}.")}  # fmt: skip
    return next(i for i in range(len(parts) + 1) if str(i) not in parts)


def output(source: Source, rows: int, take: Callable[[np.ndarray], np.ndarray]) -> Source:
    """The source with `rows` outputs in the file; `take` selects the variable's."""
    convert = source.convert
    shape = (rows, *source.shape[1:])
    return Source(source.name, shape, lambda a: convert(take(a)), source.older, source.flat)


def _chosen(source: Source, tensors: Container[str]) -> str:
    """A source's name in the file; its usual name if the file lacks it."""
    names = (source.name, *source.older)
    return next((name for name in names if name in tensors), source.name)


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _listed(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {kind} ({', '.join(names[:LISTED])}{more})"
