"""Images from other programs, to be scored as they are: an NPZ, or a folder of pictures.

Nothing is resized, cropped or converted unless a size is given: images that would need
it are an error, as metrics would change silently.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jaxdiff.data.batches import Images, Memory
from jaxdiff.data.formats import image_files, zips
from jaxdiff.data.formats.listing import File, content, pictures
from jaxdiff.data.sources.folder import Files
from jaxdiff.data.summary import left_out_lines
from jaxdiff.interop import archives, npz
from jaxdiff.runtime.files import PathLike, place

MODES = {"RGB": 3, "L": 1}
"""Pillow's modes that are read, and their channels."""


@dataclass(frozen=True, eq=False)
class Pictures:
    """Files of one size and mode, each read on demand."""

    paths: tuple[File, ...]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        path = self.paths[index]
        try:
            with image_files.opened(content(path)) as image:
                array = np.asarray(image).reshape(self.shape)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        return {"image": array, "label": np.int32(-1)}


def images_in(
    path: PathLike, number: int | None = None, *, size: int | None = None
) -> Images:
    """The images of an NPZ ("images" or "arr_0", uint8), or of a folder or ZIP archive.

    All pictures in a folder are taken, at any depth, by the rules of
    `data.formats.listing`; a warning counts what is left out.

    `number` takes the first so many, in the order of the array or of the names. With `size`
    the pictures of a folder are made RGB squares, cropped and resized as training does it.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: fewer images than asked for, images of different sizes, numbers that
            are not uint8, or pictures that `data.formats.image_files` would change: of
            another mode, transparent, turned by EXIF data, or with 16 bits a channel.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/five.npz", images=np.zeros((5, 8, 8, 3), np.uint8))
    ...     len(images_in(f"{folder}/five.npz")), len(images_in(f"{folder}/five.npz", 2))
    (5, 2)
    """
    path = place(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no folder and no file {path}")
    if path.is_dir() or _is_archive_of_pictures(path):
        return _files(path, number, size)
    if path.suffix[1:].lower() in image_files.extensions():
        raise ValueError(f"{path} is one picture: name the folder that it is in")
    if size is not None:
        raise ValueError(f"--size is for pictures, and {path} is an array of images")
    try:
        stored = npz.arrays(archives.mapped(path), texts=True)
        name = next((n for n in ("images", "arr_0") if n in stored), None)
        if name is None:
            held = ", ".join(key[:40] for key in list(stored)[:8]) or "nothing"
            raise ValueError(f"it holds {held}, no 'images'")
        images = stored[name].read()
    except ValueError as error:
        raise ValueError(
            f"{path} is not an NPZ of images, such as jaxdiff sample writes: {error}"
        ) from error
    _require(images, path)
    count = _count(len(images), number, path)
    return Memory(images[:count], np.full(count, -1, np.int32))


def _require(images: Shaped[np.ndarray, "..."], path: Path) -> None:
    if images.dtype != np.uint8:
        lost = images.dtype.kind == "f" and not np.isfinite(images).all()
        raise ValueError(
            f"{path} holds {images.dtype}{', some of it nan or infinite' * lost}: images "
            "are uint8, clip(round(127.5 (x + 1)), 0, 255) of x in [-1, 1]"
        )
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"{path} holds an array {images.shape}: images are [N, H, W, 3], or 1 if grey"
        )


def _files(path: Path, number: int | None, size: int | None) -> Images:
    """The pictures of a folder or a ZIP archive, whose headers are looked at."""
    files, left_out = pictures(path)
    if left_out:
        warnings.warn(f"{path}: {'; '.join(left_out_lines(left_out))}", stacklevel=3)
    count = _count(len(files), number, path)
    if size is not None:
        return Files(files[:count], (-1,) * count, size)
    first: image_files.Kind | None = None
    for file in files[:count]:
        try:
            kind = image_files.kind(content(file))
        except ValueError as error:
            raise ValueError(f"{file} cannot be read as an image: {error}") from error
        first = first or kind
        if kind != first:
            raise ValueError(
                f"{file} is {kind}, {files[0].name} {first}: all images "
                "must be of one size and mode; --size=64 makes them RGB of 64 x 64, "
                "cropped and resized as training does it"
            )
        if kind.mode not in MODES or kind.changed:
            raise ValueError(
                f"{file} is {kind}: metrics are of RGB or grey of 8 bits, upright and "
                "without transparency; --size=64 makes them RGB of 64 x 64, transparent "
                "parts white, as training does it"
            )
    width, height, mode, _ = first
    return Pictures(files[:count], (height, width, MODES[mode]))


def _is_archive_of_pictures(path: Path) -> bool:
    """Whether a file is a ZIP archive, and none of arrays."""
    if path.suffix.lower() == ".npz":
        return False
    with path.open("rb") as file:
        if file.read(4) != archives.HEADER:
            return False
    return not any(name.endswith(".npy") for name in zips.members(path)[0])


def _count(held: int, wanted: int | None, path: Path) -> int:
    if wanted is not None and held < wanted:
        raise ValueError(f"{path} holds {held} images, fewer than the {wanted} asked for")
    if held < 2:
        raise ValueError(f"{path} holds {held} images: metrics compare sets, at least 2")
    return held if wanted is None else wanted
