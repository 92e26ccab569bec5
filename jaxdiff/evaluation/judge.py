"""What a run's images are held against: its data, seen by extractors, and their pixels."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from jaxdiff.data import Pixels, encoder_of, split_of
from jaxdiff.data.batches import Dataset, Source, fingerprint, take
from jaxdiff.evaluation.extractors.extractor import Extractor
from jaxdiff.evaluation.memorization import Copies, copies
from jaxdiff.evaluation.metrics import NEIGHBOURS, require_alike, score
from jaxdiff.evaluation.reference import ORIGIN, Observed, load, observe, save
from jaxdiff.runtime.files import PathLike, place
from jaxdiff.runtime.finite import require_finite
from jaxdiff.runtime.progress import Bar, bar
from jaxdiff.types import reprs

SCORE_ADVICE = "look at the images, or take more of them"
MOST = 20_000
"""Training images among which the nearest is looked for."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A reference, and pixels of the training images and of held-out ones, if any."""

    __repr__ = reprs.fields

    extractors: tuple[Extractor, ...]
    reference: Observed
    mesh: Mesh
    train: UInt8[np.ndarray, "N H W C"] | None = None
    holdout: UInt8[np.ndarray, "M H W C"] | None = None
    batch: int = 256
    progress: bool = False
    """Whether to say how far looking at images is."""

    def __call__(self, images: Source) -> tuple[dict[str, float], Copies | None]:
        """The metrics of images, and which training images are near them.

        Raises:
            ValueError: images of another size than the reference's, or too few.
        """
        self.check(take(images, np.arange(1))["image"].shape[1:], len(images))
        how = {"batch": self.batch, "progress": self.progress}
        seen = observe(images, self.extractors, self.mesh, **how)
        found = score(real=self.reference, fake=seen)
        values = np.array([*found.values()])
        require_finite(values, "metrics", [*found], unit="metric", advice=SCORE_ADVICE)
        if self.train is None:
            return found, None
        near = copies(everything(images), self.train, self.holdout)
        if self.holdout is not None:
            found["copied"] = near.copied
        return found, near

    def check(self, shape: tuple[int, ...], count: int) -> None:
        """Refuses images that cannot be scored, before any is drawn or looked at.

        Raises:
            ValueError: images of another size than the reference's, too few, or a
                reference that was made another way.
        """
        if count <= NEIGHBOURS:
            raise ValueError(
                f"a block of {count} images is too small for metrics that look at "
                f"{NEIGHBOURS} neighbours of each: take {NEIGHBOURS + 1} or more"
            )
        ours, theirs = tuple(shape), self.reference.shape
        if theirs and ours[:2] != theirs[:2]:
            raise ValueError(
                f"the images are {ours}, the reference's {theirs}: make both of one size, "
                "as resizing changes every metric; --images can be made so by --size"
            )
        require_alike(self.reference, self.extractors)


def judge_of(
    data: Any,
    extractors: Sequence[Extractor],
    mesh: Mesh,
    cache: PathLike,
    *,
    batch: int = 256,
    progress: bool = False,
) -> Judge:
    """The judge of images of these data; what extractors see of them is kept in `cache`.

    Held-out images are those of the data's own split "test", where they have splits.

    Raises:
        ValueError: the data are no pixels.
    """
    require_pixels(data)
    dataset, other = data.load(), split_of(data)
    reference = _kept(data, dataset, extractors, mesh, cache, batch, progress)
    train = everything(dataset.source, MOST, progress=progress)
    holdout = None
    if other != data:
        holdout = everything(other.load().source, MOST, progress=progress)
    return Judge(tuple(extractors), reference, mesh, train, holdout, batch, progress)


def require_pixels(data: Any) -> None:
    """Refuses data of which extractors can see nothing.

    Raises:
        ValueError: the data are latents; says what to do with them.
    """
    if encoder_of(data) != Pixels():
        raise ValueError(
            f"metrics are of pixels, and {data} has latents: decode them to a folder of "
            "images, and score that with --images and --reference"
        )


def _kept(
    data: Any,
    dataset: Dataset,
    extractors: Sequence[Extractor],
    mesh: Mesh,
    cache: PathLike,
    batch: int,
    progress: bool,
) -> Observed:
    """What the extractors see of a data set, from a file if it was looked at before."""
    said = [str(data), fingerprint(dataset.source)]
    said += [[getattr(e, key) for key in ORIGIN] for e in extractors]
    name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]
    path = place(cache) / f"reference-{name}.npz"
    try:
        return load(path)
    except (FileNotFoundError, ValueError):
        given = {"source": str(data), "batch": batch, "progress": progress}
        observed = observe(dataset.source, extractors, mesh, **given)
        save(path, observed)
        return observed


@dataclass(frozen=True)
class Block:
    """`count` images of a source, from number `first` on."""

    source: Source
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self.first + index]

    def take(self, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """The images [B, H, W, C] and labels [B] of these numbers."""
        return take(self.source, self.first + indices)


def blocks(source: Source, count: int) -> Iterator[Block]:
    """Equal blocks of at least two images each, one after the other; what is over is left.

    >>> from jaxdiff.evaluation.sample_cache import in_memory
    >>> [b.first for b in blocks(in_memory(np.zeros((7, 8, 8, 1), np.uint8)), 3)]
    [0, 2, 4]
    """
    size = len(source) // count
    return (Block(source, i * size, size) for i in range(count))


def everything(
    source: Source, most: int | None = None, *, progress: bool = False
) -> UInt8[np.ndarray, "N H W C"]:
    """All images of a source, or `most` of them, evenly spaced, in memory."""
    count = len(source)
    numbers = np.arange(count)
    if most is not None and count > most:
        numbers = np.linspace(0, count - 1, most).astype(int)
    parts = np.array_split(numbers, -(-len(numbers) // 1024))
    with bar(total=len(numbers), unit="images", desc="reading", show=progress) as done:
        return np.concatenate([_read(source, part, done) for part in parts])


def _read(
    source: Source, numbers: Int[np.ndarray, " n"], done: Bar
) -> UInt8[np.ndarray, "n H W C"]:
    images = take(source, numbers)["image"]
    done.update(len(numbers))
    return images
