"""Values written as their `repr`, for command lines: "DPMSolverPP(order=3, eta=1.0)".

Only jaxdiff's own types can be named (`config.TYPES`), and arguments are numbers, strings,
truth values, tuples and such values again; nothing is evaluated.
"""

import ast
import math
from typing import Any

from jaxdiff.config import KINDS, TYPES, from_dict


def read(text: str, kind: type) -> Any:
    """The value of a protocol that `config.KINDS` lists, such as `Solver` or `Grid`.

    Raises:
        ValueError: there is no such type or field, or an argument is no plain value.

    >>> from jaxdiff.types import Solver
    >>> read("DPMSolverPP(order=3)", Solver).order
    3
    >>> read("EulerMaruyama(SigmaW(norm=2.0), clock=RectifiedFlow())", Solver).clock
    RectifiedFlow()
    """
    values = read_all(text, kind)
    if len(values) != 1:
        raise ValueError(f"{text!r} names {len(values)} values; give one")
    return values[0]


def read_all(text: str, kind: type) -> list[Any]:
    """The values of a list, "Heun, Euler, DPMSolverPP(order=3)".

    >>> from jaxdiff.types import Solver
    >>> [type(s).__name__ for s in read_all("Heun, UniPC(order=2)", Solver)]
    ['Heun', 'UniPC']
    """
    try:
        parsed = ast.parse(f"[{text}]", mode="eval").body
        if not isinstance(parsed, ast.List):
            raise SyntaxError("no list")
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"{text!r} is no list of {KINDS[kind]}: write names, with fields where they "
            "differ from the default, such as Heun or DPMSolverPP(order=3)"
        ) from error
    return [_value(node, kind) for node in parsed.elts]


def _value(node: ast.expr, kind: type) -> Any:
    """A value of this kind, which a name or a call stands for."""
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    name = getattr(call.func, "id", None)
    group = f"{KINDS[kind]}."
    inside = {
        c.__name__: n for n, c in TYPES.items() if n.startswith(group) and _is(c, kind)
    }
    if name not in inside:
        raise ValueError(f"{ast.unparse(node)!r} is none of {', '.join(sorted(inside))}")
    return from_dict(_tree(call, inside[name]), inside[name].split(".")[1])


def _is(cls: type, protocol: type) -> bool:
    """Whether a class has all that the protocol asks for."""
    asked = {name for name in vars(protocol) if callable(getattr(protocol, name))}
    return all(hasattr(cls, n) for n in asked if not n.startswith("_") or n == "__call__")


def _tree(call: ast.Call, kind: str) -> dict[str, Any]:
    """The dictionary that `config.from_dict` reads."""
    fields = [f for f in TYPES[kind].__dataclass_fields__ if f not in ("parent", "name")]
    if len(call.args) > len(fields):
        raise ValueError(f"{ast.unparse(call)} has {len(call.args)} values; {kind} takes "
                         f"{len(fields)}: {', '.join(fields) or 'none'}")  # fmt: skip
    given = dict(zip(fields, call.args, strict=False))
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in given:
            raise ValueError(f"{ast.unparse(call)}: give each field once, by its name")
        given[keyword.arg] = keyword.value
    return {"type": kind, **{name: _argument(v) for name, v in given.items()}}


def _argument(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        return _tree(node, _kind(node))
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_argument(item) for item in node.elts)
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{ast.unparse(node)!r} is neither a value nor a type") from error


def _kind(call: ast.Call) -> str:
    name = getattr(call.func, "id", None)
    for kind in TYPES:
        if kind.split(".")[1] == name:
            return kind
    raise ValueError(f"{ast.unparse(call.func)!r} is no type that jaxdiff saves")
