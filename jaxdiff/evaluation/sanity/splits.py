"""Splits: images dealt to four quarters, no two of which share a family.

Two quarters are the real images, and the others are scored against them; or one of those is
scored and the last is held out, so that copies of the real images can be detected.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from jaxdiff.evaluation.sanity.corruptions import Seed

Numbers = Int[np.ndarray, "..."]
"""Of images, or of their classes."""


@dataclass(frozen=True, eq=False)
class Split:
    """Four quarters, by the numbers of their images, in random order."""

    quarters: tuple[Numbers, ...]

    @property
    def real(self) -> Numbers:
        """The reference, and what traps know."""
        return np.concatenate(self.quarters[:2])

    @property
    def other(self) -> Numbers:
        """Half of the images too."""
        return np.concatenate(self.quarters[2:])

    @property
    def turns(self) -> list["Split"]:
        """The same, every quarter in every place."""
        return [Split(self.quarters[i:] + self.quarters[:i]) for i in range(4)]


def deal(family: Shaped[np.ndarray, " N"], seed: Seed) -> Split:
    """Quarters as long as the shortest of `dealt`."""
    parts = dealt(family, 4, seed)
    least = min(len(part) for part in parts)
    return Split(tuple(part[:least] for part in parts))


def dealt(
    family: Shaped[np.ndarray, " N"], parts: int, seed: Seed = 0
) -> list[Int[np.ndarray, "..."]]:
    """Random parts of nearly one size, no family in two of them, in random order.

    >>> sorted(len(part) for part in dealt(np.array([7, 7, 1, 2, 3]), 2))
    [2, 3]
    """
    rng = np.random.default_rng(seed)
    names, which, sizes = np.unique(family, return_inverse=True, return_counts=True)
    order = rng.permutation(len(names))
    before = np.empty(len(names))
    before[order] = np.cumsum(sizes[order]) - sizes[order]
    part = (parts * before[which] / len(which)).astype(int)
    return [rng.permutation(np.flatnonzero(part == i)) for i in range(parts)]


def kept(numbers: Numbers, label: Numbers, dropped: Sequence[int] | Numbers) -> Numbers:
    """Of these images, those whose class is not among the dropped.

    >>> kept(np.array([3, 1, 0]), np.array([2, 0, 1, 0]), [0]).tolist()
    [0]
    """
    return numbers[~np.isin(label[numbers], dropped)]
