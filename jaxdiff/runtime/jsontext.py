"""Reads untrusted JSON, which may be edited or damaged, with checks of types and bounds.

>>> row = loads('{"step": 5, "loss": -1}', "line 1")
>>> fields(row, "line 1", step=Step)
[5]
>>> fields(row, "line 1", loss=Step)
Traceback (most recent call last):
    ...
ValueError: line 1: loss must be a whole number from 0 to 1,000,000,000, got -1
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

from jaxdiff.types.ranges import Whole, check, quote

DEEPEST = 100
"""Maximal nesting depth of lists and objects."""
LARGEST = 2**26
"""Maximal bytes of a document."""
PARTS = 2**22
"""Maximal number of lists, objects (each counts as four) and commas in a document: its
values can take a hundred times the memory of their text."""

Step = Annotated[int, Whole(0, 10**9)]
"""Steps of training."""


def loads(
    text: str | bytes,
    where: str,
    kind: type = dict,
    *,
    largest: int = LARGEST,
    parts: int = PARTS,
) -> Any:
    """The value of a JSON text, an object unless `kind` says otherwise.

    `where` names the text, such as by its file, at the start of every message. `largest`
    and `parts` bound its bytes and its parts, see `PARTS`.

    Raises:
        ValueError: not valid JSON, another type, a duplicate name, or a bound exceeded.
    """
    if len(text) > largest:
        raise ValueError(f"{where} has {len(text):,} bytes of JSON, over {largest:,}")
    marks = ("[", ",", "{") if isinstance(text, str) else (b"[", b",", b"{")
    lists, commas, objects_ = map(text.count, marks)
    if (count := lists + commas + 4 * objects_) > parts:
        raise ValueError(f"{where} has {count:,} lists and elements, over {parts:,}")
    try:
        value = json.loads(text, parse_int=_whole, object_pairs_hook=_once)
    except RecursionError:
        raise ValueError(f"{where} is nested more than {DEEPEST} deep") from None
    except ValueError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from error
    if _depth(value) > DEEPEST:
        raise ValueError(f"{where} is nested more than {DEEPEST} deep")
    if not isinstance(value, kind):
        raise ValueError(f"{where} must hold {KINDS[kind]}, got {quote(value)}")
    return value


KINDS = {dict: "a JSON object", list: "a JSON list"}


def fields(row: dict[str, Any], where: str, **hints: Any) -> list[Any]:
    """The values of an object's fields, checked against annotations (see `ranges`).

    Raises:
        ValueError: a field is missing, or does not fit.
    """
    for name, hint in hints.items():
        if name not in row:
            raise ValueError(f"{where} has no {name!r}")
        check(f"{where}: {name}", row[name], hint)
    return [row[name] for name in hints]


def objects(lines: Iterable[str | bytes]) -> Iterator[dict[str, Any]]:
    """The objects of a file with one per line, such as metrics.jsonl.

    Other lines are skipped: a kill may have truncated one.
    """
    for line in lines:
        with contextlib.suppress(ValueError):
            yield loads(line, "line")


def _whole(text: str) -> int:
    if len(text) > 300:  # larger than any float
        raise ValueError(f"a number of {len(text):,} digits")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"it has {quote(twice)} twice")
    return value


def _depth(value: Any) -> int:
    """Levels of lists and objects, counted without recursion."""
    depth, level = 0, [value]
    while level and depth <= DEEPEST:
        level = [
            part
            for v in level
            if isinstance(v, dict | list)
            for part in (v.values() if isinstance(v, dict) else v)
        ]
        depth += 1
    return depth
