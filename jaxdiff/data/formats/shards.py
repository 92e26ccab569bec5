"""Records of images in shards, and their header.

A folder has `records.json`, the header, and array_record files, its shards. A record is

    label, 4 bytes, little-endian, -1 = none    and then, by the header's encoding,
    raw     the array's bytes, of the header's dtype and shape, C order
    file    a whole image file: PNG, JPEG, or any other that Pillow reads

array_record's own checksums find damage when a record is read; the header has the sizes,
counts and SHA-256 of the shards, of which the first two are compared on opening, and a
checksum of itself.
"""

import dataclasses
import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jaxdiff.runtime import jsontext

HEADER = "records.json"
FORMAT, VERSION = "jaxdiff.records", 1
ENCODINGS = ("raw", "file")
DTYPES = ("uint8", "float32", "float16")
WRITTEN = "group_size:1,uncompressed"
"""array_record's options for writing, for random reads; images are compressed already."""
OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
"""array_record's options for reading at random."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One array_record file: its name in the folder, and what was written."""

    name: str
    count: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        kinds = [type(getattr(self, field.name)) for field in dataclasses.fields(self)]
        if kinds != [str, int, int, str] or self.count < 0:
            raise ValueError(f"not a shard: {self}"[:80])
        if Path(self.name).name != self.name:
            raise ValueError(f"a shard must lie in the folder, got {self.name[:60]!r}")


@dataclasses.dataclass(frozen=True)
class Header:
    """A folder of records: type, classes, and the shards written so far of `total`.

    `of` has the settings they were made with.
    """

    encoding: str
    dtype: str
    shape: tuple[int, ...]
    classes: tuple[str, ...]
    total: int
    shards: tuple[Shard, ...]
    of: dict[str, Any]

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS or self.dtype not in DTYPES:
            raise ValueError(f"unknown encoding {self.encoding!r} or dtype {self.dtype!r}")
        plain = all(type(n) is int and 0 < n < 2**16 for n in self.shape)
        if len(self.shape) != 3 or not plain:
            raise ValueError(f"shape must be height, width, channels, got {self.shape}")
        if not all(type(name) is str for name in self.classes):
            raise ValueError("the names of classes must be strings")

    @property
    def count(self) -> int:
        """Records in all shards."""
        return sum(shard.count for shard in self.shards)


def dumps(header: Header) -> bytes:
    """The header as the JSON of records.json."""
    content = {"format": FORMAT, "version": VERSION, "count": header.count}
    content |= dataclasses.asdict(header)
    return json.dumps(content | {DIGEST: digest(content)}, indent=1).encode()


DIGEST = "header_sha256"


def digest(content: dict[str, Any]) -> str:
    """The SHA-256 of the rest of records.json, whatever its layout."""
    rest = {name: value for name, value in content.items() if name != DIGEST}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_header(folder: Path) -> Header:
    """The header of a folder, whether or not all of its shards are written.

    Raises:
        FileNotFoundError: the folder has no header, so no records.
        ValueError: it is damaged, or of a later version.
    """
    path = folder / HEADER
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {str(path)!r}: make records of images with "
            "jaxdiff prepare_data, of latents with jaxdiff encode"
        )
    try:
        content = jsontext.loads(path.read_bytes(), "it")
        if content["format"] != FORMAT or content["version"] != VERSION:
            raise ValueError(f"it is {content['format']} of version {content['version']}")
        shards = tuple(Shard(**row) for row in content["shards"])
        parts = {name: tuple(content[name]) for name in ("shape", "classes")}
        kinds = {name: content[name] for name in ("encoding", "dtype", "total", "of")}
        header = Header(**kinds, **parts, shards=shards)
        if content["count"] != header.count:
            raise ValueError(f"it counts {content['count']}, its shards {header.count}")
        if content.get(DIGEST, digest(content)) != digest(
            content
        ):  # version 0.1 wrote none
            raise ValueError(
                "its checksum does not match: copy it again, or remove the line of "
                f"{DIGEST!r} if the change is yours"
            )
        return header
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error or type(error).__name__}") from error


def pack(label: int, payload: bytes) -> bytes:
    """A record.

    >>> pack(-1, b"image")
    b'\\xff\\xff\\xff\\xffimage'
    """
    return int(label).to_bytes(4, "little", signed=True) + payload


def unpack(record: bytes) -> tuple[np.int32, bytes]:
    """The label and payload of a record."""
    return np.int32(int.from_bytes(record[:4], "little", signed=True)), record[4:]


def array_of(payload: bytes, header: Header) -> Shaped[np.ndarray, "H W C"]:
    """The array of a raw record, which may be written to.

    Raises:
        ValueError: another number of bytes.
    """
    dtype = np.dtype(header.dtype).newbyteorder("<")
    if len(payload) != math.prod(header.shape) * dtype.itemsize:
        raise ValueError(f"{len(payload)} bytes do not make {header.dtype} {header.shape}")
    return np.frombuffer(payload, dtype).reshape(header.shape).astype(header.dtype)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Reader:
    """Records by number, in the order of the shards; threads may read at once."""

    def __init__(self, folder: Path, header: Header) -> None:
        """Opens all shards.

        Raises:
            ImportError: array_record is not installed.
            FileNotFoundError, ValueError: a shard is missing, or cut short.
        """
        self._paths = [folder / shard.name for shard in header.shards]
        self._readers = [
            opened(path, shard)
            for path, shard in zip(self._paths, header.shards, strict=True)
        ]
        counts = (shard.count for shard in header.shards)
        self._ends = np.array(list(itertools.accumulate(counts)), np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < len(self):
            raise IndexError(f"there is no record {index} among {len(self)}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        at = index - (int(self._ends[number - 1]) if number else 0)
        try:
            return self._readers[number].read([at])[0]
        except RuntimeError as error:
            text = str(error).partition("\n")[0].partition("; ")[0]
            raise ValueError(
                f"{self._paths[number]}: record {at} cannot be read: {text}"
            ) from error


def opened(path: Path, shard: Shard) -> Any:
    """array_record's reader of a shard, whose size and count are compared.

    Raises:
        ImportError, FileNotFoundError, ValueError: as `Reader`.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no {str(path)!r}, which {HEADER} names")
    if (size := path.stat().st_size) != shard.bytes:
        raise ValueError(f"{path} has {size:,} bytes, not {shard.bytes:,}: copy it again")
    reader = module().ArrayRecordReader(str(path), OPTIONS, file_reader_buffer_size=2**15)
    if not reader.ok() or reader.num_records() != shard.count:
        raise ValueError(
            f"{path} is damaged, or lacks some of {shard.count} records: copy it again"
        )
    return reader


def module() -> Any:
    """array_record's module.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from array_record.python import array_record_module
    except ImportError as error:
        raise ImportError(
            'records need array_record, which comes with: pip install "jaxdiff[records]"'
        ) from error
    return array_record_module
