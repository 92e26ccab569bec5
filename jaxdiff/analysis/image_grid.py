"""Pictures: sheets of images with labels as PNG.

Every function takes images as `data.pixel_values` says: uint8 in 0 ... 255, or floats in
[-1, 1].
"""

import io
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from jaxdiff.data.pixel_values import to_uint8
from jaxdiff.runtime.files import PathLike, place, printable, write_atomically

SIDE = 48
"""The least side of an image in a sheet, in pixels."""

COLUMNS = 12
"""Images in a line of a sheet that sets several side by side."""

MOST = 400
"""The largest number of images in `show` and in the sheets of commands."""

GAP = 2
"""Pixels between images."""

APART = 8
"""Pixels between the columns of two headings."""

LETTERS = 11
"""Size of the text in sheets, in pixels."""

LINE = LETTERS + 5
"""Pixels that a line of text takes."""

WIDEST = 300
"""Pixels beyond which the name of a row is cut."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Images [N, H, W, C] in rows of `columns`, and the texts around them."""

    images: UInt8[np.ndarray, "N H W C"]
    columns: int
    rows: Sequence[str] = ()
    """Text left of each row."""
    heads: Sequence[str] = ()
    """Texts above the columns, each over as many of them."""
    captions: Sequence[str] = ()
    """Text below each image."""


def grid(
    images: Any,
    columns: int = 0,
    *,
    labels: Any = None,
    classes: Sequence[str] = (),
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> UInt8[np.ndarray, "GH GW C"]:
    """Images [N, H, W, C], uint8 or floats in [-1, 1], as one picture, white between them.

    `columns` is how many a row has, by default so many that the sheet is about square.
    Images smaller than SIDE are enlarged by a whole factor. `labels` [N] are class
    numbers, -1 = none, and `classes` their names: images of few classes are sorted into
    columns under the class's name, those of many get it as a caption. `rows`, `heads` and
    `captions` are texts left of rows, above columns (each over columns / len(heads) of
    them) and below images.

    >>> sheet = grid(np.zeros((4, 8, 8, 1), np.uint8))
    >>> sheet.dtype.name, sheet.shape[0] == sheet.shape[1]
    ('uint8', True)

    Raises:
        ValueError: no images, values that are not pixels, or texts that do not fit.
    """
    pixels = _checked(images)
    if labels is not None and (rows or heads or captions):
        raise ValueError("labels make the headings: leave out rows, heads and captions")
    if labels is not None:
        return _draw(by_class(pixels, labels, classes, columns))
    columns = columns or _square(pixels)
    return _draw(Sheet(pixels, columns, tuple(rows), tuple(heads), tuple(captions)))


def save_grid(
    path: PathLike, images: Any, columns: int = 0, **texts: Any
) -> UInt8[np.ndarray, "GH GW C"]:
    """Writes a `grid` as a PNG, and returns it; `texts` are `grid`'s other arguments.

    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> images = np.arange(4 * 8 * 8 * 3, dtype=np.uint8).reshape(4, 8, 8, 3)
    >>> with TemporaryDirectory() as folder:
    ...     picture = save_grid(f"{folder}/four.png", images)
    ...     bool((np.asarray(Image.open(f"{folder}/four.png")) == picture).all())
    True
    """
    picture = grid(images, columns, **texts)
    write_atomically(place(path), lambda f: _image(picture).save(f, format="PNG"))
    return picture


def show(
    images: Any,
    labels: Any = None,
    *,
    classes: Sequence[str] = (),
    columns: int = 0,
    rows: Sequence[str] = (),
    heads: Sequence[str] = (),
) -> None:
    """Shows images [N, H, W, C] or [H, W, C], uint8 or floats in [-1, 1], in a notebook.

    `labels` are class numbers [N], with their names in `classes`, or a text for each image.
    Without labels, `rows` and `heads` are texts left of rows and above columns, as in
    `grid`. Of many images the first MOST are shown. Outside a notebook it prints how to
    save them.

    >>> show(np.zeros((2, 8, 8, 1), np.uint8))  # doctest: +ELLIPSIS
    2 images, and no notebook to show them in...

    Raises:
        ValueError: no images, values that are not pixels, or texts that do not fit.
    """
    shape = np.shape(images)
    images = np.asarray(images)[None] if len(shape) == 3 else images
    total, images = len(images), images[:MOST]
    if labels is not None and len(np.shape(labels)) != 1:
        raise ValueError(f"labels are one for each image, got shape {np.shape(labels)}")
    if labels is not None and len(labels) != total:
        raise ValueError(f"{len(labels)} labels for {total} images: give one for each")
    labels = labels if labels is None else labels[:MOST]
    if labels is not None and len(labels) and isinstance(labels[0], str):
        picture = grid(images, columns, captions=labels, rows=rows, heads=heads)
    else:
        texts = {"rows": rows, "heads": heads}
        picture = grid(images, columns, labels=labels, classes=classes, **texts)
    if total > MOST:
        print(f"the first {MOST} of {total} images")
    if not _in_notebook():
        print(
            f"{len(images)} images, and no notebook to show them in: "
            'jd.analysis.save_grid("images.png", images) writes them'
        )
        return
    from IPython.display import Image as Shown
    from IPython.display import display

    png = io.BytesIO()
    _image(picture).save(png, format="PNG")
    display(Shown(data=png.getvalue(), format="png"))


def by_class(
    images: Any, labels: Any, classes: Sequence[str] = (), columns: int = 0
) -> Sheet:
    """A sheet of images arranged by class.

    Few classes stand side by side, each in as many columns as make the sheet about square,
    under its name. Where that would be a strip, or `columns` is given, images are sorted by
    class and each has its name below. Without any class there is no text. A class without
    a name is shown by its number.

    Raises:
        ValueError: labels of another number than images.
    """
    images, labels = _checked(images), np.asarray(labels)
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"labels are one class number for each of {len(images)} images, got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    order = np.argsort(np.where(labels < 0, labels.max() + 1, labels), kind="stable")
    images, labels = images[order], labels[order]
    present, counts = list(dict.fromkeys(labels.tolist())), np.bincount(labels + 1)
    heads = names(present, classes)
    if present == [-1]:
        return Sheet(images, columns or _square(images))
    height, width = images.shape[1:3]
    each = max(1, round(math.sqrt(counts.max() / len(present) * height / width)))
    deep = math.ceil(counts.max() / each)
    strip = len(present) * each * width > 3 * deep * height
    if len(present) > 1 and (strip or columns):
        captions = names(labels.tolist(), classes)
        return Sheet(images, columns or _square(images), captions=captions)
    if len(present) == 1:
        return Sheet(images, columns or _square(images), heads=heads)
    cells = np.full((deep, len(present), each, *images.shape[1:]), 255, np.uint8)
    for column, k in enumerate(present):
        of_class = images[labels == k]
        missing = deep * each - len(of_class)
        blank = np.full((missing, *images.shape[1:]), 255, np.uint8)
        cells[:, column] = np.concatenate([of_class, blank]).reshape(cells[:, column].shape)
    cells = cells.reshape(-1, *images.shape[1:])
    return Sheet(cells, len(present) * each, heads=heads)


def names(labels: Any, classes: Sequence[str] = ()) -> list[str]:
    """The name of each label [N]; its number where it has none.

    >>> names([1, 0, 2, -1], ("cat", "dog"))
    ['dog', 'cat', '2', 'no class']
    """
    known = {-1: "no class", **dict(enumerate(map(str, classes)))}
    return [known.get(int(label), str(label)) for label in labels]


def plain(text: object) -> str:
    """A text from data, escaped for matplotlib, which would read $ as mathematics.

    >>> plain("costs $5 to $6")
    'costs \\\\$5 to \\\\$6'
    """
    lines = str(text).split("\n")
    return "\n".join(printable(line).replace("$", r"\$") for line in lines)


def _checked(images: Any) -> UInt8[np.ndarray, "N H W C"]:
    """Images as bytes.

    Raises:
        ValueError: another shape, or values that are not pixels.
    """
    shape = np.shape(images)
    if len(shape) != 4 or not all(shape) or shape[-1] not in (1, 3):
        raise ValueError(
            "images are [N, H, W, C] with 1 or 3 channels, and at least one of them; got "
            f"shape {shape}"
            + (": decode latents first" if len(shape) == 4 and shape[-1] > 3 else "")
        )
    return to_uint8(images)


def _square(images: UInt8[np.ndarray, "N H W C"]) -> int:
    """The columns that make a sheet about square."""
    count, height, width, _ = images.shape
    return min(count, max(1, math.ceil(math.sqrt(count * height / width))))


def _draw(sheet: Sheet) -> UInt8[np.ndarray, "GH GW C"]:
    """The sheet as pixels, its texts around the images."""
    sheet = replace(sheet, images=_enlarged(sheet.images))
    count, high, wide, channels = sheet.images.shape
    lines = math.ceil(count / sheet.columns)
    _check_texts(sheet, count, lines)
    left = _margin(sheet.rows)
    top = LINE if sheet.heads else 0
    span = sheet.columns // len(sheet.heads) if sheet.heads else sheet.columns
    x = lambda column: left + GAP + column * (wide + GAP) + column // span * APART
    deep = high + GAP + (LINE if sheet.captions else 0)
    y = lambda row: top + GAP + row * deep
    size = (y(lines), x(sheet.columns - 1) + wide + GAP, channels)
    canvas = np.full(size, 255, np.uint8)
    for i, image in enumerate(sheet.images):
        row, column = divmod(i, sheet.columns)
        canvas[y(row) : y(row) + high, x(column) : x(column) + wide] = image
    if not (sheet.rows or sheet.heads or sheet.captions):
        return canvas
    picture = _image(canvas)
    pen = ImageDraw.Draw(picture)
    ink = {"font": _font(), "fill": 40 if channels == 1 else (40, 40, 40)}
    for row, text in enumerate(sheet.rows):
        pen.text((GAP, y(row) + high / 2), _lines(text, WIDEST), anchor="lm", **ink)
    for i, text in enumerate(sheet.heads):
        room = span * (wide + GAP) - GAP
        middle = x(i * span) + room / 2, top / 2 + GAP
        pen.text(middle, _cut(printable(text), room + APART - 2), anchor="mm", **ink)
    for i, text in enumerate(sheet.captions):
        row, column = divmod(i, sheet.columns)
        middle = x(column) + wide / 2, y(row) + high + LINE / 2
        pen.text(middle, _cut(printable(text), wide), anchor="mm", **ink)
    return np.asarray(picture).reshape(size)


def _enlarged(images: UInt8[np.ndarray, "N H W C"]) -> UInt8[np.ndarray, "N EH EW C"]:
    """By a whole factor, if they are smaller than SIDE."""
    factor = max(1, SIDE // round(math.sqrt(images.shape[1] * images.shape[2])))
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def _check_texts(sheet: Sheet, count: int, lines: int) -> None:
    """Raises ValueError unless there is one text for each row, column group and image."""
    if sheet.columns < 1:
        raise ValueError(f"columns must be at least 1, got {sheet.columns}")
    if sheet.rows and len(sheet.rows) != lines:
        raise ValueError(f"{len(sheet.rows)} names of rows, but the sheet has {lines}")
    if sheet.heads and sheet.columns % len(sheet.heads):
        raise ValueError(f"{len(sheet.heads)} headings over {sheet.columns} columns")
    if sheet.captions and len(sheet.captions) != count:
        raise ValueError(f"{len(sheet.captions)} captions for {count} images")


def _image(picture: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


@cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along and which knows most alphabets."""
    import matplotlib

    path = os.path.join(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
    return ImageFont.truetype(path, LETTERS)


def _margin(texts: Sequence[str]) -> int:
    """Pixels that the names of rows need."""
    lines = [line for text in texts for line in _lines(text, WIDEST).split("\n")]
    longest = max(map(_font().getlength, lines)) if lines else 0
    return math.ceil(longest) + 4 * GAP if lines else 0


def _lines(text: str, width: float | int) -> str:
    """Each line of a text as it fits into a width."""
    return "\n".join(_cut(printable(line), width) for line in text.split("\n"))


def _cut(text: str, width: float | int) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    if _font().getlength(text) <= width:
        return text
    while text and _font().getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code."""
    shell = sys.modules.get("IPython")
    return getattr(shell and shell.get_ipython(), "kernel", None) is not None
