"""beartype as jaxtyping's checker, which makes the checks of a signature just once.

A function inside of another one is decorated whenever the outer one runs, which takes
beartype 4 ms. What jaxtyping hands to it is a name and a signature without a body of its
own, so what it made for the same name and signature serves again.
"""

import inspect
from collections.abc import Callable
from typing import Any

from beartype import beartype

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
