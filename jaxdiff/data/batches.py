"""A data set, and the endless stream of shuffled batches that training reads.

Images are counted on and on: step s of a run with batch B reads the positions s B ...
(s + 1) B - 1, and where earlier batches were of another size it goes on after the last
position. Position i is image number `order(n, seed, i // n)[i % n]`, where n is the size of
the data set: every epoch shows every image once, in its own order. So what a step sees
is a function of (seed, B, s) and of the images before. It depends neither on when a
run was interrupted nor on how many processes share it: each reads the rows of the batch
that its devices hold.
"""

import dataclasses
import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, UInt8

from jaxdiff.types import reprs


@runtime_checkable
class Images(Protocol):
    """Images with random access, as grain defines it: what a `types.Source` loads.

    `images[i]` is {"image": [H, W, C] uint8, "label": int32}, -1 = no label, and may be
    called by several threads at once. Optional members, read where they are present:

        shape           height, width and channels of a stored image, or None
        label           [N] int, the labels of all images, known without reading these
        take(indices)   {"image": [B, H, W, C], "label": [B]}, faster than one by one
        stamp()         a text that changes with the images, known without reading these
        unreadable      the numbers of the images that could not be read so far
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """Images in memory.

    >>> source = Memory(np.zeros([5, 8, 8, 1], np.uint8), np.arange(5, dtype=np.int32))
    >>> len(source), source[3]["label"], source.take(np.array([4, 0]))["label"]
    (5, np.int32(3), array([4, 0], dtype=int32))
    """

    __repr__ = reprs.fields

    image: UInt8[np.ndarray, "N H W C"]
    label: Int32[np.ndarray, " N"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image."""
        return self.image.shape[1:]

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.image[index], "label": self.label[index]}

    def stamp(self) -> str:
        """A hash of all bytes."""
        return hashlib.sha256(np.ascontiguousarray(self.image)).hexdigest()

    def take(self, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """The images [B, H, W, C] and labels [B] of these numbers, copied."""
        return {"image": self.image[indices], "label": self.label[indices]}


class LeftOut(NamedTuple):
    """How many files are not used for one reason, and the path of one of them.

    >>> from jaxdiff.data.summary import left_out_lines
    >>> left_out_lines({"hidden files": LeftOut(2, "cat/.thumbs")})
    ["left out: hidden files (2, such as 'cat/.thumbs')"]
    """

    count: int
    example: str


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images, and the name of each label: label k is called `classes[k]`.

    >>> images = Memory(np.zeros((2, 8, 8, 1), np.uint8), np.array([0, 1], np.int32))
    >>> dataset = Dataset(images, classes=("cat", "dog"))
    >>> len(dataset), dataset.shape
    (2, (8, 8, 1))
    """

    __repr__ = reprs.fields

    source: Images
    classes: tuple[str, ...] = ()
    """Empty where there are no labels, so that every label is -1."""
    left_out: Mapping[str, LeftOut] = dataclasses.field(default_factory=dict)
    """Files that are not used, by reason, such as "hidden files"."""

    def __len__(self) -> int:
        return len(self.source)

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of a stored image.

        Of a source without `shape`, the first image is read.
        """
        shape = getattr(self.source, "shape", None)
        return tuple(np.shape(self.source[0]["image"]) if shape is None else shape)

    def take(self, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """The images [B, H, W, C] uint8 and labels [B] int32 of these numbers."""
        return take(self.source, indices)


def take(source: Images, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
    """{"image": [B, H, W, C] uint8, "label": [B] int32} of these numbers."""
    if hasattr(source, "take"):
        return source.take(indices)
    examples = [source[int(i)] for i in indices]
    return {
        "image": np.stack([example["image"] for example in examples]),
        "label": np.array([example["label"] for example in examples], np.int32),
    }


def fingerprint(source: Images) -> str:
    """A hash that changes with the images: of the source's `stamp`, or of 64 images.

    >>> images = np.zeros((3, 8, 8, 1), np.uint8)
    >>> one = fingerprint(Memory(images, np.zeros(3, np.int32)))
    >>> one == fingerprint(Memory(images + np.uint8(1), np.zeros(3, np.int32)))
    False
    """
    stamp = getattr(source, "stamp", None)
    if stamp is not None:
        content = stamp().encode()
    else:
        some = np.unique(np.linspace(0, len(source) - 1, 64).astype(int))
        content = take(source, some)["image"].tobytes()
    return hashlib.sha256(f"{len(source)} ".encode() + content).hexdigest()


def split_of(data: Any, split: str | None = None) -> Any:
    """The same data's split of that name: by default held-out images, where it has some.

    >>> from jaxdiff.data import Digits
    >>> split_of(Digits(split="train"))
    Digits(split='test')

    Raises:
        ValueError: a split is given, but the data have none.
    """
    if data.split:
        return dataclasses.replace(data, split=split or "test")
    if split:
        raise ValueError(
            f"--split: {type(data).__name__} has no splits; leave --split out to take all "
            "of it"
        )
    return data


@functools.lru_cache(maxsize=8)
def order(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    """The order in which an epoch shows n images: a permutation of 0 ... n - 1.

    It sorts the first n words of the Philox counter generator under the key (seed, epoch).
    Those words are the generator's definition, so no version of NumPy changes the order.

    >>> order(5, 0, 0), order(5, 0, 1)
    (array([0, 2, 1, 4, 3]), array([3, 2, 4, 1, 0]))
    """
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(n)
    permutation = np.argsort(words, kind="stable")
    permutation.flags.writeable = False  # the cache hands out the same array again
    return permutation


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """Batches with random access: `stream[s]` has these rows of the batch of step s."""

    source: Images
    batch_size: int
    seed: int
    rows: Int[np.ndarray, " b"]
    more_images: int = 0
    """Read before step s beyond s batch_size, where earlier batches had another size."""

    def __len__(self) -> int:
        return (sys.maxsize - max(self.more_images, 0)) // self.batch_size

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return take(self.source, self.indices(step))

    def indices(self, step: int) -> Int[np.ndarray, " b"]:
        """The numbers of the images in these rows of a step's batch."""
        n = len(self.source)
        first = step * self.batch_size + self.more_images
        epochs, positions = np.divmod(first + self.rows, n)
        numbers = np.empty_like(positions)
        for epoch in np.unique(epochs):
            now = epochs == epoch
            numbers[now] = order(n, self.seed, int(epoch))[positions[now]]
        return numbers


def batches(
    dataset: Dataset,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    rows: Int[np.ndarray, " b"] | None = None,
    more_images: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """The endless batches of a run, from `start_step` on, as a grain `DatasetIterator`.

    Each is {"image": [b, H, W, C] uint8, "label": [b] int32}, of the `rows` of the batch
    that this process holds (`sharding.rows`), by default of all `batch_size`. The
    iterator's state is {"next_index": step}, the number of the next step, so `set_state`
    and `start_step` do the same, whatever processes wrote the state. A source without
    `take` is read ahead by threads. Where batches before `start_step` were of another size,
    `more_images` is how many more images they held than as many of this size.

    >>> from jaxdiff.data import Digits
    >>> batch = next(batches(Digits().load(), batch_size=4, seed=0))
    >>> batch["image"].shape, batch["label"].shape
    ((4, 8, 8, 1), (4,))

    Raises:
        ValueError: an empty data set; a batch size that is not positive; a negative seed
            or start_step; `more_images` that puts the first image before the first.
    """
    import grain

    if len(dataset.source) == 0:
        raise ValueError("the data set has no images, so there is nothing to train on")
    if batch_size < 1:
        raise ValueError(f"batch_size must be positive, got {batch_size}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed must be in 0 ... 2^64 - 1, got {seed}")
    if start_step < 0:
        raise ValueError(f"start_step must not be negative, got {start_step}")
    if start_step * batch_size + more_images < 0:
        raise ValueError(f"more_images must not be below 0 images, got {more_images}")
    rows = np.arange(batch_size) if rows is None else rows
    stream = Stream(dataset.source, batch_size, seed, rows, more_images)
    threads = 0 if hasattr(dataset.source, "take") else 8
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    iterator = iter(grain.MapDataset.source(stream).to_iter_dataset(ahead))
    iterator.set_state({"next_index": start_step})
    return iterator
