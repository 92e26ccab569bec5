"""Reads NPZ files; shapes are known before any array is read.

A member of an NPZ is an NPY: a magic number, a header with shape, dtype and order, and the
raw values. Numbers, and texts where they are allowed; pickled objects are never read. This
is the one reader of NPZ files: it checks checksums, and bounds what a member may inflate to
by its header and its packed size.
"""

import io
import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from jaxdiff.interop import archives
from jaxdiff.interop.archives import Member
from jaxdiff.runtime.files import Place

HEADER = 4096
"""Bytes that hold any header of numbers."""


@dataclass(frozen=True)
class Stored:
    """An array that is not read yet: its member and its header, which ends at `at`."""

    member: Member
    shape: tuple[int, ...]
    dtype: np.dtype
    order: str
    at: int

    def read(self) -> Shaped[np.ndarray, "..."]:
        """The array, its checksum verified; a view of the file where possible.

        Raises:
            ValueError: damage, or a member that grows beyond reason when inflated.
        """
        require_bounded(repr(self.member.name[:80]), [self.member])
        return self._view(archives.read(self.member, self.member.size))

    def view(self) -> Shaped[np.ndarray, "..."]:
        """The array as a view of the file, read as it is used; checksums are not verified.

        Raises:
            ValueError: it is compressed.
        """
        if not self.member.stored:
            raise ValueError(f"{self.member.name[:80]!r} is compressed: use np.savez")
        return self._view(self.member.raw)

    def _view(self, data: memoryview) -> Shaped[np.ndarray, "..."]:
        return np.ndarray(self.shape, self.dtype, data, self.at, order=self.order)


INFLATED, RATIO = 2**28, 20
"""Bytes that members may have, and times their packed size that larger ones may."""


def require_bounded(what: str, members: Collection[Member]) -> None:
    """Checks that members do not grow beyond reason when inflated.

    Raises:
        ValueError: they do; the message has both sizes.
    """
    packed, size = sum(len(m.raw) for m in members), sum(m.size for m in members)
    if size > max(INFLATED, RATIO * packed):
        raise ValueError(
            f"{what} would grow from {packed:,} to {size:,} bytes: write it uncompressed, "
            "with np.savez, if this is intended"
        )


def load(
    path: Place, names: Collection[str] | None = None, texts: bool = True
) -> dict[str, Shaped[np.ndarray, "..."]]:
    """The arrays of an NPZ file by name, or those of these names that it has.

    They are read-only where they are views of the file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not an NPZ, damage, or arrays of objects; the message lacks the path.
    """
    stored = opened(path, texts)
    wanted = {k: a for k, a in stored.items() if names is None or k in names}
    require_bounded("the file", [a.member for a in wanted.values()])
    return {k: a.read() for k, a in wanted.items()}


def opened(path: Place, texts: bool = False) -> dict[str, Stored]:
    """The arrays of an NPZ file by name, none of them read; a bucket's file is read whole.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: as `arrays`.
    """
    local = isinstance(path, Path)
    data = archives.mapped(path) if local else memoryview(path.read_bytes())
    return arrays(data, texts)


def arrays(data: memoryview, texts: bool = False) -> dict[str, Stored]:
    """The arrays of an NPZ by name, none of them read; texts only if they are allowed.

    Raises:
        ValueError: not an NPZ, damage, or arrays of anything but numbers.
    """
    if bytes(data[:4]) != archives.HEADER:
        raise ValueError("not an NPZ: it does not begin like a zip")
    members = archives.members(data)
    for name in (name for name in members if not name.endswith(".npy")):
        raise ValueError(f"not an NPZ, but a zip with {name[:80]!r} in it")
    kinds = "biufU" if texts else "biuf"
    return {name.removesuffix(".npy"): _stored(members[name], kinds) for name in members}


def _stored(member: Member, kinds: str) -> Stored:
    """The header of an NPY, checked against its size."""
    name = member.name[:80]
    file = io.BytesIO(archives.start(member, HEADER))
    try:
        version = np.lib.format.read_magic(file)
        wide = np.lib.format.read_array_header_2_0, np.lib.format.read_array_header_1_0
        shape, fortran, dtype = wide[version == (1, 0)](file, HEADER)
    except Exception as error:  # NumPy parses it as Python does, with errors of all kinds
        raise ValueError(f"{name!r} has no header of an array") from error
    if dtype.kind not in kinds:
        what = "pickled objects, which are never read" if dtype.hasobject else "no numbers"
        raise ValueError(f"{name!r} holds {what}")
    size = file.tell() + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(shape) > 16 or size != member.size:
        raise ValueError(f"{name!r} has {member.size:,} bytes, which do not fit {shape}")
    return Stored(member, shape, dtype, "F" if fortran else "C", file.tell())
