"""Images or latents in array_record shards.

jaxdiff prepare_data writes them, and jaxdiff encode latents of images.

Shards suit data of any size on any disk: few large files, each record read where it
stands. For the format see `shards`.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from jaxdiff.data.batches import Dataset
from jaxdiff.data.encoders import Pixels, VAELatents
from jaxdiff.data.formats import shards
from jaxdiff.data.formats.image_files import decoded
from jaxdiff.data.skipping import ON_ERROR, skipping
from jaxdiff.data.sources.latents import require_posterior
from jaxdiff.runtime.files import PathLike, keep_text, place
from jaxdiff.types import Source, implements
from jaxdiff.types.ranges import Choice, Size, checked


@implements(Source)
@dataclasses.dataclass(frozen=True)
@checked
class Records:
    """The images of a folder of shards, [size, size, channels].

    Image files are cropped and resized to `size` as `Folder` does; raw arrays have to be
    of it. `flip` and `on_error` are as for `Folder`.

    Raises:
        ValueError: an empty path, a size below 1, channels other than 1 and 3, or another
            on_error.

    >>> Records("my/records", size=32).shape
    (32, 32, 3)
    """

    path: PathLike = "my/records"
    size: Size = 64
    channels: Annotated[int, Choice(1, 3)] = 3
    flip: bool = False
    on_error: Annotated[str, Choice(*ON_ERROR)] = "stop"

    def __post_init__(self) -> None:
        keep_text(self, "path")
        _require(self.path)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (self.size, self.size, self.channels)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels; () without labels.

        Raises:
            FileNotFoundError, ValueError: as `load`.
        """
        return shards.read_header(place(self.path)).classes

    @property
    def encoder(self) -> Pixels:
        """How bytes become x0: mirrored at random with `flip`."""
        return Pixels(flip=self.flip)

    def load(self) -> Dataset:
        """Opens the shards; each image is read on demand.

        Raises:
            ImportError: array_record is not installed.
            FileNotFoundError: there are no such records.
            ValueError: they are damaged, incomplete, or do not fit the settings.
        """
        source = _opened(self.path, self.shape, ("uint8",))
        return Dataset(skipping(source, self.on_error), source.header.classes)


@implements(Source)
@dataclasses.dataclass(frozen=True)
@checked
class LatentRecords:
    """The latents of a folder of shards, [size, size, channels of the encoder].

    A record is raw, the posterior's mean and then its std, as in `Latents`.

    Raises:
        ValueError: an empty path, or a size below 1.

    >>> LatentRecords("my/records").shape
    (64, 64, 4)
    """

    path: PathLike = "my/records"
    size: Size = 64
    encoder: VAELatents = VAELatents()

    def __post_init__(self) -> None:
        keep_text(self, "path")
        _require(self.path)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a latent."""
        return (self.size, self.size, len(self.encoder.std))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels; () without labels.

        Raises:
            FileNotFoundError, ValueError: as `load`.
        """
        return shards.read_header(place(self.path)).classes

    def load(self) -> Dataset:
        """Opens the shards; each latent is read and checked on demand.

        Raises:
            ImportError, FileNotFoundError, ValueError: as `Records.load`.
        """
        *sides, channels = self.shape
        source = _opened(self.path, (*sides, 2 * channels), ("float32", "float16"))
        return Dataset(source, source.header.classes)


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """A source that reads and decodes records on demand."""

    path: Path
    header: shards.Header
    reader: shards.Reader
    shape: tuple[int, int, int]

    def stamp(self) -> str:
        """The checksums of the shards."""
        return " ".join(shard.sha256 for shard in self.header.shards)

    def __len__(self) -> int:
        return len(self.reader)

    def __getitem__(self, index: int) -> dict[str, Any]:
        label, payload = shards.unpack(self.reader[index])
        try:
            if not -1 <= label < len(self.header.classes):
                raise ValueError(f"label {label} of {len(self.header.classes)} classes")
            if self.header.encoding == "file":
                image = decoded(payload, *self.shape)
            else:
                image = shards.array_of(payload, self.header)
        except ValueError as error:
            raise ValueError(f"{self.path}: record {index} is damaged: {error}") from error
        if image.dtype != np.uint8:
            require_posterior(image, f"{self.path}: record {index}")
        return {"image": image, "label": label}


def _opened(path: str, shape: tuple[int, int, int], dtypes: tuple[str, ...]) -> Read:
    """The source of a folder, whose header must fit the settings."""
    folder = place(path)
    header = shards.read_header(folder)
    if len(header.shards) != header.total:
        raise ValueError(
            f"{folder} has {len(header.shards)} of {header.total} shards: give the command "
            "that wrote them again, which makes the others"
        )
    if header.dtype not in dtypes or (header.encoding == "raw" and header.shape != shape):
        raise ValueError(
            f"{folder} has {header.dtype} {header.shape}, but the config needs "
            f"{' or '.join(dtypes)} {shape}: set data.size and data.channels to fit, or "
            "prepare the data again"
        )
    return Read(folder, header, shards.Reader(folder, header), shape)


def _require(path: str) -> None:
    """Checks that there is a path.

    Raises:
        ValueError: it is empty.
    """
    if not path:
        raise ValueError("path is empty: name a folder that jaxdiff prepare_data wrote")
