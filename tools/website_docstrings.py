"""What the site shows of docstrings and signatures beyond what the sources say there.

Examples become blocks of code; a method without a docstring leads to that of its base class
or protocol; a Flax module and a pytree have their fields as arguments, as a dataclass has.
mkdocs.yml loads this as an extension of griffe, which reads the sources.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools import website


class Shown(griffe.Extension):
    """Changes the package that griffe has read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Once all of the package is read."""
        for name, target in website.elsewhere().items():
            method = pkg[name.removeprefix(f"{pkg.path}.")]
            if not method.has_docstring:
                short = ".".join(target.split(".")[-2:])
                text = f"As [`{short}`][{target}]."
                method.docstring = griffe.Docstring(text, parent=method)
        for member in list(_members(pkg)):
            if member.docstring:
                member.docstring.value = website.fenced(member.docstring.value)
            if member.is_class and "__init__" not in member.members and _has_fields(member):
                member.set_member("__init__", _init(member))


def _members(parent: griffe.Object) -> Iterator[griffe.Object]:
    for member in parent.members.values():
        if not member.is_alias:
            yield member
            yield from _members(member)


def _has_fields(cls: griffe.Class) -> bool:
    """Whether it is a pytree or a Flax module."""
    decorators = {str(decorator.value).rpartition(".")[2] for decorator in cls.decorators}
    return "pytree" in decorators or any(str(b).endswith("nn.Module") for b in cls.bases)


def _init(cls: griffe.Class) -> griffe.Function:
    """The constructor that the fields of a class make."""
    kind = griffe.ParameterKind.positional_or_keyword
    parameters = [griffe.Parameter("self", kind=kind)]
    for member in cls.members.values():
        if member.is_attribute and member.annotation and "property" not in member.labels:
            field = {"annotation": member.annotation, "default": member.value}
            parameters.append(griffe.Parameter(member.name, kind=kind, **field))
    return griffe.Function(
        "__init__", parameters=griffe.Parameters(*parameters), parent=cls, returns="None"
    )
