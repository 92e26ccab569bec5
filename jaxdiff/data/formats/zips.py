"""Files inside of a ZIP archive, each read on demand.

The directory is read once. Reading a member opens the archive again, so any number of
threads and processes may read at once and share nothing.
"""

from dataclasses import dataclass
from pathlib import Path

from jaxdiff.interop import archives

LARGEST = 2**28
"""More bytes than an image file has."""
MEMBERS, DIRECTORY = 2_000_000, 2**28
"""Members that an archive may have, and bytes of its directory; ImageNet has 1,300,000."""
CHECKED = 10_000
"""Headers of members are checked on listing, in archives of at most this many."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive; `path` is where it is in there, with slashes."""

    archive: str
    path: str
    at: int
    packed: int
    size: int
    crc: int
    method: int

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.archive}/{self.path}"

    def require_readable(self) -> None:
        """Checks, before anything is read, that it can be read.

        Raises:
            ValueError: another compression than deflation, or more bytes than an image has.
        """
        if self.method not in (0, 8):
            raise ValueError(
                f"{self} is compressed by method {self.method}: make the archive with "
                "deflation, or without compression"
            )
        if max(self.size, self.packed) > LARGEST:
            raise ValueError(f"{self} has {self.size:,} bytes, which no image has")

    def read_bytes(self) -> bytes:
        """Its bytes, whose checksum is that of the directory.

        Raises:
            ValueError: damage, encryption, an unknown compression, or more bytes than an
                image has.
        """
        with open(self.archive, "rb") as file:
            file.seek(self.at)
            head = file.read(archives.HEAD)
            head += file.read(int.from_bytes(head[26:28], "little"))
            flags = int.from_bytes(head[6:8], "little")
            entry = archives.Entry(
                head[archives.HEAD :], flags, self.method, self.crc, 0, 0, self.at
            )
            if normal(entry.name) != self.path:
                raise ValueError(
                    f"the ZIP file is damaged: the directory misplaces {self.path!r}"
                )
            file.seek(archives.body(head, entry))
            raw = file.read(min(self.packed, LARGEST))
        member = archives.Member(
            self.path, memoryview(raw), self.method, self.size, self.crc
        )
        return bytes(archives.read(member, LARGEST))


def normal(name: str) -> str:
    """A member's name as a relative path with slashes, whoever wrote the archive.

    >>> normal(".\\\\cat\\\\1.png"), normal("/cat//2.png")
    ('cat/1.png', 'cat/2.png')
    """
    parts = name.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def members(path: Path) -> tuple[dict[str, Member], set[str]]:
    """The files in an archive by their paths, and the paths of the folders that it names.

    Raises:
        ValueError: not a ZIP archive, damage, a duplicate file, or an encrypted one.
    """
    files: dict[str, Member] = {}
    folders, archive = set(), str(path)
    try:
        data = archives.mapped(path)
        for entry in archives.entries(data, MEMBERS, DIRECTORY):
            name = normal(entry.name)
            if len(files) < CHECKED:
                end = entry.at + archives.HEAD + len(entry.raw_name)
                archives.body(bytes(data[entry.at : end]), entry)
            if entry.name.endswith(("/", "\\")):
                folders.add(name)
                continue
            if name in files:
                raise ValueError(f"it has two files {name[:80]!r}")
            _, _, method, crc, packed, size, at = entry
            files[name] = Member(archive, name, at, packed, size, crc, method)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a ZIP file: {error}") from error
    return files, folders
