"""Memory-mapped files, and zip archives.

A zip ends with a record that says where its directory is; the directory has an entry for
each member, and the member's own header stands before its bytes:

    [header, name, extra, bytes]...  [entry, name, extra, comment]...  end of the directory.

Every length is checked against the length of the file: members lie before
the directory, one after the other, under the name that the directory has for them. Nothing
is written, so names are not paths; nothing is inflated beyond the size its caller allows.
"""

import itertools
import mmap
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxdiff.runtime.files import printable

ENTRY, HEADER, END = b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"
LOCATOR, END64 = b"PK\x06\x07", b"PK\x06\x06"
MEMBERS, DIRECTORY = 20_000, 2**23
"""Bounds on members and bytes of the directory; no archive of weights comes near."""
WIDE, WIDER = 2**16 - 1, 2**32 - 1
"""Values of fields whose number is in a wider field."""


DAMAGED = "{} is damaged: its checksum does not match"


@dataclass(frozen=True)
class Member:
    """A member: its bytes in the archive, and the size and checksum of its content."""

    name: str
    raw: memoryview
    method: int
    size: int
    crc: int

    @property
    def stored(self) -> bool:
        """Whether the bytes are stored without compression."""
        return self.method == 0


class Entry(NamedTuple):
    """An entry of the directory; `at` is the position of the member's header."""

    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    at: int

    @property
    def name(self) -> str:
        """Its path in the archive.

        Names are UTF-8 where they can be, marked or not, since macOS does not mark them;
        otherwise code page 437, as the format defines.
        """
        try:
            return self.raw_name.decode("utf-8")
        except UnicodeDecodeError:
            utf8 = self.flags & 0x800
            return self.raw_name.decode(*(("utf-8", "replace") if utf8 else ("cp437",)))


def mapped(path: Path) -> memoryview:
    """The bytes of a file, memory-mapped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is empty.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    with path.open("rb") as file:
        if not path.stat().st_size:
            raise ValueError("the file is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def members(data: memoryview) -> dict[str, Member]:
    """The members of a zip archive by name, none of them read.

    Raises:
        ValueError: damage, overlapping members, or a duplicate name.
    """
    by_name = {}
    for entry, at in _placed(data):
        if entry.name in by_name:
            raise ValueError(f"the zip has two members {entry.name[:80]!r}")
        raw = data[at : at + entry.packed]
        by_name[entry.name] = Member(entry.name, raw, entry.method, entry.size, entry.crc)
    return by_name


def _placed(data: memoryview) -> Iterator[tuple[Entry, int]]:
    """The entries of a zip archive, and where the bytes of each begin."""
    for entry in entries(data):
        at = body(bytes(data[entry.at : entry.at + HEAD + len(entry.raw_name)]), entry)
        if at + entry.packed > len(data):
            raise ValueError(f"{entry.name[:80]!r} reaches beyond the zip's members")
        yield entry, at


def entries(
    data: memoryview, most: int = MEMBERS, longest: int = DIRECTORY
) -> Iterator[Entry]:
    """The entries of a zip archive's directory, in its order; members are not read.

    `most` and `longest` bound how many there may be, and the bytes of the directory.

    Raises:
        ValueError: damage, members that overlap, or more than the bounds.
    """
    count, start, stop = _directory(data, most, longest)
    at, spans = start, np.empty((count, 2), np.int64)
    for i in range(count):
        entry, at = _entry(data, at, start, stop)
        spans[i] = entry.at, entry.at + HEAD + len(entry.raw_name) + entry.packed
        yield entry
    if at != stop:
        raise ValueError(f"the zip's directory is not one of {count} members")
    spans = spans[np.argsort(spans[:, 0])]
    if (wrong := np.flatnonzero(spans[:-1, 1] > spans[1:, 0])).size:
        raise ValueError(f"members of the zip overlap at byte {spans[wrong[0] + 1, 0]}")


HEAD = 30
"""Bytes of a member's own header before its name."""


def body(head: bytes, entry: Entry) -> int:
    """Where a member's bytes begin; `head` is its own header with its name.

    Raises:
        ValueError: the header is not one, or is another member's.
    """
    name = entry.name[:80]
    if len(head) < HEAD or head[:4] != HEADER:
        raise ValueError(f"{name!r} is not where the zip's directory puts it")
    named, more = struct.unpack_from("<26x2H", head)
    if head[HEAD : HEAD + named] != entry.raw_name:
        raise ValueError(f"{name!r} has another name in its own header")
    return entry.at + HEAD + named + more


def read(member: Member, limit: int, checked: bool = True) -> memoryview:
    """All bytes of a member, at most `limit`; compared with its checksum if `checked`.

    Raises:
        ValueError: more bytes, damage, or a compression other than deflation.
    """
    if member.size > limit:
        raise ValueError(
            f"{printable(member.name)[:80]} has {member.size:,} bytes, more than {limit:,}"
        )
    data = start(member, member.size)
    if len(data) != member.size or (member.stored and len(member.raw) != member.size):
        raise ValueError(
            f"{printable(member.name)[:80]} is damaged: not {member.size:,} bytes long"
        )
    if checked and zlib.crc32(data) != member.crc:
        raise ValueError(DAMAGED.format(printable(member.name)[:80]))
    return data


PIECE = 2**20
"""Bytes of a file that are read at a time where the whole of it is looked at."""


def require_intact(path: Path) -> None:
    """Compares what a zip stores without compression with its checksums.

    The file is read piece by piece, and not by its map, whose pages would stay in memory.

    Raises:
        ValueError: damage; says in which member.
    """
    with path.open("rb") as file:
        for entry, at in _placed(mapped(path)):
            if entry.method:
                continue
            file.seek(at)
            crc = 0
            for done in range(0, entry.packed, PIECE):
                crc = zlib.crc32(file.read(min(PIECE, entry.packed - done)), crc)
            if crc != entry.crc:
                raise ValueError(DAMAGED.format(printable(entry.name)[:80]))


def start(member: Member, count: int) -> memoryview:
    """The first bytes of a member, as many as there are and at most `count`."""
    if member.stored:
        return member.raw[:count]
    if member.method != 8:
        raise ValueError(
            f"{printable(member.name)[:80]} is compressed by method {member.method}"
        )
    packed = member.raw[: 2 * count + 1024]  # deflation never adds as much
    try:
        return memoryview(zlib.decompressobj(-15).decompress(packed, max(count, 1)))[:count]
    except zlib.error as error:
        raise ValueError(f"{printable(member.name)[:80]} is damaged: {error}") from error


def _directory(data: memoryview, most: int, longest: int) -> tuple[int, int, int]:
    """How many members the directory has, where it begins and where it ends."""
    base = max(len(data) - 2**16 - 22, 0)
    at = base + bytes(data[base:]).rfind(END)
    if at < base or at + 22 > len(data):
        raise ValueError("a zip without its end: truncated?")
    *disks, here, count, size, start, comment = struct.unpack_from("<4x4H2LH", data, at)
    if at + 22 + comment != len(data):
        raise ValueError("the zip's end record has a wrong length")
    if WIDE in (count, here) or WIDER in (size, start):
        *disks, here, count, size, start, at = _directory64(data, at)
    if any(disks) or here != count:
        raise ValueError("the zip is one of several parts")
    if count > most or size > longest:
        raise ValueError(f"the zip has {count:,} members, of {size:,} bytes of names")
    if start + size > at:
        raise ValueError("the zip's directory lies outside of it: truncated?")
    return count, start, start + size


def _directory64(data: memoryview, at: int) -> tuple[int, ...]:
    """The same fields of the wider record, and its position."""
    place = struct.unpack_from("<8xQ", data, at - 20)[0] if at >= 20 else 0
    if bytes(data[max(at - 20, 0) :][:4]) != LOCATOR or place + 56 > at - 20:
        raise ValueError("the zip's wide end is missing")
    if bytes(data[place : place + 4]) != END64:
        raise ValueError("the zip's wide end is missing")
    return (*struct.unpack_from("<16x2L4Q", data, place), place)


def _entry(data: memoryview, at: int, limit: int, stop: int) -> tuple[Entry, int]:
    """The entry at a place of the directory, and where the next one is."""
    if at + 46 > stop or bytes(data[at : at + 4]) != ENTRY:
        raise ValueError("the zip's directory is damaged")
    flags, method, crc, packed, size, *lengths, place = struct.unpack_from(
        "<8x2H4x3L3H8xL", data, at
    )
    ends = list(itertools.accumulate(lengths, initial=at + 46))
    if ends[-1] > stop:
        raise ValueError("the zip's directory is damaged")
    name, extra = (bytes(data[a:b]) for a, b in itertools.pairwise(ends[:3]))
    if WIDER in (size, packed, place):
        wide = iter(_wide(extra))
        size, packed, place = (
            next(wide, -1) if n == WIDER else n for n in (size, packed, place)
        )
    entry = Entry(name, flags, method, crc, packed, size, place)
    short = entry.name[:80]
    if min(size, packed, place) < 0:
        raise ValueError(f"{short!r} has no wide sizes in the zip")
    if flags & 1:
        raise ValueError(f"{short!r} is encrypted")
    if place + HEAD > limit:
        raise ValueError(f"{short!r} is not where the zip's directory puts it")
    if place + HEAD + len(name) + packed > limit:
        raise ValueError(f"{short!r} reaches beyond the zip's members: truncated?")
    return entry, ends[-1]


def _wide(extra: bytes) -> Iterator[int]:
    """The numbers of an entry's extra field for wide ones."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            part = extra[at + 4 : at + 4 + length]
            yield from struct.unpack_from(f"<{len(part) // 8}Q", part)
        at += 4 + length
