"""Images of noise, made on demand: to measure everything but reading.

The bytes of image i are the first words of the Philox counter generator under the key i,
so they cost no memory, and are the same everywhere and always. Label i is i mod classes.
"""

import dataclasses
import math
from typing import Annotated, Any

import numpy as np
from jaxtyping import Int

from jaxdiff.data.batches import Dataset
from jaxdiff.types import Source, implements
from jaxdiff.types.ranges import Classes, Size, Whole, checked


@implements(Source)
@dataclasses.dataclass(frozen=True)
@checked
class Synthetic:
    """Uniform noise of this shape, height, width and channels; labels 0 ... labels - 1.

    Raises:
        ValueError: a side or a count that is not positive, or a negative number of labels.

    >>> dataset = Synthetic((8, 8, 3), labels=4).load()
    >>> len(dataset), dataset.classes, dataset.source[6]["label"]
    (50000, ('0', '1', '2', '3'), np.int32(2))
    """

    shape: tuple[Size, Size, Size] = (32, 32, 3)
    labels: Classes = 10
    count: Annotated[int, Whole(1, 10**7)] = 50_000

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels, "0", "1" ...; () without labels."""
        return tuple(map(str, range(self.labels)))

    def load(self) -> Dataset:
        """Makes nothing yet."""
        return Dataset(Noise(self), self.classes)


@dataclasses.dataclass(frozen=True)
class Noise:
    """A source that makes images on demand."""

    settings: Synthetic

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.settings.shape

    def __len__(self) -> int:
        return self.settings.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no image {index} among {len(self)}")
        size = math.prod(self.settings.shape)
        words = np.random.Philox(key=index).random_raw(-(-size // 8))
        image = words.astype("<u8").view(np.uint8)[:size].reshape(self.settings.shape)
        label = index % self.settings.labels if self.settings.labels else -1
        return {"image": image, "label": np.int32(label)}

    def take(self, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """The images [B, H, W, C] and labels [B] of these numbers."""
        rows = [self[int(i)] for i in indices]
        image = np.stack([row["image"] for row in rows])
        return {"image": image, "label": np.array([row["label"] for row in rows])}
