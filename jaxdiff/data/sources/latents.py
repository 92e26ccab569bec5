"""Latents of a VAE on disk: one NPZ file, of any size, that any NumPy reads.

    latents  [N, H, W, 2C] float32 or float16, the posterior's mean and then its std
    labels   [N] integers, -1 = none
    classes  [K] strings, the name of each label; may be left out

The members of an NPZ that is not compressed lie in it as they are, so `latents` is mapped
into memory where it stands: a batch reads its own images alone, no array is unpickled, and
one file can be written whole or not at all, copied, and opened by np.load. float16 halves
the file, and rounds a mean of 8 by up to 0.004, a thousandth of the data's spread.
"""

import dataclasses
import itertools
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxdiff.data.batches import Dataset
from jaxdiff.data.encoders import VAELatents
from jaxdiff.data.formats.listing import MOST, stamp
from jaxdiff.interop import archives, npz
from jaxdiff.runtime.files import PathLike, keep_text, place, write_atomically
from jaxdiff.runtime.progress import bar as progress_bar
from jaxdiff.types import Source, implements
from jaxdiff.types.ranges import Size, checked

DTYPES = ("float32", "float16")
PROBE = 64
"""Images that `load` looks at; every other one is looked at when it is read."""

Posteriors = tuple[
    Float[np.ndarray, "..."], Float[np.ndarray, "..."], Int[np.ndarray, "..."]
]
"""Mean and std [B, H, W, C] and label [B] of some images."""


@implements(Source)
@dataclasses.dataclass(frozen=True)
@checked
class Latents:
    """The latents of an NPZ file, [size, size, channels of the encoder].

    Write one with `write_latents`. `encoder` says how a draw of them becomes x0.

    Raises:
        ValueError: an empty path, or a size that is not positive.

    >>> Latents("imagenet512.npz").shape
    (64, 64, 4)
    """

    path: PathLike = ""
    size: Size = 64
    encoder: VAELatents = VAELatents()

    def __post_init__(self) -> None:
        keep_text(self, "path")
        if not self.path:
            raise ValueError("path is empty: name the .npz file of your latents")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a latent."""
        return (self.size, self.size, len(self.encoder.std))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels: the file's own, else "0", "1" ...; () without labels.

        Raises:
            FileNotFoundError, ValueError: as `load`.
        """
        return self.load().classes

    def load(self) -> Dataset:
        """Maps the file; each latent is read, and looked at, when it is asked for.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: what is wrong with it.
        """
        path = place(self.path)
        stored = _stored(path)
        latents, labels = _latents(path, stored), _array(path, stored, "labels")
        *rest, channels = self.shape
        wanted = (*rest, 2 * channels)
        if latents.ndim != 4 or latents.shape[1:] != wanted or not len(latents):
            sides = ", ".join(map(str, wanted))
            raise ValueError(
                f"{path}: latents has shape {latents.shape}, but data.size and "
                f"data.encoder ask for [N, {sides}], mean and std along the last axis"
            )
        if latents.dtype not in DTYPES:
            raise ValueError(f"{path}: latents is {latents.dtype}, not one of {DTYPES}")
        if labels.dtype.kind not in "iu" or labels.shape != latents.shape[:1]:
            raise ValueError(
                f"{path}: labels is {labels.dtype} {labels.shape}, but must be one "
                f"integer for each of the {len(latents)} latents, -1 = no label"
            )
        classes = _array(path, stored, "classes") if "classes" in stored else None
        names = _names(path, labels, classes)
        rows = Rows(path, latents, labels.astype(np.int32))
        for i in np.unique(np.linspace(0, len(rows) - 1, PROBE).astype(int)):
            rows[int(i)]
        return Dataset(rows, names)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """Latents that are read from the file on demand."""

    path: Path
    latents: Float[np.ndarray, "N H W S"]
    label: Int[np.ndarray, " N"]

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and channels of a latent's mean and std."""
        return self.latents.shape[1:]

    def stamp(self) -> str:
        """The stamp of the file, which changes with it."""
        return stamp(self.path)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict[str, Any]:
        stored = np.array(self.latents[index])
        require_posterior(stored, f"{self.path}: latent {index}")
        return {"image": stored, "label": self.label[index]}


def require_posterior(stored: Float[np.ndarray, "..."], where: str) -> None:
    """Refuses a mean that is not finite, and a std that is not, or is negative.

    Raises:
        ValueError: which, and where.
    """
    mean, std = np.split(stored, 2, axis=-1)
    if not np.isfinite(mean).all():
        raise ValueError(f"{where} has a mean that is not finite: write the file again")
    if not ((std >= 0) & (std < np.inf)).all():
        wrong = std[~((std >= 0) & (std < np.inf))].flat[0]
        raise ValueError(f"{where} has a std of {wrong}: write the file again")


CHECKED = 2**29
"""Bytes of latents up to which their checksum is compared when they are opened."""


def _stored(path: Path) -> dict[str, npz.Stored]:
    """The arrays of a file, none of them read."""
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {str(path)!r}: give the path of one that "
            "data.write_latents wrote, as --config.data.path"
        )
    try:
        return npz.arrays(archives.mapped(path), texts=True)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _array(path: Path, stored: dict[str, npz.Stored], name: str) -> np.ndarray:
    """One of the arrays, whole."""
    try:
        if name not in stored:
            held = ", ".join(f"{key[:40]!r}" for key in list(stored)[:8]) or "nothing"
            raise ValueError(f"there is no array {name!r} in it, it holds {held}")
        return stored[name].read()
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _latents(path: Path, stored: dict[str, npz.Stored]) -> np.ndarray:
    """The latents where they stand in the file; compared with their checksum if small."""
    array = stored.get("latents")
    if array is not None and array.order == "F" and len(array.shape) > 1:
        raise ValueError(
            f"{path} cannot be read: latents is in Fortran order: use np.ascontiguousarray"
        )
    if array is None or (array.member.stored and array.member.size <= CHECKED):
        return _array(path, stored, "latents")
    try:
        return array.view()
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _names(
    path: Path, labels: Int[np.ndarray, " N"], classes: Shaped[np.ndarray, "..."] | None
) -> tuple[str, ...]:
    """The names of the labels, as many as there are, checked against them."""
    low, high = int(labels.min()), int(labels.max())
    if classes is not None and (classes.ndim != 1 or len(classes) > MOST):
        raise ValueError(
            f"{path}: classes has shape {classes.shape}, but must be a list of at most "
            f"{MOST:,} names"
        )
    count = min(high + 1, MOST) if classes is None else len(classes)
    if low < -1 or high >= count:
        raise ValueError(
            f"{path}: labels lie in {low} ... {high}, but must lie in -1 ... "
            f"{count - 1} for its {count:,} classes"
        )
    return tuple(map(str, range(count) if classes is None else classes.tolist()))


def write_latents(
    path: PathLike,
    count: int,
    batches: Iterable[Posteriors],
    classes: Sequence[str] = (),
    *,
    dtype: str = "float32",
    progress: bool = True,
) -> None:
    """Writes `count` latents, given as batches of (mean, std, label), as they come.

    mean and std are [B, H, W, C], label [B] integers, -1 = none. Memory holds one batch.
    The file takes its name once it is whole.

    Raises:
        ValueError: another number of latents than `count`, unequal shapes, a mean or std
            that `dtype` cannot hold, a label without a class; nothing is left behind.

    >>> from tempfile import TemporaryDirectory
    >>> mean, label = np.ones((3, 2, 2, 4)), np.array([0, 1, -1])
    >>> with TemporaryDirectory() as folder:
    ...     write_latents(f"{folder}/a.npz", 3, [(mean, 0 * mean, label)], progress=False)
    ...     dataset = Latents(f"{folder}/a.npz", size=2).load()
    ...     len(dataset), dataset.shape, dataset.classes  # mean and std are stored
    (3, (2, 2, 8), ('0', '1'))
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {DTYPES}, got {dtype!r}")
    path, labels = place(path), []

    def write(file: BinaryIO) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            with archive.open("latents.npy", "w", force_zip64=True) as member:
                _write_rows(member, count, _checked(batches, dtype, labels), progress)
            for name, array in (("labels", _joined(labels, classes)), ("classes", classes)):
                if len(array):
                    with archive.open(f"{name}.npy", "w") as member:
                        np.lib.format.write_array(
                            member, np.array(array), allow_pickle=False
                        )

    write_atomically(path, write)


def _checked(
    batches: Iterable[Posteriors], dtype: str, labels: list[np.ndarray]
) -> Iterator[Float[np.ndarray, "B H W S"]]:
    """The rows of the batches, whose labels go to a list."""
    row = None
    for number, (mean, std, label) in enumerate(batches):
        shapes = mean.shape, std.shape, label.shape
        row = row or shapes[0][1:]
        if len(row) != 3 or shapes != ((len(label), *row),) * 2 + ((len(label),),):
            raise ValueError(
                f"batch {number}: mean, std and label have shapes {shapes}, but must be "
                "[B, H, W, C], the same, and [B]; and H, W, C those of the first batch"
            )
        with np.errstate(over="ignore"):
            rows = np.concatenate([mean, std], axis=-1).astype(dtype)
        require_posterior(rows, f"batch {number} as {dtype}")
        labels.append(label.astype(np.int64))
        yield rows


def _write_rows(
    member: Any, count: int, rows: Iterable[np.ndarray], progress: bool
) -> None:
    """The NPY header of `count` rows, and the rows."""
    rows, written = iter(rows), 0
    first = next(rows, None)
    if first is None:
        raise ValueError("there are no batches, so there is nothing to write")
    descr = np.lib.format.dtype_to_descr(first.dtype)
    shape = (count, *first.shape[1:])
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(member, header)
    with progress_bar(
        total=count, unit="img", desc="Writing latents", show=progress
    ) as bar:
        for part in itertools.chain([first], rows):
            written += len(part)
            if written > count:
                break
            member.write(np.ascontiguousarray(part).tobytes())
            bar.update(len(part))
    if written != count:
        more = "more" if written > count else written
        raise ValueError(f"count is {count}, but the batches hold {more}")


def _joined(labels: list[np.ndarray], classes: Sequence[str]) -> Int[np.ndarray, " N"]:
    """All labels, each of which has a class if there are names."""
    joined = np.concatenate(labels)
    count = len(classes) or MOST
    if joined.min() < -1 or joined.max() >= count:
        raise ValueError(
            f"labels lie in {joined.min()} ... {joined.max()}, but there are at most "
            f"{count:,} classes, and -1 is no label"
        )
    return joined.astype(np.int32)
