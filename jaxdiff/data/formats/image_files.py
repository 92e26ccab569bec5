"""Image files as arrays of bytes: one way for training, preparing, references and scores.

Every mode of Pillow's becomes RGB, or grey, by its range, or is an error:

    1, L, P, RGB, RGBX, CMYK, YCbCr, HSV   as Pillow converts them
    LA, La, PA, RGBA, RGBa, tRNS           laid on white
    I;16 and its byte orders               round(255 v / 65535); of 12-bit TIFFs, / 4095
    I                                      as I;16 where its format has 16 bits (PGM)
    other I, F, LAB                        error: the value of white is unknown

Colours of 16 bits come from Pillow with their upper 8.

An image is fitted as [EDM2] and its forerunners do for ImageNet: halved with a box filter
while both sides are at least twice as long as wanted, resized with a bicubic filter so that
it covers what is wanted, and cropped in the centre. Of one that is ASPECT times longer than
that only the middle is resized.

Images in memory at a time are bounded, whatever the number of threads: together they have
at most `most_pixels()` pixels, and a single larger one is an error. PNG files have
checksums, which are compared.
"""

import contextlib
import functools
import io
import math
import os
import re
import threading
import zlib
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxdiff.types.ranges import Whole

MAX_PIXELS = 2**26
"""Pixels that images in memory may have together: about 0.6 GB."""
VARIABLE = "JAXDIFF_MAX_PIXELS"
"""The environment variable that sets another number."""
ASPECT = 8
STRIP = 2**20
"""Pixels that are converted at a time."""
FOREIGN = frozenset({"eps", "ps", "wmf", "emf"})
NOT_READ = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "IPTC", "FPX", "MIC")
"""Formats that Pillow leaves to other programs, or that are not rasters."""
HEAVY = ("WEBP", "AVIF", "JPEG2000")
"""Formats whose decoders need twice the memory, as progressive JPEG does."""
BYTES = {"1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV"} | {
    "LA", "La", "PA", "RGBA", "RGBa"
}  # fmt: skip
"""Pillow's modes of 8 bits a channel."""


@functools.cache
def extensions() -> frozenset[str]:
    """The extensions of files that are read, in small letters, without the dot."""
    from PIL import Image

    kinds = {*formats()}
    known = Image.registered_extensions().items()
    return frozenset(extension[1:] for extension, kind in known if kind in kinds)


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    from PIL import Image

    Image.init()
    return tuple(kind for kind in Image.ID if kind not in NOT_READ)


def most_pixels() -> int:
    """$JAXDIFF_MAX_PIXELS, or MAX_PIXELS where that is unset.

    Raises:
        ValueError: it is not a number of pixels.
    """
    text = os.environ.get(VARIABLE) or str(MAX_PIXELS)
    if not text.isdecimal() or not 0 < int(text[:20]) < 2**48:
        raise ValueError(f"{VARIABLE} must be a number of pixels, got {text[:40]!r}")
    return int(text)


Side = Annotated[
    int,
    Whole(1, 2**14, "the side of a square, as the networks take squares alone: images are "
          "cropped to it; pad them to keep their rims"),
]  # fmt: skip
"""Pixels along the edges of an image."""


class Budget:
    """A limit on the sum of the amounts in use, first come, first served."""

    def __init__(self) -> None:
        self._line, self._changed = threading.Lock(), threading.Condition()
        self._used = 0

    @contextlib.contextmanager
    def of(self, amount: int, limit: int) -> Iterator[None]:
        """Waits until this amount fits under the limit; alone it always does."""
        with self._line, self._changed:
            self._changed.wait_for(lambda: not self._used or self._used + amount <= limit)
            self._used += amount
        try:
            yield
        finally:
            with self._changed:
                self._used -= amount
                self._changed.notify_all()


_budget = Budget()


def decoded(
    data: bytes, height: int, width: int, channels: int = 3
) -> UInt8[np.ndarray, "height width channels"]:
    """The bytes of an image file, fitted to this size, as RGB or as grey with one channel.

    Raises:
        ValueError: not an image that Pillow can read, or more pixels than fit into memory.
    """
    from PIL import ImageOps

    with opened(data) as image:
        ImageOps.exif_transpose(image, in_place=True)
        image = converted(_middle(image, height, width), channels)
        return fitted(image, height, width).reshape(height, width, channels)


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Any]:
    """The Pillow image of a file's bytes, its pixels read; waits for memory for it.

    Raises:
        ValueError: as `decoded`, also for whatever Pillow raises inside of the context.
    """
    require_checksums(data)
    with _errors(), header(data) as image:
        heavy = _is_heavy(image)
        with _budget.of(math.prod(image.size) * (1 + heavy), most_pixels()):
            image.load()
            require_few(math.prod(image.size) * (1 + heavy), image.size)
            yield image


def header(data: bytes) -> Any:
    """The Pillow image of a file's bytes, whose pixels are not read yet.

    Raises:
        ValueError: it has more pixels than fit into memory.
        Exception: whatever Pillow raises on a file that it cannot read.
    """
    from PIL import Image

    if os.environ.get(VARIABLE) and Image.MAX_IMAGE_PIXELS is not None:
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, most_pixels())
    image = Image.open(io.BytesIO(data), formats=formats())
    require_few(math.prod(image.size) * (1 + _is_heavy(image)), image.size)
    return image


def _is_heavy(image: Any) -> bool:
    return image.format in HEAVY or bool(image.info.get("progressive"))


class Kind(NamedTuple):
    """The header of an image file; `changed` is what `decoded` would do to it."""

    width: int
    height: int
    mode: str
    changed: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.width} x {self.height} {self.mode}"
        return f"{text} ({', '.join(self.changed)})" if self.changed else text


def kind(data: bytes) -> Kind:
    """Size, Pillow's mode, and what is more than its pixels, by the header alone.

    Raises:
        ValueError: as `decoded`.
    """
    with _errors(), header(data) as image:
        changed = {
            "transparent": image.has_transparency_data,
            "16 bits a channel": _is_deep(image),
            "turned by its EXIF data": _exif(image, data).get(ORIENTATION, 1) != 1,
        }
        names = tuple(name for name, is_so in changed.items() if is_so)
        return Kind(*image.size, image.mode, names)


ORIENTATION = 0x0112
"""The EXIF tag of the orientation."""


def _exif(image: Any, data: bytes) -> Any:
    """The EXIF data; those of a PNG file may follow the pixels, which are decoded then."""
    from PIL import Image

    without = image.format == "PNG" and not (b"eXIf" in data or b"Raw profile" in data)
    return Image.Image.getexif(image) if without else image.getexif()


def _is_deep(image: Any) -> bool:
    """Whether channels of the file have more than the 8 bits that Pillow's mode has."""
    for _, _, _, args in image.tile if image.mode in BYTES else ():
        raw, *more = args if isinstance(args, tuple) else (args,)
        largest = more[0] if image.format == "PPM" and more else 0
        if ";16" in str(raw) or (isinstance(largest, int) and largest > 255):
            return True
    return False


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Makes one line of whatever Pillow raises: its decoders have errors of all kinds."""
    from PIL import Image

    try:
        yield
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        count = pixels[1] if pixels else "too many"
        raise ValueError(
            f"it has {count} pixels, more than the memory for images allows: make it "
            f"smaller, or set {VARIABLE} to as many, at 10 bytes each"
        ) from error
    except Exception as error:
        text = str(error).partition(" <_io.BytesIO")[0]  # an address in memory
        raise ValueError(text.partition("\n")[0] or type(error).__name__) from error


def require_few(cost: int, size: tuple[int, int]) -> None:
    """Checks that the pixels of an image fit into memory.

    Raises:
        ValueError: they do not; the message has the size and how to allow it.
    """
    if cost > (most := most_pixels()):
        width, height = size
        raise ValueError(
            f"it has {width} x {height} pixels, too many for the memory that images may "
            f"take: make it smaller, or set {VARIABLE}={cost} (now {most}), which takes up "
            f"to {cost * 10 / 1e9:.1f} GB"
        )


def require_checksums(data: bytes) -> None:
    """Checks the checksums of all chunks of a PNG file; Pillow checks few.

    Raises:
        ValueError: one does not match; the message has the name of the chunk.
    """
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return
    view, at, kind = memoryview(data), 8, b""
    while at + 12 <= len(view) and kind != b"IEND":
        end = at + 8 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        if end + 4 > len(view):
            raise ValueError("the PNG file is cut short")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise ValueError(
                f"the PNG file is damaged: the checksum of {kind!r} does not match"
            )
        at = end + 4


def _middle(image: Any, height: int, width: int) -> Any:
    """The middle of an image that is much longer than one of this shape."""
    scale = max(width / image.width, height / image.height)
    across = min(image.width, math.ceil(ASPECT * width / scale))
    down = min(image.height, math.ceil(ASPECT * height / scale))
    if (across, down) == image.size:
        return image
    left, top = (image.width - across) // 2, (image.height - down) // 2
    return image.crop((left, top, left + across, top + down))


def converted(image: Any, channels: int) -> Any:
    """The image in RGB, or in grey with one channel; a strip at a time, to save memory.

    Raises:
        ValueError: a mode that has no known range.
    """
    from PIL import Image

    mode, white = ("RGB" if channels == 3 else "L"), _white(image)
    inverted = image.format == "TIFF" and image.tag_v2.get(262) == 0  # Pillow forgets it
    if image.mode == mode and not image.has_transparency_data:
        return image
    made = Image.new(mode, image.size)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        part = _grey(part, white, inverted) if white else _on_white(part)
        made.paste(part if part.mode == mode else part.convert(mode), (0, top))
    return made


def _white(image: Any) -> int:
    """The value of white in an image of whole numbers; 0 of an image of bytes.

    Raises:
        ValueError: it is not known.
    """
    bits = image.tag_v2.get(258) if image.format == "TIFF" else None
    if image.mode.startswith("I;16"):
        return 2**12 - 1 if bits == (12,) else 2**16 - 1
    if image.mode == "I" and image.format in ("PPM", "PNG"):
        return 2**16 - 1
    if image.mode in BYTES:
        return 0
    raise ValueError(
        f"its pixels are of Pillow's mode {image.mode}, whose white is not known: save it "
        "with 8 or 16 bits, in grey or RGB"
    )


def _grey(image: Any, white: int, inverted: bool) -> Any:
    """An image of whole numbers in 8 bits, rounded; what is transparent is white."""
    from PIL import Image

    value = np.asarray(image).astype(np.int64)
    grey = (np.clip(value, 0, white) * 255 + white // 2) // white
    grey = 255 - grey if inverted else grey
    if (clear := image.info.get("transparency")) is not None:
        grey[value == clear] = 255
    return Image.fromarray(grey.astype(np.uint8))


def _on_white(image: Any) -> Any:
    """An image of bytes, without transparency."""
    from PIL import Image

    if image.mode == "La":
        image = image.convert("LA")
    if image.has_transparency_data:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA"))
    if image.mode in ("CMYK", "YCbCr", "HSV", "RGBX"):
        return image.convert("RGB")
    return image


def fitted(image: Any, height: int, width: int) -> UInt8[np.ndarray, "height width *C"]:
    """The centre of a Pillow image, resized so that it covers this size."""
    from PIL import Image

    while image.width >= 2 * width and image.height >= 2 * height:
        half = image.width // 2, image.height // 2
        image = image.resize(half, Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    across, down = round(image.width * scale), round(image.height * scale)
    if (across, down) != image.size:
        image = image.resize((across, down), Image.Resampling.BICUBIC)
    top, left = (down - height) // 2, (across - width) // 2
    return np.asarray(image)[top : top + height, left : left + width]
