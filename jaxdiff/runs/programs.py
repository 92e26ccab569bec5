"""Compiled programs are kept for the next call that needs the same.

What differs between two experiments is often only where their data lie, how long they
train or how often they write, and no program reads that.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from flax import linen as nn

from jaxdiff.config import FREE, Experiment
from jaxdiff.data import encoder_of

Make = TypeVar("Make", bound=Callable[..., Any])

UNREAD = (*(name for name in FREE if name != "sampling"), "init_from")
"""Fields of an experiment, or prefixes, that no program reads."""


@dataclasses.dataclass(frozen=True)
class _Same:
    """A value that equals another if they make the same program."""

    identity: Any
    value: Any = dataclasses.field(compare=False)


def kept(size: int) -> Callable[[Make], Make]:
    """Keeps the last `size` programs that a function makes, for calls with equal arguments.

    The function's arguments are experiments and other values. Of an experiment counts what
    a program can read: of its data the type, shape and encoder, and no field of `UNREAD`.
    A class that was defined anew, as in a notebook, is another class. Where an argument
    cannot be hashed, nothing is kept. The function has a `cache_clear` afterwards, for
    those who change the library's own functions.
    """

    def decorate(make: Make) -> Make:
        signature = inspect.signature(make)

        @functools.lru_cache(maxsize=size)
        def program(*same: _Same) -> Any:
            return make(*(argument.value for argument in same))

        @functools.wraps(make)
        def call(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            arguments = bound.args
            try:
                same = [_Same(identity(argument), argument) for argument in arguments]
                hash(tuple(same))
            except TypeError:
                return make(*arguments)
            return program(*same)

        call.cache_clear = program.cache_clear
        return call

    return decorate


def identity(value: Any) -> Any:
    """A key that two values share only if all that they hold is equal, types included.

    Unlike ==, it reads the fields that comparisons leave out, such as `Pixels.flip`, and
    tells 1 from 1.0 and True. Of an experiment and its data it reads what `kept` says.
    """
    if isinstance(value, Experiment):
        names = (f.name for f in dataclasses.fields(value))
        fields = {n: getattr(value, n) for n in names if not n.startswith(UNREAD)}
        source = fields.pop("data")
        stored = type(source), source.shape, encoder_of(source)
        return Experiment, identity(stored), identity(fields)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hidden = ("parent", "name") if isinstance(value, nn.Module) else ()
        names = (f.name for f in dataclasses.fields(value) if f.name not in hidden)
        return type(value), *((n, identity(getattr(value, n))) for n in names)
    if isinstance(value, Mapping):
        return type(value), *((k, identity(v)) for k, v in sorted(value.items()))
    if isinstance(value, tuple | list):
        return type(value), *map(identity, value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array = np.asarray(value)
        return type(value), array.dtype.str, array.shape, array.tobytes()
    return type(value), value
