"""Flags made from the fields of a frozen value: names, types, bounds and help.

    SAMPLING = field_flags.define(Sampling)
    sampling = dataclasses.replace(run.experiment.sampling, **field_flags.values(SAMPLING))

A field's annotation has its type and its help text, so a new field becomes a flag by
itself. A flag that is not given is None and changes nothing.
"""

import typing
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

from absl import flags

from jaxdiff.commands import command
from jaxdiff.config import allowed, expressions
from jaxdiff.config.fields import fields_of
from jaxdiff.types.ranges import Range


@dataclass(frozen=True, eq=False)
class FieldFlag:
    """A flag, and the type of the field that it sets."""

    flag: flags.FlagHolder
    hint: Any

    def value(self) -> Any:
        """The field's new value; None if the flag is not given.

        Raises:
            ValueError: the text does not describe such a value.
        """
        if self.flag.value is None or self.hint in PLAIN:
            return self.flag.value
        if typing.get_origin(self.hint) is tuple:
            return command.interval(self.flag)
        return expressions.parse(self.flag.value, self.hint)


PLAIN = (bool, int, float)
flags.disclaim_key_flags()  # the flags belong to the module that calls `define`


def define(cls: type, but: Container[str] = (), only: Container[str] | None = None) -> (
    dict[str, FieldFlag]
):  # fmt: skip
    """A flag for each field of the class, by name: all `but` some, or `only` some.

    Pairs of numbers are written as LOW,HIGH, and other values as Python prints them.
    """
    annotations = typing.get_type_hints(cls, include_extras=True)
    return {
        name: FieldFlag(_flag(name, hint, typing.get_args(annotations[name])[1:]), hint)
        for name, hint in fields_of(cls).items()
        if name not in but and (only is None or name in only)
    }


def values(fields: Mapping[str, FieldFlag]) -> dict[str, Any]:
    """The values of the given flags, by the names of their fields."""
    flagged = {name: field.value() for name, field in fields.items()}
    return {name: value for name, value in flagged.items() if value is not None}


def _flag(name: str, hint: Any, notes: tuple[Any, ...]) -> flags.FlagHolder:
    """The flag of a field whose annotation has these notes after the type."""
    text = next((note for note in notes if isinstance(note, str)), "")
    if hint is bool:
        return flags.DEFINE_bool(name, None, text)
    if hint is int:
        low, high = next((n.low, n.high) for n in notes if isinstance(n, Range))
        return flags.DEFINE_integer(name, None, text, low, high)
    if hint is float:
        return flags.DEFINE_float(name, None, text)
    if typing.get_origin(hint) is tuple:
        return flags.DEFINE_list(name, None, f"LOW,HIGH: {text}")
    names = ", ".join(sorted(kind.split(".")[1] for kind in allowed(hint)))
    return flags.DEFINE_string(
        name, None, f"{text} One of {names}, with fields or without."
    )
