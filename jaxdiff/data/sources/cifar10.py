"""CIFAR-10: 60,000 photos of 32x32 in ten classes, from its original archive.

A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009. Download
cifar-10-python.tar.gz or cifar-10-binary.tar.gz from
https://www.cs.toronto.edu/~kriz/cifar.html; either, or the folder in it, will do.

    python   data_batch_1 ... 5, test_batch: pickles of Python 2, {"data", "labels"}
    binary   data_batch_1.bin ... 5, test_batch.bin: rows of a label and 3072 bytes

where an image is its red plane, then green, then blue. Pickles are read as data: nothing
in them is run, and only the published ones, byte for byte, are accepted.
"""

import dataclasses
import hashlib
import lzma
import tarfile
import types
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated

import numpy as np
from jaxtyping import Int32, UInt8

from jaxdiff.data.batches import Dataset, Memory
from jaxdiff.data.encoders import Pixels
from jaxdiff.interop import numpy_pickles, pickles
from jaxdiff.runtime.files import PathLike, keep_text, place
from jaxdiff.types import Source, implements
from jaxdiff.types.ranges import Choice, checked

SPLITS = ("train", "test", "all")
CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)
TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST = ("test_batch",)
SIDE, PLANES = 32, 3
ROW = PLANES * SIDE**2
LARGEST = 2**26
"""More bytes than any file of the archive has."""
MD5: Mapping[str, str] = types.MappingProxyType(
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    }
)
"""The published pickles."""

Rows = tuple[UInt8[np.ndarray, "N H W C"], Int32[np.ndarray, " N"]]
"""Images and labels."""


@implements(Source)
@dataclasses.dataclass(frozen=True)
@checked
class CIFAR10:
    """The photos, [32, 32, 3]; 50,000 to train on and 10,000 to test, in memory.

    `flip` mirrors images at random as they are trained on.

    Raises:
        ValueError: an empty path, or a split other than "train", "test" and "all".

    >>> CIFAR10("cifar-10-python.tar.gz").classes[:2]
    ('airplane', 'automobile')
    """

    path: PathLike = "cifar-10-python.tar.gz"
    split: Annotated[str, Choice(*SPLITS)] = "train"
    flip: bool = False

    def __post_init__(self) -> None:
        keep_text(self, "path")
        if not self.path:
            raise ValueError("path is empty: name cifar-10-python.tar.gz, or its folder")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (SIDE, SIDE, PLANES)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels."""
        return CLASSES

    @property
    def encoder(self) -> Pixels:
        """How bytes become x0: mirrored at random with `flip`."""
        return Pixels(flip=self.flip)

    def load(self) -> Dataset:
        """Reads the images into memory.

        Raises:
            FileNotFoundError: there is no such archive or folder.
            ValueError: it is damaged, incomplete, or not CIFAR-10.
        """
        names = {"train": TRAIN, "test": TEST, "all": TRAIN + TEST}[self.split]
        path = place(self.path)
        files = _files(path, names)
        if missing := [name for name in names if name not in files]:
            raise ValueError(f"{path} lacks {', '.join(missing)}")
        parts = []
        for name in names:
            binary, data = files[name]
            try:
                parts.append((from_binary if binary else from_pickle)(name, data))
            except ValueError as error:
                raise ValueError(f"{path}: {name}: {error}") from error
        image, label = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Dataset(Memory(image, label), CLASSES)


def from_binary(name: str, data: bytes) -> Rows:
    """The images of a file of the binary version.

    Raises:
        ValueError: a size or a label that such a file cannot have.

    >>> image, label = from_binary("test_batch", bytes([3, *[255] * 1024, *[0] * 2048]))
    >>> image[0, 0, 0], label
    (array([255,   0,   0], dtype=uint8), array([3], dtype=int32))
    """
    if not data or len(data) % (ROW + 1):
        raise ValueError(
            f"{len(data):,} bytes are not rows of {ROW + 1}: truncated? Download it again"
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, ROW + 1)
    return _images(rows[:, 1:]), _labels(rows[:, 0].tolist(), len(rows))


def from_pickle(name: str, data: bytes) -> Rows:
    """The images of a file of the python version.

    Raises:
        ValueError: not the published file, or without images and labels.
    """
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if MD5.get(name, digest) != digest:
        raise ValueError(
            f"its MD5 is {digest}, the published one's {MD5[name]}: download it again"
        )
    root, end = pickles.load(memoryview(data), numpy_pickles.NAMES)
    if end != len(data):
        raise ValueError(f"{len(data) - end:,} bytes follow its pickle")
    if type(root) is not dict or not {"data", "labels"} <= root.keys():
        raise ValueError("not a dict with data and labels, unlike CIFAR-10's files")
    rows = numpy_pickles.array(root["data"], ("u1",))
    if rows.ndim != 2 or rows.shape[1] != ROW:
        raise ValueError(f"data has shape {rows.shape}, must be [N, {ROW}]")
    return _images(rows), _labels(root["labels"], len(rows))


def _images(rows: UInt8[np.ndarray, "N D"]) -> UInt8[np.ndarray, "N H W C"]:
    """Planes to channels."""
    return rows.reshape(-1, PLANES, SIDE, SIDE).transpose(0, 2, 3, 1)


def _labels(labels: object, count: int) -> Int32[np.ndarray, " N"]:
    """Labels 0 ... 9, one for each image."""
    if type(labels) is not list or len(labels) != count:
        raise ValueError(f"labels must be a list of {count}, one for each image")
    wrong = [k for k in labels if type(k) is not int or not 0 <= k < len(CLASSES)]
    if wrong:
        raise ValueError(f"a label is {str(wrong[0])[:20]}, must lie in 0 ... 9")
    return np.array(labels, np.int32)


Files = dict[str, tuple[bool, bytes]]
"""Whether a file is of the binary version, and its bytes."""


def _files(path: Path, names: tuple[str, ...]) -> Files:
    """The named files of an archive or a folder, at any depth."""
    if path.is_dir():
        inside = (p for pattern in ("*", "*/*") for p in sorted(path.glob(pattern)))
        files = {_key(p.name, names): p for p in inside if p.is_file()}
        large = [str(p) for k, p in files.items() if k and p.stat().st_size > LARGEST]
        if large:
            raise ValueError(f"{large[0]} has more bytes than any file of CIFAR-10")
        return {k: (p.suffix == ".bin", p.read_bytes()) for k, p in files.items() if k}
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file or folder {str(path)!r}: download cifar-10-python.tar.gz "
            "from https://www.cs.toronto.edu/~kriz/cifar.html, and give its path as "
            "--config.data.path"
        )
    files = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                key = _key(name.name, names) if member.isfile() else ""
                if key and member.size <= LARGEST:
                    files[key] = name.suffix == ".bin", archive.extractfile(member).read()
            while archive.fileobj.read(2**20):  # the checksum stands at the end
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        text = str(error).partition("\n")[0].partition(":")[0]
        raise ValueError(
            f"{path} is not an archive of CIFAR-10, or is cut short or damaged: {text}"
        ) from error
    return files


def _key(name: str, names: tuple[str, ...]) -> str:
    """The name of a file of the data set, in either version; "" for any other."""
    plain = name.removesuffix(".bin")
    return plain if plain in names else ""
