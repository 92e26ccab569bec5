"""What a mistyped name may have meant, for the error about it.

It needs only Python's standard library, as the names of commands are checked before jax is
imported.
"""

import difflib
from collections.abc import Iterable

ALIKE = 0.6
"""Least similarity, from 0 to 1, of a name that is suggested."""
MOST = 3
"""Most names that are suggested."""


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """The known names most like this one, the most likely first; [] if none is.

    Of a dotted name, such as a config's field, the last part decides: people know the
    field and forget where it is.

    >>> fields = ["config.steps", "config.seed", "config.sampling.steps", "workdir"]
    >>> nearest("stpes", fields)
    ['config.steps', 'config.sampling.steps']
    >>> nearest("config.sampling.seed", fields), nearest("banana", fields)
    (['config.seed'], [])
    """
    ranks = {
        other: (_alike(_last(name), _last(other)), _alike(name, other)) for other in known
    }
    best = max((last for last, _ in ranks.values()), default=0.0)
    near = [other for other, (last, _) in ranks.items() if last == best >= ALIKE]
    return sorted(near, key=ranks.__getitem__, reverse=True)[:MOST]


def did_you_mean(names: Iterable[str]) -> str:
    """The question about such names, to stand behind the wrong one; "" if there are none.

    >>> did_you_mean(["--steps", "--config.steps"])
    ' (did you mean --steps or --config.steps?)'
    """
    text = " or ".join(names)
    return f" (did you mean {text}?)" if text else ""


def _last(name: str) -> str:
    return name.rpartition(".")[2].replace("-", "_")


def _alike(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()
