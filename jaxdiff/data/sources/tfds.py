"""Any data set of TensorFlow Datasets, read without TensorFlow.

Prepared as array_record files, a data set is read at random by `as_data_source`, image by
image. Preparing most of them needs TensorFlow, once, anywhere: if a data set is not
prepared, the error of `load` has the command.
"""

import dataclasses
import logging
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt8

from jaxdiff.data.batches import Dataset
from jaxdiff.data.encoders import Pixels
from jaxdiff.data.formats.image_files import decoded
from jaxdiff.data.skipping import ON_ERROR, skipping
from jaxdiff.data.sources.folder import square
from jaxdiff.runtime.files import PathLike, keep_text, place
from jaxdiff.types import Source, implements
from jaxdiff.types.ranges import Choice, Size, checked


@implements(Source)
@dataclasses.dataclass(frozen=True)
@checked
class TFDS:
    """A split of a data set by its name, [size, size, channels].

    `split` may be a part, as "train[:90%]". `data_dir` is where data sets are prepared, by
    default $TFDS_DATA_DIR or ~/tensorflow_datasets. `image` and `label` name features,
    uint8 or image files and classes; an empty label means none. Images are cropped and
    resized, and `flip` and `on_error` are, as for `Folder`.

    Raises:
        ValueError: no name, a size below 1, channels other than 1 and 3, or another
            on_error.

    >>> TFDS("mnist", size=28, channels=1).shape
    (28, 28, 1)
    """

    name: str = "cifar10"
    split: str = "train"
    data_dir: PathLike = ""
    size: Size = 32
    channels: Annotated[int, Choice(1, 3)] = 3
    image: str = "image"
    label: str = "label"
    flip: bool = False
    on_error: Annotated[str, Choice(*ON_ERROR)] = "stop"

    def __post_init__(self) -> None:
        keep_text(self, "data_dir")
        if not self.name or not self.image:
            raise ValueError("name and image must be those of a data set and its feature")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (self.size, self.size, self.channels)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels; () without labels.

        Raises:
            ImportError, FileNotFoundError, ValueError: as `load`.
        """
        return _classes(self, _prepared(self).info.features)

    @property
    def encoder(self) -> Pixels:
        """How bytes become x0: mirrored at random with `flip`."""
        return Pixels(flip=self.flip)

    def load(self) -> Dataset:
        """Opens the data set; each image is read on demand.

        Raises:
            ImportError: tensorflow-datasets is not installed.
            FileNotFoundError: the data set is not prepared; the message says how to.
            ValueError: there is no such data set, split or feature.
        """
        builder = _prepared(self)
        import tensorflow_datasets as tfds

        classes = _classes(self, builder.info.features)
        is_file = isinstance(builder.info.features[self.image], tfds.features.Image)
        skip = {self.image: tfds.decode.SkipDecoding()} if is_file else None
        try:
            rows = builder.as_data_source(self.split, decoders=skip)
        except (ValueError, KeyError, NotImplementedError) as error:
            text = str(error).partition("\n")[0]
            raise ValueError(f"TFDS {self.name}, split {self.split!r}: {text}") from error
        return Dataset(skipping(Rows(self, rows), self.on_error), classes)


@dataclasses.dataclass(frozen=True, eq=False)
class Rows:
    """A source that reads and decodes rows on demand."""

    data: TFDS
    rows: Any

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.data.shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            row = self.rows[index]
            image = pixels(row[self.data.image], self.data.size, self.data.channels)
        except (ValueError, RuntimeError) as error:
            text = str(error).partition("\n")[0]
            raise ValueError(
                f"TFDS {self.data.name}: image {index} of {self.data.split} cannot be "
                f"read: {text}"
            ) from error
        label = row[self.data.label] if self.data.label else -1
        return {"image": image, "label": np.int32(label)}


def pixels(
    stored: bytes | np.ndarray, size: int, channels: int
) -> UInt8[np.ndarray, "size size channels"]:
    """An image file or an array [H, W, C] as a square.

    Raises:
        ValueError: not an image, or an array of another type or number of channels.
    """
    if not isinstance(stored, np.ndarray):
        return decoded(stored, size, size, channels)
    if stored.dtype != np.uint8 or stored.ndim != 3 or stored.shape[-1] != channels:
        raise ValueError(
            f"images are {stored.dtype} {stored.shape}, not uint8 [H, W, {channels}]: set "
            "data.channels"
        )
    if stored.shape[:2] == (size, size):
        return stored
    from PIL import Image

    image = Image.fromarray(stored.squeeze(-1) if channels == 1 else stored)
    return square(image, size).reshape(size, size, channels)


def _prepared(data: TFDS) -> Any:
    """The builder of a data set that is prepared.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `TFDS.load`.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            'TFDS needs tensorflow-datasets, which comes with: pip install "jaxdiff[tfds]"'
        ) from error
    logging.getLogger("absl").setLevel(logging.ERROR)  # it advises to install OpenCV
    where = {"data_dir": str(place(data.data_dir))} if data.data_dir else {}
    try:
        builder = tfds.builder(data.name, **where, try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        text = str(error).partition("\n")[0]
        raise ValueError(f"TFDS {data.name!r}: {text}") from error
    if not builder.info.splits:
        kwargs = "".join(f", {k}={v!r}" for k, v in where.items())
        raise FileNotFoundError(
            f"TFDS {data.name} is not prepared in {builder.data_dir}; once, anywhere: pip "
            'install tensorflow-cpu tensorflow-datasets && python -c "import '
            f"tensorflow_datasets as tfds; tfds.builder('{data.name}'{kwargs}, "
            "file_format='array_record').download_and_prepare()\""
        )
    return builder


def _classes(data: TFDS, features: Any) -> tuple[str, ...]:
    """The names of the labels.

    Raises:
        ValueError: a feature that is not there, or labels that are not classes.
    """
    for name in filter(None, (data.image, data.label)):
        if name not in features:
            known = ", ".join(sorted(features))
            raise ValueError(f"TFDS {data.name} has no feature {name!r}; it has {known}")
    if not data.label:
        return ()
    names = getattr(features[data.label], "names", None)
    if names is None:
        raise ValueError(
            f"TFDS {data.name}: {data.label!r} is not a class label: name one as "
            "data.label, or set it to '' for none"
        )
    return tuple(names)
