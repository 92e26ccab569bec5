"""Short reprs of values, however much they hold.

`__repr__ = reprs.fields` in the body of a dataclass prints its fields as `brief` does,
which gives the type, shape and ends of a large array, and the number of numbers in a tree
of arrays. `short` and `lines` leave out the fields with default values.
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

FEW = 8
"""Numbers up to which an array is printed, and items up to which a sequence is."""

LONGEST = 200
"""Letters after which any other text is cut."""


def array(value: Any) -> str:
    """The type and shape of an array, and its ends where it is a row of numbers.

    >>> array(np.linspace(80, 0, 129, dtype=np.float32)), array(np.zeros((2, 3, 3, 1)))
    ('float32[129] 80 ... 0', 'float64[2, 3, 3, 1]')
    """
    kind = f"{value.dtype}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, jax.core.Tracer):
        return kind
    if isinstance(value, jax.Array):
        if value.is_deleted():
            return f"{kind} deleted"
        if not value.is_fully_addressable or value.dtype.name.startswith("key<"):
            return kind
    if value.size <= FEW and value.ndim < 2:
        return repr(value)
    if value.ndim == 1 and value.dtype.kind in "fiu":
        return f"{kind} {float(value[0]):.4g} ... {float(value[-1]):.4g}"
    return kind


def brief(value: Any) -> str:
    """A value in a few words.

    >>> brief({"dense": {"kernel": np.zeros((8, 8)), "bias": np.zeros(8)}})
    '{2 arrays, 72 numbers}'
    >>> brief(tuple(range(1000)))
    '(0, 1, 2, ..., 999: 1000 items)'
    """
    if _is_array(value):
        return array(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        code = getattr(inspect.unwrap(type(value).__repr__), "__code__", None)
        generated = code and code.co_filename == "<string>"  # by dataclass itself
        return _cut(fields(value) if generated else " ".join(repr(value).split()))
    leaves = jax.tree.leaves(value) if isinstance(value, Mapping | tuple | list) else []
    if leaves and all(map(_is_array, leaves)):
        if len(leaves) == 1 and not isinstance(value, Mapping):
            return f"({array(leaves[0])},)"
        return f"{{{len(leaves)} arrays, {sum(leaf.size for leaf in leaves):,} numbers}}"
    if isinstance(value, Mapping):
        items = [f"{key!r}: {brief(item)}" for key, item in [*value.items()][:FEW]]
        return "{" + ", ".join(items) + (", ..." if len(value) > FEW else "") + "}"
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return _sequence(value)
    return _cut(repr(value))


def fields(self: Any) -> str:
    """A `__repr__` of a dataclass: all fields, each in a few words."""
    names = [f.name for f in dataclasses.fields(self) if f.repr]
    inside = ", ".join(f"{name}={brief(getattr(self, name))}" for name in names)
    return f"{type(self).__name__}({inside})"


def short(value: Any) -> str:
    """The repr of a value without the fields with default values.

    >>> from jaxdiff.sampling.solvers import Heun
    >>> short(Heun(churn=4.0)), short(Heun())
    ('Heun(churn=4.0)', 'Heun()')
    """
    inside = ", ".join(f"{name}={text}" for name, text in _changed(value))
    return f"{type(value).__name__}({inside})"


def lines(self: Any) -> str:
    """A `__repr__` of a dataclass with many fields, one per line: parts and changed fields.

    Parts are fields that hold dataclasses; they are printed even with default values.
    """
    inside = "".join(f"    {name}={text},\n" for name, text in _changed(self, parts=True))
    return f"{type(self).__name__}(\n{inside})" if inside else f"{type(self).__name__}()"


def _changed(value: Any, parts: bool = False) -> list[tuple[str, str]]:
    """Names and texts of the fields that differ from their defaults, and of all `parts`."""
    changed = []
    for field in dataclasses.fields(value):
        if not field.repr or not field.init or field.name in ("parent", "name"):
            continue
        held = getattr(value, field.name)
        made = field.default_factory
        default = field.default if made is dataclasses.MISSING else made()
        if not _same(held, default) or (parts and dataclasses.is_dataclass(held)):
            changed.append((field.name, _text(held)))
    return changed


def _text(value: Any) -> str:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return short(value)
    if type(value) is tuple and any(map(dataclasses.is_dataclass, value)):
        return f"({', '.join(map(_text, value))}{',' * (len(value) == 1)})"
    return brief(value)


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(type(a) is type(b) and a == b)
    except ValueError:  # arrays
        return False


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray | jax.Array)


def _sequence(value: tuple | list) -> str:
    left, right = "()" if isinstance(value, tuple) else "[]"
    if len(value) <= FEW:
        inside = ", ".join(map(brief, value))
        return f"{left}{inside}{',' if len(value) == 1 and left == '(' else ''}{right}"
    first = ", ".join(map(brief, value[:3]))
    return f"{left}{first}, ..., {brief(value[-1])}: {len(value)} items{right}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
