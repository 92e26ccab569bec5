"""Values written as their `repr`, for command lines: "DPMSolverPP(order=3, eta=1.0)".

Only the types in `config.TYPES` can be named, and arguments are numbers, strings, booleans,
tuples and values of such types; nothing is evaluated.
"""

import ast
import math
import warnings
from typing import Any

from jaxdiff.config import TYPES, allowed, from_dict
from jaxdiff.config.fields import elements, fields_of
from jaxdiff.types.ranges import quote

LONGEST = 10_000
"""Maximal number of characters of an expression."""
DEEPEST = 40
"""Maximal depth of nested values."""


def parse(text: str, kind: Any) -> Any:
    """The value of a type, a protocol or another annotation, such as `Solver` or `Grid`.

    Raises:
        ValueError: there is no such type or field, or an argument is not a plain value.

    >>> from jaxdiff.types import Solver
    >>> parse("DPMSolverPP(order=3)", Solver).order
    3
    >>> parse("EulerMaruyama(SigmaW(norm=2.0), clock=RectifiedFlow)", Solver).clock
    RectifiedFlow()
    """
    values = parse_all(text, kind)
    if len(values) != 1:
        raise ValueError(f"{quote(text)} names {len(values)} values; give one")
    return values[0]


def parse_all(text: str, kind: Any) -> list[Any]:
    """The values of a list, "Heun, Euler, DPMSolverPP(order=3)".

    >>> from jaxdiff.types import Solver
    >>> [type(s).__name__ for s in parse_all("Heun, UniPC(order=2)", Solver)]
    ['Heun', 'UniPC']
    """
    if len(text) > LONGEST:
        raise ValueError(
            f"{quote(text, 40)} has {len(text):,} characters, over {LONGEST:,}"
        )
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            parsed = ast.parse(f"[{text}]", mode="eval").body
        if not isinstance(parsed, ast.List):
            raise SyntaxError("not a list")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        some = ", ".join(sorted(_short(kind))[:3])
        raise ValueError(
            f"{quote(text)} is not a list of values: write names, such as {some}, with "
            "fields in parentheses where they differ from the default"
        ) from error
    return [_value(node, kind) for node in parsed.elts]


def _value(node: ast.expr, kind: Any) -> Any:
    tree = _tree(node, kind, 0)
    return from_dict(tree, tree["type"].split(".")[1], kind)


def _short(kind: Any) -> dict[str, str]:
    """The names in the table, by their short names in expressions."""
    return {name.split(".")[1]: name for name in allowed(kind) if name in TYPES}


def _tree(node: ast.expr, hint: Any, depth: int) -> dict[str, Any]:
    """A type's name, or a call of it, as a dictionary for `config.from_dict`."""
    if depth > DEEPEST:
        raise ValueError(f"values are nested more than {DEEPEST} deep")
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    known = _short(hint)
    kind = known.get(getattr(call.func, "id", ""))
    if kind is None:
        own = "; one of your own needs its file, --import=FILE.py"
        which = f"none of {', '.join(sorted(known))}{own}" if known else "not a plain value"
        raise ValueError(f"{_source(node)} is {which}")
    fields = fields_of(TYPES[kind])
    if len(call.args) > len(fields):
        raise ValueError(
            f"{_source(call)} has {len(call.args)} values; {kind} takes {len(fields)}: "
            f"{', '.join(fields) or 'none'}"
        )
    nodes = dict(zip(fields, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in nodes:
            raise ValueError(f"{_source(call)}: give each field once, by its name")
        nodes[keyword.arg] = keyword.value
    values = {n: _argument(v, fields.get(n, Any), depth) for n, v in nodes.items()}
    return {"type": kind, **values}


def _argument(node: ast.expr, hint: Any, depth: int) -> Any:
    named = isinstance(node, ast.Name) and node.id in _short(hint)
    if named or isinstance(node, ast.Call):
        return _tree(node, hint, depth + 1)
    if isinstance(node, ast.Tuple | ast.List):
        hints = elements(hint, len(node.elts))
        return tuple(
            _argument(item, item_hint, depth + 1)
            for item, item_hint in zip(node.elts, hints, strict=True)
        )
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{_source(node)} is neither a value nor a type") from error
    if not isinstance(value, int | float | str | None):
        raise ValueError(f"{_source(node)} is not a number, string, bool or tuple")
    return value


def _source(node: ast.expr) -> str:
    """The source text, short enough for a message."""
    try:
        return quote(ast.unparse(node))
    except (RecursionError, ValueError):  # deep, or a number of thousands of digits
        return f"a {type(node).__name__.lower()}"
