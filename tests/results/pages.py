"""The pages of docs/results and the JSON beside them, as these tests read them.

Tables are computed anew from the rows, without the code of the study that made them.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parents[2] / "docs" / "results"

Row = dict[str, Any]


@cache
def rows(name: str) -> list[Row]:
    return json.loads((RESULTS / f"{name}.json").read_text())


PAGES = {"debias_order": "debias"}
"""Of the rows that are on another page."""


def page(name: str) -> str:
    return (RESULTS / f"{PAGES.get(name, name)}.md").read_text()


def row(name: str, **key: object) -> Row:
    """The only row with these fields."""
    (only,) = _by(name, tuple(key))[tuple(key.values())]
    return only


@cache
def _by(name: str, fields: tuple[str, ...]) -> dict[tuple[Any, ...], list[Row]]:
    """The rows that have these fields, by their values."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for one in rows(name):
        if all(field in one for field in fields):
            found.setdefault(tuple(one[field] for field in fields), []).append(one)
    return found


def tables(name: str) -> list[list[list[str]]]:
    """A page's tables in their order: lines of cells, without bold, head and rule."""
    found: list[list[list[str]]] = [[]]
    for line in page(name).splitlines():
        if line.startswith("|"):
            cells = line.replace("**", "").strip()[1:-1].split("|")
            found[-1].append([cell.strip() for cell in cells])
        elif found[-1]:
            found.append([])
    return [table[2:] for table in found if table]


def over_seeds(values: Iterable[float], style: str) -> str:
    values = np.array(list(values))
    return style.format(values.mean(), values.std(ddof=1))


SEEDS = (0, 1, 2)


def cell(values: np.ndarray, style: str = "{:.2f} ± {:.2f}") -> str:
    return over_seeds(values, style).replace("-", "−")


def rounded(value: float, digits: int = 2) -> str:
    return f"{float(f'{value:.{digits}g}'):,.9g}"


DECIMAL = re.compile(r"\d+\.\d+")
