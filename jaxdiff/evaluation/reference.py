"""What extractors see of a set of images: features, or their moments alone; and its file.

A file says which extractor, which weights and which preparation of images it is of, and
what images they were, so that numbers of different protocols are never compared.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from jaxdiff.data.batches import Images, take
from jaxdiff.evaluation.distances import Gaussian, Moments, Sums, softmax, sums
from jaxdiff.evaluation.extractors.extractor import NETWORKS, Extractor
from jaxdiff.interop import fid_statistics, npz
from jaxdiff.runtime import jsontext, processes, sharding
from jaxdiff.runtime.equal_batches import Batch, equal_batches
from jaxdiff.runtime.files import PathLike, place, write_atomically
from jaxdiff.runtime.finite import require_finite
from jaxdiff.runtime.progress import bar
from jaxdiff.types import reprs
from jaxdiff.types.ranges import Size, Whole, check, quote

TEXTS = ("name", "preprocessing", "sha256")
Dims = Annotated[int, Whole(1, 2**20)]
Count = Annotated[int, Whole(2, 10**9)]
VERSION = 1
"""The version of the file's layout."""
ORIGIN = (*TEXTS, "dims")
"""What of an extractor has to agree for its features to compare."""


@dataclass(frozen=True, eq=False)
class Seen:
    """The outputs of one extractor for a set of images.

    >>> from jaxdiff.evaluation.extractors.extractor import extractor
    >>> seen = lambda points: Seen(extractor("pixels8"), Moments.of(points))
    >>> black, white = seen(np.full((3, 192), -1.0)), seen(np.full((3, 192), 1.0))
    >>> black.gaussian.frechet(white.gaussian)  # 192 * 2^2
    768.0
    """

    __repr__ = reprs.fields

    extractor: Extractor
    """Without variables where it was read from a file."""
    moments: Moments
    features: Float[np.ndarray, "N D"] | None = None
    """float32; None where the moments alone were kept."""
    probabilities: Float[np.ndarray, "N K"] | None = None
    """Of classes, which the inception score reads; None of an extractor without."""

    @property
    def gaussian(self) -> Gaussian:
        """With these moments, from the features where there are some."""
        if self.features is not None:
            return Gaussian.of(self.features)
        return Gaussian.of_moments(self.moments.mean, self.moments.covariance)


@dataclass(frozen=True, eq=False)
class Observed:
    """The outputs of extractors, by name, for `count` images, which `source` describes.

    >>> from jaxdiff.evaluation.extractors.extractor import extractor
    >>> points = np.zeros((3, 192), np.float32)
    >>> seen = Seen(extractor("pixels8"), Moments.of(points), points)
    >>> Observed("three black images", (8, 8, 3), {"pixels8": seen}).count
    3
    """

    __repr__ = reprs.fields

    source: str
    shape: tuple[int, int, int] | None
    """Height, width and channels; None where a published file does not say."""
    seen: Mapping[str, Seen]

    @property
    def count(self) -> int:
        """How many images."""
        return next(iter(self.seen.values())).moments.count


def observe(
    images: Images,
    extractors: Sequence[Extractor],
    mesh: Mesh,
    *,
    source: str = "",
    batch: int = 256,
    keep: bool = True,
    progress: bool = False,
) -> Observed:
    """The outputs of the extractors for all images, `batch` at a time over the mesh.

    Batches are padded with images of weight 0: neither the batch nor the
    devices change a number beyond rounding. Without `keep` no feature outlives its batch,
    so that memory holds moments alone.

    Raises:
        ValueError: fewer than two images, or images of different sizes.

    >>> from jaxdiff.data import Memory
    >>> from jaxdiff.evaluation.extractors.extractor import extractor
    >>> white = Memory(np.full((4, 8, 8, 1), 255, np.uint8), np.zeros(4, np.int32))
    >>> seen = observe(white, [extractor("pixels8")], sharding.data_mesh()).seen["pixels8"]
    >>> seen.features.shape, seen.moments.mean[0], seen.moments.covariance[0, 0]
    ((4, 192), np.float64(1.0), np.float64(0.0))
    """
    count = len(images)
    if count < 2:
        raise ValueError(f"metrics compare sets of images, at least 2, got {count}")
    each = [_Watcher(extractor, keep, mesh) for extractor in extractors]
    with bar(total=count, unit="images", desc="looking", show=progress) as done:
        for part in equal_batches(count, batch, mesh):
            some = take(images, part.numbers)["image"]
            placed = part.put((some, part.real))
            for watcher in each:
                watcher(part, *placed)
            done.update(part.count)
    seen = {watcher.extractor.name: watcher.seen() for watcher in each}
    return Observed(source, some.shape[1:], seen)


class _Watcher:
    """One extractor, and what it has seen so far."""

    def __init__(self, extractor: Extractor, keep: bool, mesh: Mesh) -> None:
        self.extractor, self.keep = extractor, keep
        self.variables = jax.device_put(extractor.variables, sharding.replicated(mesh))
        self.look = partial(_look, extractor)
        self.shift: np.ndarray | None = None
        self.moments: Moments | None = None
        self.features: list[np.ndarray] = []
        self.logits: list[np.ndarray] = []

    def __call__(self, part: Batch, images: Array, real: Bool[Array, " B"]) -> None:
        outputs = self.look(self.variables, images)
        if outputs.logits is not None:
            self.logits.append(self._on_host(part, outputs.logits))
        if self.keep:
            self.features.append(self._on_host(part, outputs.pooled))
            return
        if self.shift is None:
            self.shift = self._on_host(part, outputs.pooled).mean(0)
        left: Sums = processes.on_host(_sums(outputs.pooled, real, self.shift))
        new = Moments.of_sums(left, self.shift)
        self.moments = new if self.moments is None else self.moments + new

    def _on_host(self, part: Batch, rows: Float[Array, "B D"]) -> Float[np.ndarray, "n D"]:
        """The rows of the images of a batch."""
        values = part.fetch(rows)
        what = f"features of {self.extractor.name}"
        require_finite(values, what, part.items, unit="image", advice=ADVICE)
        return values

    def seen(self) -> Seen:
        features = np.concatenate(self.features) if self.keep else None
        moments = Moments.of(features) if self.keep else self.moments
        words = None
        if self.logits:
            words = softmax(np.concatenate(self.logits)).astype(np.float32)
        return Seen(self.extractor, moments, features, words)


ADVICE = "the extractor's weights are damaged: convert them again"

_sums, _look = jax.jit(sums), jax.jit(Extractor.apply, static_argnums=0)


def save(path: PathLike, observed: Observed) -> None:
    """Writes an NPZ, whole or not at all; nothing in it is pickled.

    >>> from tempfile import TemporaryDirectory
    >>> from jaxdiff.evaluation.extractors.extractor import extractor
    >>> points = np.zeros((3, 192), np.float32)
    >>> seen = {"pixels8": Seen(extractor("pixels8"), Moments.of(points), points)}
    >>> with TemporaryDirectory() as folder:
    ...     save(f"{folder}/black.npz", Observed("three black images", (8, 8, 3), seen))
    ...     sorted(np.load(f"{folder}/black.npz"))[-2:]  # arrays, by extractor
    ['pixels8/mean', 'pixels8/scatter']
    """
    meta = {
        "jaxdiff_observed": VERSION,
        "source": observed.source,
        "shape": observed.shape,
        "extractors": {
            name: {key: getattr(seen.extractor, key) for key in ORIGIN}
            for name, seen in observed.seen.items()
        },
    }
    arrays: dict[str, Any] = {"meta": np.array(json.dumps(meta))}
    for name, seen in observed.seen.items():
        arrays[f"{name}/count"] = np.array(seen.moments.count)
        arrays[f"{name}/mean"] = seen.moments.mean
        arrays[f"{name}/scatter"] = seen.moments.scatter
        if seen.features is not None:
            arrays[f"{name}/features"] = seen.features
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load(path: PathLike) -> Observed:
    """What `save` wrote.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file of something else, or a damaged one.

    >>> from tempfile import TemporaryDirectory
    >>> from jaxdiff.evaluation.extractors.extractor import extractor
    >>> points = np.zeros((3, 192), np.float32)
    >>> seen = {"pixels8": Seen(extractor("pixels8"), Moments.of(points), points)}
    >>> with TemporaryDirectory() as folder:
    ...     save(f"{folder}/black.npz", Observed("three black images", (8, 8, 3), seen))
    ...     black = load(f"{folder}/black.npz")
    >>> black.source, black.count, black.seen["pixels8"].features.shape
    ('three black images', 3, (3, 192))
    """
    path = place(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: jaxdiff reference makes one")
    try:
        meta = jsontext.loads(str(npz.load(path, ["meta"])["meta"]), "its description")
        if meta["jaxdiff_observed"] != VERSION:
            layout = quote(meta["jaxdiff_observed"])
            raise ValueError(f"is of layout {layout}, not {VERSION}")
        known = meta["extractors"]
        check("extractors", known, dict)
        seen, parts = {}, ("mean", "scatter", "count", "features")
        arrays = npz.load(path, {f"{name}/{part}" for name in known for part in parts})
        for name, origin in known.items():
            check(name, origin, dict)
            jsontext.fields(origin, name, **dict.fromkeys(TEXTS, str), dims=Dims)
            seen[name] = _seen(name, origin, arrays)
        shape = None if meta["shape"] is None else tuple(meta["shape"])
        if shape is not None:
            check("shape", shape, tuple[Size, Size, Size])
        if not seen:
            raise ValueError("names no extractor")
    except (ValueError, KeyError, TypeError, OSError, ArithmeticError) as error:
        raise ValueError(
            f"{path} is not a reference, or is damaged ({error}): jaxdiff reference "
            "makes one, also of other tools' files with --published"
        ) from error
    return Observed(str(meta["source"]), shape, seen)


def published(path: PathLike, protocol: str = "tf", count: int | None = None) -> Observed:
    """The reference statistics of another tool, as `interop.fid_statistics` reads them.

    `protocol` says how images were resized before an InceptionV3 saw them, which such
    files do not: "tf", "pytorch" or "clean". Nor do most say how many there were.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of statistics, or the number of images is unknown.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/a.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    ...     stored = published(f"{folder}/a.npz", count=50_000)
    >>> list(stored.seen), stored.count
    (['inception_tf'], 50000)
    """
    seen = {}
    path = place(path)
    for family, stored in fid_statistics.read(path).items():
        name = f"inception_{protocol}" if family == "fid" else "dinov2"
        number = stored.count or count
        if number is None:
            raise ValueError(
                f"{path} does not say of how many images it is: give --count, such as 50000"
            )
        moments = Moments(number, stored.mu, stored.sigma * (number - 1))
        network = NETWORKS[name]
        origin = {"preprocessing": network.preprocessing, "dims": network.dims}
        seen[name] = Seen(Extractor(name, **origin, sha256="", variables={}), moments)
    return Observed(path.name, None, seen)


def _seen(name: str, origin: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Seen:
    extractor = Extractor(**{key: origin[key] for key in ORIGIN}, variables={})
    mean, scatter = arrays[f"{name}/mean"], arrays[f"{name}/scatter"]
    features = arrays.get(f"{name}/features")
    dims = (extractor.dims,)
    if mean.shape != dims or scatter.shape != 2 * dims:
        raise ValueError(f"{name} has a mean {mean.shape}, not {dims}")
    if not (np.isfinite(mean).all() and np.isfinite(scatter).all()):
        raise ValueError(f"{name} holds numbers that are not finite")
    count = arrays[f"{name}/count"]
    check(f"{name}/count", count.item() if count.ndim == 0 else count.tolist(), Count)
    moments = Moments(int(count), mean, scatter)
    if features is not None and features.shape != (moments.count, *dims):
        raise ValueError(f"{name} has features {features.shape}, of {moments.count} images")
    if features is not None and not np.isfinite(features).all():
        raise ValueError(f"{name} has features that are not finite")
    return Seen(extractor, moments, features)
