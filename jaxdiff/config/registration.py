"""Registers a user's types, so that experiments can hold, save and name them.

    @jaxdiff.register
    @dataclass(frozen=True)
    class MySolver:
        order: int = 2
        ...

adds the name `solvers.MySolver` to the table. A saved experiment holds only the name, so
import the file before restoring it: restoring itself imports and runs nothing.
"""

import dataclasses
import inspect
import types
import typing
from typing import Any

from flax import linen as nn

from jaxdiff.config.fields import fields_of, parts
from jaxdiff.config.registry import KINDS, NAMES, TYPES, add, registered
from jaxdiff.sampling.guidance import Rule
from jaxdiff.types import (
    Grid,
    LossTerm,
    Network,
    Optimizer,
    Parameterization,
    Schedule,
    Solver,
    Source,
    Times,
    Weighting,
    implements,
)
from jaxdiff.types.protocols import members, required
from jaxdiff.types.ranges import UNIONS, quote

MAIN = (
    *(Network, Source, Optimizer, Schedule, Times, Parameterization, Solver, Rule),
    *(Grid, LossTerm, Weighting),
)
"""Protocols recognised by a class's members; others need the group in `name`."""


def register(cls: Any = None, *, name: str = "") -> Any:
    """Puts a frozen dataclass or a Flax module into the table of names; a class decorator.

    The protocol follows from the class's members (`jaxdiff.types`, docs/extending.md), and
    missing optional members are added. `name` stands for it in saved experiments and on
    command lines, by default the class's own; a group, as in "weightings.Mine", sets the
    protocol. When a file is loaded again, its class replaces the old one.

    Raises:
        ValueError: not a frozen dataclass or Flax module, no protocol matches, a field
            cannot be saved, or another class has the name.

    >>> from jaxdiff import schedules
    >>> register(schedules.Cosine) is schedules.Cosine
    True
    """
    if cls is None:
        return lambda cls: register(cls, name=name)
    _require_value(cls)
    _require_savable(cls)
    group, _, short = name.rpartition(".")
    short = short or cls.__name__
    if (
        not isinstance(name, str)
        or not short.isidentifier()
        or (group and group not in KINDS.values())
    ):
        groups = ", ".join(sorted({*KINDS.values()}))
        raise ValueError(
            f"register(name={quote(name)}): a name is as Mine or GROUP.Mine, with "
            f"one of the groups {groups}"
        )
    kind = _kind_of(cls, group)
    if kind is Network:
        _require_signature(cls)
    implements(kind)(cls)
    full = f"{KINDS[kind]}.{short}"
    there = TYPES.get(full)
    if there is not None and not _same(there, cls):
        raise ValueError(
            f"{full} is the name of {there.__module__}.{there.__qualname__} already: give "
            f'{cls.__qualname__} another, @jaxdiff.register(name="...")'
        )
    add(full, cls, kind)
    return cls


def _require_value(cls: Any) -> None:
    """Rejects all but frozen dataclasses with equality and Flax modules."""
    if isinstance(cls, type) and issubclass(cls, nn.Module):
        return
    made = vars(cls).get("__dataclass_params__") if isinstance(cls, type) else None
    if made is None or not (made.frozen and made.eq):
        which = getattr(cls, "__qualname__", repr(cls))
        raise ValueError(
            f"jaxdiff.register takes a frozen dataclass or a Flax module, and {which} is "
            "neither: write @dataclass(frozen=True) between @jaxdiff.register and the class"
        )


def _require_savable(cls: type) -> None:
    """Rejects fields whose values cannot be written as JSON and read back."""
    try:
        fields = fields_of(cls)
    except NameError as error:
        raise ValueError(f"{cls.__qualname__}'s fields: {error}") from error
    made = {f.name: f.init for f in dataclasses.fields(cls)}
    if "type" in fields:
        raise ValueError(
            f"{cls.__qualname__} has a field called type, which is what a saved experiment "
            "calls the class itself: choose another name for it"
        )
    for name, hint in fields.items():
        if not (made[name] and _savable(hint)):
            text = hint.__name__ if isinstance(hint, type) else str(hint)
            raise ValueError(
                f"{cls.__qualname__}.{name} is {text}, which cannot be saved: a field is a "
                "number, a string, True or False, None, a tuple of such, or a registered "
                "value"
            )


def _savable(hint: Any) -> bool:
    args = typing.get_args(hint)
    if hint in (Any, bool, int, float, str, types.NoneType) or hint in NAMES:
        return True
    if typing.get_origin(hint) in (tuple, *UNIONS):
        return all(arg is ... or _savable(arg) for arg in args)
    return typing.get_origin(hint) is typing.Literal or hint in KINDS


def _kind_of(cls: type, group: str) -> type:
    """The protocol of a class; within `group` if it is not empty."""
    if issubclass(cls, nn.Module) and group in ("", "networks"):
        return Network
    kinds = [k for k, g in KINDS.items() if g == group] if group else [*MAIN]
    kinds.sort(key=lambda kind: -len(required(kind)))
    for kind in kinds:
        lacks = [n for n in required(kind) if n not in _own(cls)]
        if not lacks and _called_alike(cls, kind, bool(group)):
            return kind
    near = max(kinds, key=lambda kind: _nearness(cls, kind))
    lacks = [n for n in required(near) if n not in _own(cls)]
    what = f"{near.__name__}, which has {', '.join(required(near))}"
    if not lacks:
        taken = ", ".join(inspect.signature(near.__call__).parameters)
        what = f"{near.__name__}, whose __call__ takes ({taken})"
    raise ValueError(
        f"{cls.__qualname__} fits none of jaxdiff's protocols; the nearest is {what}. "
        "docs/extending.md has one of each"
    )


def _nearness(cls: type, kind: type) -> float:
    needs = required(kind)
    return sum(name in _own(cls) for name in needs) / len(needs)


def _own(cls: type) -> set[str]:
    return {*dir(cls), *getattr(cls, "__dataclass_fields__", ())}


def _called_alike(cls: type, kind: type, loose: bool) -> bool:
    """Whether `__call__` matches the protocol's, by parameter names or by its result."""
    if members(kind) != ("__call__",):
        return True
    ours, theirs = (inspect.signature(c.__call__) for c in (cls, kind))
    if len(ours.parameters) != len(theirs.parameters):
        return False
    return (
        loose
        or [*ours.parameters] == [*theirs.parameters]
        or (str(ours.return_annotation) == str(theirs.return_annotation))
    )


def _require_signature(cls: type) -> None:
    """Rejects a network that cannot be called the way training calls it."""
    try:
        inspect.signature(cls.__call__).bind(None, None, None, None, train=True)
    except TypeError as error:
        raise ValueError(
            f"{cls.__qualname__}.__call__ must take (self, x, c_noise, cond, train=False): "
            f"{error}"
        ) from error


def own_files(value: Any) -> tuple[str, ...]:
    """The files that registered the types inside a value, each once.

    >>> from jaxdiff.config import Experiment
    >>> own_files(Experiment())  # all its types are jaxdiff's
    ()
    """
    types_ = {type(part) for part in parts(value, object)} & {*registered()}
    return tuple(sorted({_file(cls) for cls in types_}))


def _same(there: type, here: type) -> bool:
    """Whether two classes are the same one, from a file that was loaded twice."""
    if there is here:
        return True
    places = (there.__module__, _file(there)), (here.__module__, _file(here))
    (module, file), (other, now) = places
    alike = there.__qualname__ == here.__qualname__
    return alike and not module.startswith("jaxdiff.") and (module == other or file == now)


def _file(cls: type) -> str:
    """The file that defines a class's methods."""
    for member in vars(cls).values():
        member = member.fget if isinstance(member, property) else member
        plain = inspect.unwrap(member) if callable(member) else None
        own = inspect.isfunction(plain) and plain.__module__ == cls.__module__
        if own and not plain.__code__.co_filename.startswith("<"):
            return plain.__code__.co_filename
    return cls.__module__
