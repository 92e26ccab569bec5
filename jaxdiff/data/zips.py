"""Files inside of a ZIP archive, each read when it is asked for.

The directory is read once. A member is then a place in the archive: reading it opens the
archive, so any number of threads and processes may read at once and share nothing.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

HEADER = 30
"""Bytes of a member's own header before its name."""
LARGEST = 2**28
"""More bytes than an image file has."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; `path` is where it is in there, with slashes."""

    archive: str
    path: str
    at: int
    packed: int
    size: int
    crc: int
    stored: bool

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.archive}/{self.path}"

    def read_bytes(self) -> bytes:
        """Its bytes, whose checksum is that of the directory.

        Raises:
            ValueError: damage.
        """
        with open(self.archive, "rb") as file:
            file.seek(self.at)
            header = file.read(HEADER)
            lengths = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
            file.seek(self.at + HEADER + sum(lengths))
            data = file.read(self.packed)
        try:
            inflate = zlib.decompressobj(-15).decompress
            data = data if self.stored else inflate(data, self.size + 1)
        except zlib.error as error:
            raise ValueError(f"the ZIP file is damaged: {error}") from error
        if len(data) != self.size or zlib.crc32(data) != self.crc:
            raise ValueError("the ZIP file is damaged: another checksum, or cut short")
        return data


def members(path: Path) -> dict[str, Member]:
    """The files in an archive by their paths, stored as they are or deflated.

    Raises:
        ValueError: no ZIP archive, or a member that is encrypted, otherwise compressed, or
            larger than image files are.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a ZIP file: {error}") from error
    found = {}
    for info in infos:
        method, where = info.compress_type, f"{path}: {info.filename!r}"
        if info.flag_bits & 1 or method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{where} is encrypted, or neither stored nor deflated")
        if max(info.file_size, info.compress_size) > LARGEST:
            raise ValueError(f"{where} has {info.file_size:,} bytes, which no image has")
        found[info.filename] = Member(
            str(path),
            info.filename,
            info.header_offset,
            info.compress_size,
            info.file_size,
            info.CRC,
            method == zipfile.ZIP_STORED,
        )
    return found
