"""Valid ranges of the fields of frozen values, checked when a value is created.

    @dataclass(frozen=True)
    @checked
    class Karras:
        sigma_max: Positive = 80.0
        steps: Annotated[int, Whole(1, 1000)] = 18

A field's annotation is its range; a text in it, Annotated[Positive, "…"], says what the
field means, for `--help`. Python, command lines and saved experiments all build
values by calling the class, so they all get the same line:

>>> check("sigma_max", math.inf, Positive)
Traceback (most recent call last):
    ...
ValueError: sigma_max must be a number above 0, at most 1e+15, got inf

Arrays that are traced or abstract are not checked.
"""

import dataclasses
import functools
import math
import os
import reprlib
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import jax
import numpy as np

from jaxdiff.types.protocols import ByType, missing, required

LARGE = 1e15
"""The largest magnitude of an unbounded number: float32 still holds its square."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; `above` and `below` leave out that end.

    With `infinite`, inf stands for no limit. `whole` numbers are Python's or NumPy's ints.
    `note` is added to the message: what to do instead.

    >>> str(Range(0, 1, above=True)), str(Whole(1, 10000))
    ('a number above 0, at most 1', 'a whole number from 1 to 10,000')
    """

    low: int | float = -LARGE
    high: int | float = LARGE
    above: bool = False
    below: bool = False
    infinite: bool = False
    whole: bool = False
    note: str = ""

    def __str__(self) -> str:
        number = "a whole number" if self.whole else "a number"
        low, high = (f"{x:,}" if self.whole else f"{x:g}" for x in (self.low, self.high))
        last = f"{'below' if self.below else 'at most'} {high}"
        text = f"{number} above {low}, {last}" if self.above else (
            f"{number} from {low} to {last.removeprefix('at most ')}"
        )  # fmt: skip
        return f"{text}, or inf for no limit" if self.infinite else text

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError unless the value is such a number, or a traced array."""
        number = _scalar(value)
        if number is ARRAY:
            return
        kinds = int if self.whole else (int, float)
        right = isinstance(number, kinds) and not isinstance(number, bool)
        if not (right and self._holds(number)):
            raise ValueError(f"{name} must be {self}, got {quote(value)}{_and(self.note)}")

    def _holds(self, number: int | float) -> bool:
        if self.infinite and number == math.inf:
            return True
        low = self.low < number if self.above else self.low <= number
        return low and (number < self.high if self.below else number <= self.high)


def Whole(low: int, high: int, note: str = "") -> Range:
    """Whole numbers from low to high."""
    return Range(low, high, whole=True, note=note)


@dataclass(frozen=True)
class Items:
    """Tuples of `low` to `high` elements."""

    low: int
    high: int = 10**6
    note: str = ""

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError unless the value has that many elements."""
        if not self.low <= len(value) <= self.high:
            raise ValueError(
                f"{name} must have {self.low:,} to {self.high:,} elements, got "
                f"{len(value):,}: {quote(value)}{_and(self.note)}"
            )


class Choice:
    """One of a few strings or numbers."""

    def __init__(self, *values: str | int) -> None:
        self.values = values

    def check(self, name: str, value: Any) -> None:
        """Raises ValueError unless the value is one of them."""
        kinds = tuple({type(v) for v in self.values})
        if isinstance(value, bool) or not isinstance(value, kinds) or (
            value not in self.values
        ):  # fmt: skip
            known = ", ".join(map(repr, self.values))
            raise ValueError(f"{name} must be one of {known}, got {quote(value)}")


Finite = Annotated[float, Range()]
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Limit = Annotated[float, Range(0, above=True, infinite=True)]
"""Above 0; inf is no limit."""
Fraction = Annotated[float, Range(0, 1)]
PositiveFraction = Annotated[float, Range(0, 1, above=True)]
FractionBelowOne = Annotated[float, Range(0, 1, below=True)]
LogSNR = Annotated[float, Range(-80, 80)]
"""A logarithm of a ratio, in nats, whose exponential float32 holds."""
Spread = Annotated[float, Range(0, 100, above=True)]
"""The standard deviation of such a logarithm."""
Tolerance = Annotated[float, Range(1e-12, 1)]
"""An error per step, relative or absolute; float64 does not resolve much less."""
Width = Annotated[int, Whole(1, 2**13)]
"""Channels of a layer."""
Blocks = Annotated[int, Whole(1, 100)]
"""Blocks in a row, each of which is traced and compiled."""
Entries = Annotated[int, Whole(1, 10**6)]
"""Entries of a table, which are kept in memory."""
Size = Annotated[int, Whole(1, 2**14)]
"""Pixels along an edge."""
Classes = Annotated[int, Whole(0, 10**6)]
"""A number of classes, each a row of a table of the network."""

T = TypeVar("T", bound=type)


def checked(cls: T) -> T:
    """Makes a class check its fields against their annotations when a value is created.

    It stands below `@dataclass`, or on a Flax module. The class's own `__post_init__`, for
    what concerns several fields, runs afterwards.
    """
    then = getattr(cls, "__post_init__", None)

    @functools.wraps(then or checked)
    def __post_init__(self: Any) -> None:
        for name, rule in rules(type(self)).items():
            rule(name, getattr(self, name))
        if then:
            then(self)

    cls.__post_init__ = __post_init__
    return cls


@functools.cache
def rules(cls: type) -> dict[str, Callable[[str, Any], None]]:
    """The checks of a class's fields by name; fields of type Any are left out."""
    hints = typing.get_type_hints(cls, include_extras=True)
    hidden = ("parent", "name") if hasattr(cls, "init_with_output") else ()  # Flax's own
    names = [f.name for f in dataclasses.fields(cls) if f.name not in hidden]
    every = {name: _rule(hints[name]) for name in names}
    return {name: rule for name, rule in every.items() if rule}


def check(name: str, value: Any, hint: Any) -> None:
    """Raises ValueError unless a value fits an annotation; for arguments of functions."""
    if rule := _rule(hint):
        rule(name, value)


def _rule(hint: Any) -> Callable[[str, Any], None] | None:
    """The check that an annotation declares; None if it allows anything."""
    if hint is Any:
        return None
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        declared = [m.check for m in args[1:] if hasattr(m, "check")]
        nested = not declared or typing.get_origin(args[0]) is tuple
        inner = _rule(args[0]) if nested else None
        checks = [inner, *declared] if inner else declared
        return _all(checks) if checks else None
    if origin is tuple:
        return functools.partial(_check_tuple, args)
    if origin is typing.Literal:
        return Choice(*args).check
    if origin in UNIONS:
        return None if Any in args else functools.partial(_check_kind, _kinds(args))
    if isinstance(hint, type) and origin is None:
        return functools.partial(_check_kind, (hint,))
    return None


UNIONS = (types.UnionType, typing.Union)
"""What X | Y and Optional[X] are made by."""


def _kinds(args: tuple[Any, ...]) -> tuple[type, ...]:
    """The types that a union allows; of a Literal, those of its values."""
    kinds: list[type] = []
    for kind in args:
        literal = typing.get_origin(kind) is typing.Literal
        plain = typing.get_origin(kind) or kind
        kinds += map(type, typing.get_args(kind)) if literal else [plain]
    return tuple(dict.fromkeys(kinds))


def _all(every: list[Callable[[str, Any], None]]) -> Callable[[str, Any], None]:
    def check_all(name: str, value: Any) -> None:
        for one in every:
            one(name, value)

    return every[0] if len(every) == 1 else check_all


def _check_tuple(hints: tuple[Any, ...], name: str, value: Any) -> None:
    if not isinstance(value, tuple):
        raise ValueError(f"{name} must be a tuple, got {quote(value)}")
    repeated = hints[-1] is ...
    every = [_rule(hints[0])] * len(value) if repeated else [_rule(h) for h in hints]
    if len(every) != len(value):
        raise ValueError(
            f"{name} must have {len(hints)} elements, got {len(value)}: {quote(value)}"
        )
    for i, (element, rule) in enumerate(zip(value, every, strict=True)):
        if rule:
            rule(f"{name}[{i}]", element)


def _check_kind(kinds: tuple[type, ...], name: str, value: Any) -> None:
    if isinstance(value, type):
        raise ValueError(
            f"{name} is the class {value.__name__}: make a value of it, {value.__name__}()"
        )
    if isinstance(value, bool | np.bool_) and bool in kinds:
        return
    if isinstance(value, bool) or not isinstance(value, kinds):
        names = ["None" if k is types.NoneType else WORDS.get(k, k.__name__) for k in kinds]
        line = f"{name} must be {' or '.join(names)}, got {quote(value)}"
        lacks = missing(type(value), kinds[0]) if isinstance(kinds[0], ByType) else ()
        if dataclasses.is_dataclass(value) and lacks:
            name = type(value).__name__
            needs = [member for member in lacks if member in required(kinds[0])]
            line += (
                f", which has no {', '.join(needs)}"
                if needs
                else (
                    f": write @jaxdiff.register above the class {name} (docs/extending.md)"
                )
            )
        raise ValueError(line)


WORDS = {bool: "True or False", str: "a string", os.PathLike: "a path"}


def _and(note: str) -> str:
    return f"; {note}" if note else ""


ARRAY = object()


def _scalar(value: Any) -> Any:
    """A number as Python's; ARRAY for one that is traced or abstract."""
    if isinstance(value, jax.core.Tracer | jax.ShapeDtypeStruct):
        return ARRAY
    scalar = isinstance(value, np.generic | np.ndarray | jax.Array) and value.ndim == 0
    return value.item() if scalar else value


class _Short(reprlib.Repr):
    """A `repr` of one line and bounded length and time, whatever the value."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 60
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        digits = int(x.bit_length() * math.log10(2)) + 1
        return f"a whole number of {digits:,} digits" if digits > 40 else repr(x)

    def repr_instance(self, x: Any, level: int) -> str:
        if dataclasses.is_dataclass(x):
            name = type(x).__name__
            return f"the class {x.__name__}" if isinstance(x, type) else f"{name}(…)"
        return super().repr_instance(x, level)


_SHORT = _Short()


def quote(value: Any, most: int = 100) -> str:
    """A value to quote in a message: its `repr`, on one line of at most `most` characters.

    >>> quote(10**400), quote("x" * 1000, 20)
    ('a whole number of 401 digits', "'xxxxxxxxxxxxxxxxxx…")
    """
    line = " ".join(_SHORT.repr(value).split())
    return line if len(line) <= most else line[: most - 1] + "…"
