"""Metrics over what sampling leaves open: axes, their product, a book of rows, a verdict.

A point is a value on each axis, as text, the way a command line has it. Images of one seed
and label are drawn at every point, so that two points differ in each block b by

    d_b = better * (metric_b(best) - metric_b(other)),

in which most of what blocks have in common cancels. `other` differs significantly where
mean(d) > SURE * spread(d) over blocks. A best point inside of an axis is no more than the
noise of seeds unless both ends are significantly worse.
"""

import itertools
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Real

from jaxdiff.config import expressions
from jaxdiff.evaluation.metrics import BETTER
from jaxdiff.optim import ema_profiles
from jaxdiff.runtime import jsontext
from jaxdiff.sampling.guidance import Rule
from jaxdiff.types import Grid, Solver

Point = Mapping[str, str]
"""A value, as text, by the axis's name."""

GUIDANCES = ("guidance", "noise_guidance", "classifier_guidance")
NUMBERS = ("std", *GUIDANCES, "threshold", "steps")
"""Axes with an order, along which there can be a best value inside."""
INTERVALS = ("interval", "noise_interval", "classifier_interval")
EXPRESSIONS: Mapping[str, type] = {"solver": Solver, "grid": Grid, "rule": Rule}
AXES = (*NUMBERS, *INTERVALS, *EXPRESSIONS)

SURE = 2.0
"""Spreads of a difference over blocks above which it is no accident: with three blocks
one in 27 is larger if there is none, where blocks are normal."""


@dataclass(frozen=True)
class Axis:
    """A name of `AXES`, and values of it.

    Raises:
        ValueError: no such axis, no values, one twice, or one that it cannot take.

    >>> Axis("steps", ("4", "8")).numbers
    (4.0, 8.0)
    """

    name: str
    values: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.name not in AXES:
            raise ValueError(f"there is no axis {self.name!r}: give {', '.join(AXES)}")
        if not self.values:
            raise ValueError(f"{self.name} has no values: give some, {self.name}=…,…")
        values = [self._checked(value) for value in self.values]
        for i, value in enumerate(values):
            if value in values[:i]:
                raise ValueError(f"{self.name} has the value {self.values[i]} twice")

    @property
    def numbers(self) -> tuple[float, ...]:
        """The values, where they have an order; nothing where they have none."""
        return tuple(map(float, self.values)) if self.name in NUMBERS else ()

    def _checked(self, text: str) -> Any:
        """The value of a text."""
        if self.name in EXPRESSIONS:
            return expressions.parse(text, EXPRESSIONS[self.name])
        try:
            low, *high = map(float, text.split(":"))
        except ValueError:
            raise ValueError(f"{self.name} has the value {text!r}, not a number") from None
        if self.name in INTERVALS:
            if len(high) != 1 or not 0 <= low < high[0]:
                raise ValueError(
                    f"{self.name} has the value {text!r}: write LOW:HIGH with "
                    "0 <= LOW < HIGH, such as 0.3:5 or 0:inf"
                )
            return low, *high
        if high or not math.isfinite(low):
            raise ValueError(f"{self.name} has the value {text!r}, not a finite number")
        if self.name == "steps" and not (low >= 1 and low.is_integer()):
            raise ValueError(f"steps are 1, 2, …; got {text}")
        if self.name == "std":
            ema_profiles.std_to_exponent(low)
        return low


def axis(text: str) -> Axis:
    """The axis that "NAME=VALUE,VALUE,…" describes; commas within brackets are values'.

    >>> axis("solver=Heun, DPMSolverPP(order=3, eta=1.0)").values
    ('Heun', 'DPMSolverPP(order=3, eta=1.0)')
    """
    name, equals, values = text.partition("=")
    if not equals:
        raise ValueError(
            f"{text!r} is not an axis: write NAME=VALUE,VALUE, as std=0.05,0.1"
        )
    depth, parts = 0, [""]
    for letter in values:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return Axis(name.strip(), tuple(part.strip() for part in parts if part.strip()))


def points(axes: Sequence[Axis]) -> list[Point]:
    """The product of axes, the last one's values changing fastest.

    Raises:
        ValueError: an axis is given twice.
    """
    names = [one.name for one in axes]
    if len(set(names)) < len(names):
        raise ValueError(f"an axis is given twice: {', '.join(names)}; join their values")
    product = itertools.product(*(one.values for one in axes))
    return [dict(zip(names, values, strict=True)) for values in product]


@dataclass(frozen=True)
class Book:
    """Rows in a JSON Lines file, looked up by all settings that made them.

    A row is on disk once `write` returns. A line that a kill cut short is ignored.
    """

    path: Path

    def find(self, made_by: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row that was made by exactly this; the last of several."""
        key = _as_read(made_by)
        matching = (row for row in reversed(self._rows()) if row["made_by"] == key)
        return next(matching, None)

    def write(self, made_by: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Adds a row."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"made_by": made_by, **results}).encode() + b"\n"
        with self.path.open("ab") as file:
            torn = file.tell() > 0 and self.path.read_bytes()[-1:] != b"\n"
            file.write(b"\n" * torn + line)
            file.flush()
            os.fsync(file.fileno())

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        for line in self.path.read_bytes().splitlines() if self.path.exists() else ():
            try:
                row = jsontext.loads(line, "line")
            except ValueError:
                continue
            if "made_by" in row and _scored(row.get("blocks")):
                rows.append(row)
        return rows


def _scored(blocks: Any) -> bool:
    """Whether these are metrics of blocks: numbers by name, of the same names in each."""
    return (
        isinstance(blocks, list)
        and bool(blocks)
        and all(isinstance(block, dict) and block for block in blocks)
        and all(block.keys() == blocks[0].keys() for block in blocks)
        and all(type(v) in (int, float) for block in blocks for v in block.values())
        and all(math.isfinite(v) for block in blocks for v in block.values())
    )


def _as_read(value: Any) -> Any:
    """A value as it comes back from a file: tuples are lists."""
    return json.loads(json.dumps(value))


@dataclass(frozen=True)
class Verdict:
    """Where along an axis a metric is best, and whether both ends are worse."""

    best: float
    low: tuple[float, float]
    """Mean and spread over blocks of what the low end is worse by."""
    high: tuple[float, float]
    at: str
    """One of `PLACES`; "unknown" of one block, which has no spread."""


def verdict(
    numbers: Real[np.ndarray, " N"], values: Real[np.ndarray, "N blocks"], better: int
) -> Verdict:
    """Judges a metric's values at numbers, of each block; `better` is as `BETTER` has it.

    >>> verdict(np.array([1, 2, 4]), np.array([[5, 6], [1, 2], [4, 5]]), -1).at
    'inside'
    """
    order = np.argsort(numbers)
    gain = better * values[order]
    best = int(gain.mean(1).argmax())
    ends = [_worse(gain[best] - gain[end]) for end in (0, -1)]
    worse = tuple(mean > SURE * spread for mean, spread in ends)
    at = PLACES[worse] if gain.shape[1] > 1 else "unknown"
    return Verdict(float(numbers[order][best]), *ends, at)


PLACES = {
    (True, True): "inside",
    (False, True): "low end",
    (True, False): "high end",
    (False, False): "flat",
}
"""Where the best is, by which of the ends are significantly worse."""


def _worse(difference: Real[np.ndarray, " blocks"]) -> tuple[float, float]:
    spread = difference.std(ddof=1) if len(difference) > 1 else math.nan
    return float(difference.mean()), float(spread)


def better(metric: str) -> int:
    """Whether less (-1) or more (1) of a metric is better, or neither (0)."""
    return BETTER[metric.split("_")[0]]
