"""Arrays of NPZ files, whose shapes are known before any is read.

A member of an NPZ is an NPY: a magic number, a header that says shape, dtype and order,
and the raw values. Numbers only: pickled objects are refused, whatever they hold.
"""

import io
import math
import tokenize
from dataclasses import dataclass

import numpy as np
from jaxtyping import Num

from jaxdiff.interop import archives
from jaxdiff.interop.archives import Member

HEADER = 4096
"""Bytes that hold any header of numbers."""
UNPARSABLE = (tokenize.TokenError, SyntaxError, TypeError, MemoryError, RecursionError)
"""What NumPy raises, beside ValueError, on a header that is no Python literal."""


@dataclass(frozen=True)
class Stored:
    """An array that is not read yet: its member, what its header says, where it ends."""

    member: Member
    shape: tuple[int, ...]
    dtype: np.dtype
    order: str
    at: int

    def read(self) -> Num[np.ndarray, "..."]:
        """The array, compared with its checksum; a view of the file where it can be.

        Raises:
            ValueError: damage.
        """
        data = archives.read(self.member, self.member.size)
        return np.ndarray(self.shape, self.dtype, data, self.at, order=self.order)


def arrays(data: memoryview) -> dict[str, Stored]:
    """The arrays of an NPZ by name, none of them read.

    Raises:
        ValueError: no NPZ, damage, or arrays of anything but numbers.
    """
    if bytes(data[:4]) != archives.HEADER:
        raise ValueError("no NPZ: it does not begin as a zip")
    found = archives.members(data)
    for name in (name for name in found if not name.endswith(".npy")):
        raise ValueError(f"no NPZ, but a zip with {name[:80]!r} in it")
    return {name.removesuffix(".npy"): _stored(found[name]) for name in found}


def _stored(member: Member) -> Stored:
    """What the header of an NPY says, compared with its size."""
    name = member.name[:80]
    file = io.BytesIO(archives.start(member, HEADER))
    try:
        version = np.lib.format.read_magic(file)
        wide = np.lib.format.read_array_header_2_0, np.lib.format.read_array_header_1_0
        shape, fortran, dtype = wide[version == (1, 0)](file, HEADER)
    except (ValueError, *UNPARSABLE) as error:
        raise ValueError(f"{name!r} has no header of an array") from error
    if dtype.kind not in "biuf":
        what = "pickled objects, which are never read" if dtype.hasobject else "no numbers"
        raise ValueError(f"{name!r} holds {what}")
    size = file.tell() + math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or len(shape) > 16 or size != member.size:
        raise ValueError(f"{name!r} has {member.size:,} bytes, and not those of {shape}")
    return Stored(member, shape, dtype, "F" if fortran else "C", file.tell())
