"""The run's sheets of samples as data URIs, few and small enough for one page."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from jaxdiff.runtime.files import Place

MOST = 24
"""Sheets in a page."""

BYTES = 1_500_000
"""Of all sheets together; larger ones are shrunk, see `embedded`."""


class Picture(NamedTuple):
    """A sheet: its step, its data URI, and whether it was shrunk."""

    step: int
    uri: str
    shrunk: bool


def chosen(count: int, most: int = MOST) -> list[int]:
    """Which of `count` sheets are shown: evenly over time, the first and the last too.

    >>> chosen(5), chosen(9, 5)
    ([0, 1, 2, 3, 4], [0, 2, 4, 6, 8])
    """
    return np.linspace(0, count - 1, min(count, most)).round().astype(int).tolist()


def embedded(sheets: Sequence[tuple[int, Place]]) -> tuple[list[Picture], list[str]]:
    """The sheets as pictures, and a sentence for each that cannot be read.

    A file above its share of BYTES becomes a JPEG, narrower until it fits.
    """
    pictures, faults = [], []
    share = BYTES // max(1, len(sheets))
    for step, path in sheets:
        try:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                kind, shrunk = image.format, len(content) > share
                content = _jpeg(image, share) if shrunk else content
        except (OSError, ValueError, Image.DecompressionBombError):
            faults.append(f"{path.name} is not a picture that can be read, and left out.")
            continue
        mime = "jpeg" if shrunk or kind == "JPEG" else "png"
        data = base64.b64encode(content).decode()
        pictures.append(Picture(step, f"data:image/{mime};base64,{data}", shrunk))
    return pictures, faults


def _jpeg(image: Image.Image, share: int) -> bytes:
    """The image as a JPEG of at most so many bytes, or of 64 pixels."""
    wide = min(image.width, 1000)
    while True:
        size = wide, max(1, round(image.height * wide / image.width))
        file = io.BytesIO()
        image.convert("RGB").resize(size, Image.Resampling.BOX).save(
            file, "JPEG", quality=82
        )
        if file.tell() <= share or wide <= 64:
            return file.getvalue()
        wide = round(0.75 * wide)
