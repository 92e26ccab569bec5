"""Handwritten digits: 1,797 grey images of 8x8, which come with scikit-learn.

They are the optical recognition of handwritten digits data set of the UCI repository
(E. Alpaydin and C. Kaynak, CC BY 4.0). Small enough to learn in minutes on a CPU.
"""

import dataclasses
from importlib import metadata
from typing import Annotated

import numpy as np

from jaxdiff.data.batches import Dataset, Memory
from jaxdiff.types import Source, implements
from jaxdiff.types.ranges import Choice, checked

SPLITS = ("train", "test", "all")
FILE = "sklearn/datasets/data/digits.csv.gz"


@implements(Source)
@dataclasses.dataclass(frozen=True)
@checked
class Digits:
    """The digits 0 ... 9, [8, 8, 1]; 1,497 images to train on and 300 to test.

    The test images are the first 30 of each class when all images are sorted by the words
    of the Philox generator with key 0. A pixel is round(255 v / 16), where v = 0 ... 16
    is the ink.

    Raises:
        ValueError: a split other than "train", "test" and "all".

    >>> Digits().shape, len(Digits("test").load())
    ((8, 8, 1), 300)
    """

    split: Annotated[str, Choice(*SPLITS)] = "train"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (8, 8, 1)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels, "0" ... "9"."""
        return tuple("0123456789")

    def load(self) -> Dataset:
        """Reads the images into memory."""
        # scikit-learn's reader of this file takes seconds to import
        file = metadata.distribution("scikit-learn").locate_file(FILE)
        rows = np.loadtxt(str(file), delimiter=",")  # 64 pixels and the digit
        image = np.round(rows[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        label = rows[:, -1].astype(np.int32)
        shuffled = np.argsort(np.random.Philox(key=0).random_raw(len(image)))
        of_class = [shuffled[label[shuffled] == k] for k in range(10)]
        is_test = np.isin(np.arange(len(image)), [numbers[:30] for numbers in of_class])
        kept = {"train": ~is_test, "test": is_test, "all": is_test | True}[self.split]
        return Dataset(Memory(image[kept], label[kept]), self.classes)
