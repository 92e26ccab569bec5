"""The fields of a frozen value, and the values in them."""

import dataclasses
import functools
import typing
from collections.abc import Iterator
from typing import Any

from flax import linen as nn

from jaxdiff.runtime.files import PathLike


def parts(value: Any, kind: type) -> Iterator[Any]:
    """All values of one type inside a value, at any depth.

    >>> from jaxdiff.denoisers import EDM
    >>> [part.sigma_data for part in parts((EDM(0.5), EDM(0.25)), EDM)]
    [0.5, 0.25]
    """
    if isinstance(value, kind):
        yield value
    inside = value if isinstance(value, tuple) else ()
    if dataclasses.is_dataclass(value):
        inside = [getattr(value, name) for name in fields_of(type(value))]
    for part in inside:
        yield from parts(part, kind)


@functools.cache
def fields_of(cls: type) -> dict[str, Any]:
    """Names and types of a class's fields, without Flax's own.

    A path counts as text, since `files.keep_text` turns it into a string.
    """
    hints = typing.get_type_hints(cls)
    hidden = ("parent", "name") if issubclass(cls, nn.Module) else ()
    names = [f.name for f in dataclasses.fields(cls) if f.name not in hidden]
    return {name: str if hints[name] == PathLike else hints[name] for name in names}


def elements(hint: Any, count: int) -> tuple[Any, ...]:
    """The annotations of a tuple's first `count` elements; Any beyond its length.

    >>> elements(tuple[float, ...], 2), elements(tuple[int, str], 1)
    ((<class 'float'>, <class 'float'>), (<class 'int'>,))
    """
    args = typing.get_args(hint) if typing.get_origin(hint) is tuple else ()
    if args[1:] == (...,):
        return args[:1] * count
    return (*args, *[Any] * count)[:count]
