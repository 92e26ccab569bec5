"""Images of others, to be scored as they are: an NPZ, or a folder of pictures.

Nothing is resized, cropped or converted: what would change a metric unsaid is refused.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jaxdiff.data.batches import Memory, Source
from jaxdiff.data.folder import is_image
from jaxdiff.files import PathLike, place
from jaxdiff.interop import archives, npz

MODES = {"RGB": 3, "L": 1}
"""Pillow's modes that are read, and their channels."""


@dataclass(frozen=True)
class Pictures:
    """Files of one size and mode, each read when its image is asked for."""

    paths: tuple[Path, ...]
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from PIL import Image

        path = self.paths[index]
        try:
            with Image.open(path) as file:
                pixels = np.asarray(file).reshape(self.shape)
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        return {"image": pixels, "label": np.int32(-1)}


def images_in(path: PathLike, number: int | None = None) -> Source:
    """The images of an NPZ ("images" or "arr_0", uint8) or of a folder and all below it.

    `number` takes the first so many, in the order of the array or of the names.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: fewer images than asked for, images of different sizes, numbers that
            are not uint8, transparent pictures or a palette.
    """
    path = place(path)
    if path.is_dir():
        return _folder(path, number)
    if not path.is_file():
        raise FileNotFoundError(f"there is no folder and no file {path}")
    try:
        stored = npz.arrays(archives.mapped(path), texts=True)
        name = next((n for n in ("images", "arr_0") if n in stored), None)
        if name is None:
            held = ", ".join(key[:40] for key in list(stored)[:8]) or "nothing"
            raise ValueError(f"it holds {held}, no 'images'")
        images = stored[name].read()
    except ValueError as error:
        raise ValueError(
            f"{path} is no NPZ of images, such as launch/sample.py writes: {error}"
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


def _folder(path: Path, number: int | None) -> Pictures:
    from PIL import Image

    paths = sorted(file for file in path.rglob("*") if is_image(file))
    count = _count(len(paths), number, path)
    first: tuple[Any, ...] | None = None
    for file in paths[:count]:
        try:
            with Image.open(file) as image:
                found = *image.size, image.mode
        except (OSError, SyntaxError, ValueError) as error:
            raise ValueError(f"{file} cannot be read as an image: {error}") from error
        first = first or found
        if found != first:
            raise ValueError(
                f"{file} is {_said(found)}, {paths[0].name} {_said(first)}: all images "
                "must be alike"
            )
        if found[2] not in MODES:
            raise ValueError(
                f"{file} is {_said(found)}: metrics are of RGB, or of grey pictures where "
                "the reference is grey; lay transparent ones over a colour"
            )
    width, height, mode = first
    return Pictures(tuple(paths[:count]), (height, width, MODES[mode]))


def _said(found: tuple[int, int, str]) -> str:
    width, height, mode = found
    return f"{width} x {height} {mode}"


def _count(held: int, asked: int | None, path: Path) -> int:
    if asked is not None and held < asked:
        raise ValueError(f"{path} holds {held} images, fewer than the {asked} asked for")
    if held < 2:
        raise ValueError(f"{path} holds {held} images: metrics compare sets, at least 2")
    return held if asked is None else asked
