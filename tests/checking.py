"""beartype as jaxtyping's checker, which makes the checks of a signature just once.

A function inside of another one is decorated whenever the outer one runs, which takes
beartype 4 ms. What jaxtyping hands to it is a name and a signature without a body of its
own, so what it made for the same name and signature serves again.

jaxtyping also binds the arguments of every call to their names, which `inspect` does step
by step in Python: 10 % of the time of a command. A function with the same parameters does
it as calls do.
"""

import functools
import inspect
from collections.abc import Callable
from types import CodeType, SimpleNamespace
from typing import Any

from beartype import beartype
from jaxtyping import _decorator


class Named:
    """A default in the text of a signature."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"defaults[{self.name!r}]"


class Signature(inspect.Signature):
    """A signature that binds the arguments of a call, defaults included, quickly."""

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        try:
            arguments = self._named(*args, **kwargs)
        except TypeError:  # the call is wrong, and `inspect` says how
            return super().bind(*args, **kwargs)
        return SimpleNamespace(arguments=arguments, apply_defaults=lambda: None)

    @functools.cached_property
    def _named(self) -> Callable[..., dict[str, Any]]:
        """A function of these parameters that returns them by name."""
        empty, defaults, plain = inspect.Parameter.empty, {}, []
        for name, parameter in self.parameters.items():
            default = empty if parameter.default is empty else Named(name)
            defaults[name] = parameter.default
            plain.append(parameter.replace(annotation=empty, default=default))
        names = ", ".join(f"{name!r}: {name}" for name in self.parameters)
        taken = str(inspect.Signature(plain))[1:-1]
        return eval(_compiled(f"lambda {taken}: {{{names}}}"), {"defaults": defaults})


@functools.cache
def _compiled(text: str) -> CodeType:
    return compile(text, "<arguments>", "eval")


def _signature(function: Callable) -> Signature:
    found = inspect.signature(function)
    every = found.parameters.values()
    return Signature([*every], return_annotation=found.return_annotation)


_decorator.inspect = SimpleNamespace(**vars(inspect) | {"signature": _signature})

_made: dict[Any, Callable] = {}


def checked(function: Callable) -> Callable:
    """A function of jaxtyping's, with its arguments and result checked.

    The checks are made when it is first called: most processes call a part of what they
    import.
    """
    check: Callable | None = None

    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal check
        check = check or _checks(function)
        return check(*args, **kwargs)

    return call


def _checks(function: Callable) -> Callable:
    """The checks of a function, which those of one name and signature share.

    Where jaxtyping checks a result, it has checked the arguments just before, and knows
    their sizes: they are not checked again. Annotations are told apart by their text, since
    each `Float[Array, "B"]` is a class of its own. The values of defaults do not count:
    they are neither checked nor read.
    """
    if (returned := function.__annotations__.get("return", Any)) is not Any:
        function.__annotations__ = {"return": returned}
    signature = inspect.signature(function)
    parameters = tuple(
        (p.name, p.kind, repr(p.annotation), p.default is p.empty)
        for p in signature.parameters.values()
    )
    result = repr(signature.return_annotation)
    key = function.__module__, function.__qualname__, parameters, result
    if key not in _made:
        _made[key] = beartype(function)
    return _made[key]
