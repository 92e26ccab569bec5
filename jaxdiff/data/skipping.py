"""What to do with images that cannot be read: stop, or go on without them.

    stop   the error, which names the file
    skip   image i is the first one that can be read of i, i + 1, ..., counted round

So what a step sees is still a function of the data, the seed and the step alone.
"""

import dataclasses
import warnings
from typing import Any

from jaxdiff.data.batches import Dataset, Images, fingerprint
from jaxdiff.data.formats import image_files

ON_ERROR = ("stop", "skip")


@dataclasses.dataclass(frozen=True, eq=False)
class Skipping:
    """Images, with the next readable one in the place of each that cannot be read."""

    of: Images
    unreadable: set[int] = dataclasses.field(default_factory=set)

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Height, width and channels of an image, where `of` has it."""
        return getattr(self.of, "shape", None)

    def stamp(self) -> str:
        """The fingerprint of `of`."""
        return fingerprint(self.of)

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for number in (*range(index, len(self)), *range(index)):
            if number in self.unreadable:
                continue
            try:
                return self.of[number]
            except ValueError as error:
                self.unreadable.add(number)
                warnings.warn(f"skipped: {error}", stacklevel=2)
        raise ValueError(f"none of the {len(self)} images can be read")


def skipping(source: Images, on_error: str) -> Images:
    """The source, or one that skips what it cannot read.

    Raises:
        ValueError: $JAXDIFF_MAX_PIXELS is not a number; every image would be skipped.
    """
    image_files.most_pixels()
    return Skipping(source) if on_error == "skip" else source


def skipped(dataset: Dataset) -> int:
    """How many images were found unreadable and skipped so far.

    >>> from jaxdiff.data import Digits
    >>> skipped(Digits().load())
    0
    """
    return len(getattr(dataset.source, "unreadable", ()))
