"""Your own images: a folder or a ZIP file of images, one sub-folder for each class.

An image is made square as [EDM2] and its forerunners do for ImageNet: halved with a box
filter while its shorter side is at least twice as long as wanted, resized with a bicubic
filter so that the shorter side is right, and cropped in the centre. Files are opened on
demand, so a folder may be larger than memory.
"""

import dataclasses
from typing import Annotated, Any

import numpy as np
from jaxtyping import UInt8

from jaxdiff.data.batches import Dataset
from jaxdiff.data.encoders import Pixels
from jaxdiff.data.formats import image_files
from jaxdiff.data.formats.listing import File, classes_of, content, listing, stamp
from jaxdiff.data.skipping import ON_ERROR, skipping
from jaxdiff.runtime.files import PathLike, keep_text, place
from jaxdiff.types import Source, implements, reprs
from jaxdiff.types.ranges import Choice, checked


@implements(Source)
@dataclasses.dataclass(frozen=True)
@checked
class Folder:
    """The images of a folder or a ZIP file, [size, size, 3], in the order of their names.

    Sub-folders are classes, in the order of their names, and may be nested inside; where
    there is a `dataset.json`, as [EDM2] writes it, labels are those in it. Without either
    there are no classes. Names that begin with a dot are left out, an animation gives its
    first frame, transparent parts are shown on white, and a photo is turned upright as its
    EXIF data say. `flip` mirrors images at random as they are trained on; `on_error` is
    "stop", or "skip" to go on with the next image where one cannot be read.

    Raises:
        ValueError: an empty path, a size that is not positive, or another on_error.

    >>> Folder("photos.zip", size=32).shape
    (32, 32, 3)
    """

    path: PathLike = ""
    size: image_files.Side = 64
    flip: bool = False
    on_error: Annotated[str, Choice(*ON_ERROR)] = "stop"

    def __post_init__(self) -> None:
        keep_text(self, "path")
        if not self.path:
            raise ValueError("path is empty: name the folder of your images")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (self.size, self.size, 3)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the sub-folders, or the numbers in dataset.json; () without.

        Raises:
            FileNotFoundError: there is no such folder or file.
        """
        return classes_of(place(self.path))

    @property
    def encoder(self) -> Pixels:
        """How bytes become x0: mirrored at random with `flip`."""
        return Pixels(flip=self.flip)

    def load(self) -> Dataset:
        """Lists the files; each is read on demand.

        Raises:
            FileNotFoundError: there is no such folder or file.
            ValueError: a folder or a class without images, images beside sub-folders, or
                a damaged archive or dataset.json.
        """
        images = listing(place(self.path))
        source = Files(images.files, images.labels, self.size, images.from_folders)
        return Dataset(skipping(source, self.on_error), images.classes, images.left_out)


@dataclasses.dataclass(frozen=True)
class Files:
    """Images that are decoded from files on demand."""

    __repr__ = reprs.fields

    paths: tuple[File, ...]
    label: tuple[int, ...]
    size: int
    from_folders: bool = False
    """Whether the labels are those of sub-folders."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (self.size, self.size, 3)

    def stamp(self) -> str:
        """The stamps of all files, which change when a file does."""
        return " ".join(map(stamp, self.paths))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = read_image(self.paths[index], self.size)
        return {"image": image, "label": np.int32(self.label[index])}


def read_image(
    path: File, size: int, channels: int = 3
) -> UInt8[np.ndarray, "size size channels"]:
    """One image file as a square of RGB, or of grey with one channel.

    Raises:
        ValueError: not an image that Pillow can read; the message has the file's name.
    """
    data = content(path, f"{str(path)!r}")
    try:
        return image_files.decoded(data, size, size, channels)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read as an image: {error}") from error


def square(image: Any, size: int) -> UInt8[np.ndarray, "size size *C"]:
    """The centre of a Pillow image, resized so that its shorter side has `size` pixels."""
    return image_files.fitted(image, size, size)
