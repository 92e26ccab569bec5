"""Images of one's own: a folder of image files, one sub-folder for each class.

An image is made square as [EDM2] and its forerunners do for ImageNet: halved with a box
filter while its shorter side is at least twice as long as wanted, resized with a bicubic
filter so that the shorter side is right, and cropped in the centre. Files are opened when
they are asked for, so a folder may be larger than memory.
"""

import dataclasses
import pathlib
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxdiff.data.batches import Dataset

EXTENSIONS = ("bmp", "gif", "jpeg", "jpg", "png", "webp")


@dataclasses.dataclass(frozen=True)
class Folder:
    """The images of a folder, [size, size, 3], in the order of their names.

    Sub-folders are classes, in the order of their names, and may be nested inside. A
    folder without sub-folders has no classes. Names that begin with a dot are left out,
    an animation gives its first frame, transparent parts are shown on white, and a photo
    is turned upright as its EXIF data say.

    Raises:
        ValueError: an empty path, or a size that is not positive.

    >>> Folder("photos", size=32).shape
    (32, 32, 3)
    """

    path: str = ""
    size: int = 64

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty: name the folder of your images")
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (self.size, self.size, 3)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the sub-folders; () if there are none.

        Raises:
            FileNotFoundError: there is no such folder.
        """
        root = pathlib.Path(self.path).expanduser()
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {str(root)!r}")
        names = (child.name for child in root.iterdir() if child.is_dir())
        return tuple(sorted(name for name in names if not name.startswith(".")))

    def load(self) -> Dataset:
        """Lists the files; each is read when its image is asked for.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: a folder or a class without images, or images beside sub-folders.
        """
        classes = self.classes
        root = pathlib.Path(self.path).expanduser()
        loose = [file for file in sorted(root.iterdir()) if is_image(file)]
        if not classes:
            check(root, loose)
            return Dataset(Files(tuple(loose), (-1,) * len(loose), self.size))
        if loose:
            raise ValueError(
                f"{str(root)!r} has sub-folders, which are classes, and beside them "
                f"{len(loose)} images, such as {loose[0].name!r}: move these into a class"
            )
        files, labels = [], []
        for label, name in enumerate(classes):
            inside = [file for file in sorted((root / name).rglob("*")) if is_image(file)]
            check(root / name, inside)
            files += inside
            labels += [label] * len(inside)
        return Dataset(Files(tuple(files), tuple(labels), self.size), classes)


@dataclasses.dataclass(frozen=True)
class Files:
    """A source that decodes a file whenever its image is asked for."""

    paths: tuple[pathlib.Path, ...]
    labels: tuple[int, ...]
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = read(self.paths[index], self.size)
        return {"image": image, "label": np.int32(self.labels[index])}


def is_image(path: pathlib.Path) -> bool:
    """Whether this is a file with one of the extensions that are read, and not hidden."""
    hidden = path.name.startswith(".")
    return path.suffix[1:].lower() in EXTENSIONS and not hidden and path.is_file()


def check(folder: pathlib.Path, images: list[pathlib.Path]) -> None:
    """Refuses a folder without images."""
    if not images:
        known = ", ".join(EXTENSIONS)
        raise ValueError(f"no images in {str(folder)!r}: files named {known} are read")


def read(
    path: pathlib.Path, size: int, channels: int = 3
) -> UInt8[np.ndarray, "size size channels"]:
    """One image file as a square of RGB, or of grey with one channel.

    Raises:
        ValueError: the file is not an image that Pillow can read, whose name it gives.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.has_transparency_data:
                image = image.convert("RGBA")
                paper = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(paper, image)
            pixels = square(image.convert("RGB" if channels == 3 else "L"), size)
            return pixels.reshape(size, size, channels)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as an image: {error}") from error


def square(image: Any, size: int) -> UInt8[np.ndarray, "size size C"]:
    """The centre of a Pillow image, resized so that its shorter side has `size` pixels."""
    from PIL import Image

    while min(image.size) >= 2 * size:
        width, height = image.size
        image = image.resize((width // 2, height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]
