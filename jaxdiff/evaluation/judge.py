"""Scores a run's images against its data, by features and by pixels."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt8

from jaxdiff.data import encoder_of, pictures, split_of
from jaxdiff.data.batches import Dataset, Images, fingerprint, take
from jaxdiff.evaluation.extractors.extractor import Extractor
from jaxdiff.evaluation.memorization import Copies, copies
from jaxdiff.evaluation.metrics import NEIGHBOURS, require_alike, score
from jaxdiff.evaluation.reference import ORIGIN, Observed, load, observe, save
from jaxdiff.runtime import processes
from jaxdiff.runtime.files import PathLike, Place, place
from jaxdiff.runtime.finite import require_finite
from jaxdiff.runtime.progress import Bar, bar
from jaxdiff.types import reprs

SCORE_ADVICE = "check the images, or take more of them"
MOST = 20_000
"""The largest number of training images in which nearest ones are searched."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A reference, and pixels of the training images and of held-out ones, if any.

    >>> from jaxdiff.evaluation import in_memory
    >>> from jaxdiff.evaluation.extractors.extractor import extractor
    >>> from jaxdiff.runtime.sharding import data_mesh
    >>> noise = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1)).astype(np.uint8)
    >>> extractors, mesh = (extractor("pixels8"),), data_mesh()
    >>> judge = Judge(extractors, observe(in_memory(noise), extractors, mesh), mesh)
    >>> metrics, _ = judge(in_memory(noise))  # against themselves
    >>> abs(round(metrics["fd_pixels8"], 6)), metrics["recall_pixels8"]
    (0.0, 1.0)
    """

    __repr__ = reprs.fields

    extractors: tuple[Extractor, ...]
    reference: Observed
    mesh: Mesh
    train: UInt8[np.ndarray, "N H W C"] | None = None
    holdout: UInt8[np.ndarray, "M H W C"] | None = None
    batch: int = 256
    progress: bool = False
    """Whether to show progress bars."""

    def __call__(self, images: Images) -> tuple[dict[str, float], Copies | None]:
        """The metrics of images, and the training images nearest to them.

        Raises:
            ValueError: images of another size than the reference's, or too few.
        """
        self.check(take(images, np.arange(1))["image"].shape[1:], len(images))
        how = {"batch": self.batch, "progress": self.progress}
        seen = observe(images, self.extractors, self.mesh, **how)
        metrics = score(real=self.reference, fake=seen)
        values = np.array([*metrics.values()])
        require_finite(values, "metrics", [*metrics], unit="metric", advice=SCORE_ADVICE)
        if self.train is None:
            return metrics, None
        near = copies(everything(images), self.train, self.holdout)
        if self.holdout is not None:
            metrics["copied"] = near.copied
        return metrics, near

    def check(self, shape: tuple[int, ...], count: int) -> None:
        """Checks that images can be scored, before any is drawn or read.

        Raises:
            ValueError: images of another size than the reference's, too few, or a
                reference that was made another way.
        """
        if count <= NEIGHBOURS:
            raise ValueError(
                f"a block of {count} images is too small for metrics of "
                f"{NEIGHBOURS} neighbours: take {NEIGHBOURS + 1} or more"
            )
        ours, theirs = tuple(shape), self.reference.shape
        if theirs and ours[:2] != theirs[:2]:
            raise ValueError(
                f"the images are {ours}, the reference's {theirs}: make both of one size, "
                "as resizing changes every metric; --size does so for --images"
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
    """The judge of images of these data; their features are kept in `cache`.

    Held-out images are those of the data's split "test", where they have splits.

    Raises:
        ValueError: the data are latents without their VAE.

    >>> from tempfile import TemporaryDirectory
    >>> from jaxdiff.data import Digits
    >>> from jaxdiff.evaluation.extractors.extractor import extractor
    >>> from jaxdiff.runtime.sharding import data_mesh
    >>> with TemporaryDirectory() as folder:
    ...     judge = judge_of(Digits(), [extractor("pixels8")], data_mesh(), folder)
    >>> judge.reference.count, len(judge.train), len(judge.holdout)
    (1497, 1497, 300)
    """
    require_pixels(data)
    dataset, other = pictures(data, mesh), split_of(data)
    reference = _kept(data, dataset, extractors, mesh, cache, batch, progress)
    train = everything(dataset.source, MOST, progress=progress)
    holdout = None
    if other != data:
        holdout = everything(pictures(other, mesh).source, MOST, progress=progress)
    return Judge(tuple(extractors), reference, mesh, train, holdout, batch, progress)


def require_pixels(data: Any) -> None:
    """Checks that data are pixels, which extractors need.

    Raises:
        ValueError: the data are latents without their VAE; says what to do.

    >>> from jaxdiff.data import Digits, Latents
    >>> require_pixels(Digits())
    >>> require_pixels(Latents("latents.npz"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: metrics need pixels, but ... has latents: decode them by setting ...
    """
    if encoder_of(data).image_shape(data.shape) is None:
        raise ValueError(
            f"metrics need pixels, but {data} has latents: decode them by setting "
            "data.encoder.vae, or --vae, to the folder of their VAE"
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
    """The features of a data set, from the cache if it has them."""
    key = [str(data), fingerprint(dataset.source)]
    key += [[getattr(e, field) for field in ORIGIN] for e in extractors]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    path = place(cache) / f"reference-{name}.npz"
    if processes.from_first(processes.first() and _loads(path)):
        return load(path)
    how = {"source": str(data), "batch": batch, "progress": progress}
    observed = observe(dataset.source, extractors, mesh, **how)
    if processes.first():
        save(path, observed)
    return observed


def _loads(path: Place) -> bool:
    try:
        return bool(load(path))
    except (FileNotFoundError, ValueError):
        return False


@dataclass(frozen=True)
class SampleBlock:
    """`count` images of a source, from number `first` on.

    >>> from jaxdiff.evaluation.sample_cache import in_memory
    >>> len(SampleBlock(in_memory(np.zeros((5, 8, 8, 1), np.uint8)), first=2, count=3))
    3
    """

    source: Images
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self.first + index]

    def take(self, indices: Int[np.ndarray, " B"]) -> dict[str, np.ndarray]:
        """The images [B, H, W, C] and labels [B] of these numbers."""
        return take(self.source, self.first + indices)


def blocks(source: Images, count: int) -> Iterator[SampleBlock]:
    """Equal blocks of at least two images each, one after the other; what is over is left.

    >>> from jaxdiff.evaluation.sample_cache import in_memory
    >>> [b.first for b in blocks(in_memory(np.zeros((7, 8, 8, 1), np.uint8)), 3)]
    [0, 2, 4]
    """
    size = len(source) // count
    return (SampleBlock(source, i * size, size) for i in range(count))


def everything(
    source: Images, most: int | None = None, *, progress: bool = False
) -> UInt8[np.ndarray, "N H W C"]:
    """All images of a source, or `most` of them, evenly spaced, in memory.

    >>> from jaxdiff.evaluation.sample_cache import in_memory
    >>> everything(in_memory(np.zeros((5, 8, 8, 1), np.uint8)), most=2).shape
    (2, 8, 8, 1)
    """
    count = len(source)
    numbers = np.arange(count)
    if most is not None and count > most:
        numbers = np.linspace(0, count - 1, most).astype(int)
    parts = np.array_split(numbers, -(-len(numbers) // 1024))
    with bar(total=len(numbers), unit="images", desc="reading", show=progress) as done:
        return np.concatenate([_read(source, part, done) for part in parts])


def _read(
    source: Images, numbers: Int[np.ndarray, " n"], done: Bar
) -> UInt8[np.ndarray, "n H W C"]:
    images = take(source, numbers)["image"]
    done.update(len(numbers))
    return images
