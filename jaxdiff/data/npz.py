"""Arrays of an NPZ file, read where they stand.

The members of an NPZ that is not compressed lie in the file as they are: after the ZIP
member's own header (30 bytes, its name, its extra field) come an NPY header and the array.
So an array larger than memory is mapped, and only what is used of it is read.
"""

import math
import tokenize
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Shaped

HEADER = 30
"""Bytes of a ZIP member's own header before its name."""

UNPARSABLE = (tokenize.TokenError, SyntaxError, TypeError, MemoryError, RecursionError)
"""What NumPy raises, beside ValueError, on an NPY header that is no Python literal."""


def mapped(path: Path, name: str) -> Shaped[np.ndarray, "..."]:
    """An array of an NPZ that is not compressed, read from the disk as it is used.

    Nothing is unpickled, and nothing outside the member's own bytes is looked at.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no NPZ, has no such array, or has it in a form that cannot be
            mapped.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {str(path)!r}: give the path of one that "
            "data.write_latents wrote, as --config.data.path"
        )
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            known = [n.removesuffix(".npy") for n in archive.namelist()]
            if name not in known:
                held = ", ".join(known) or "nothing"
                raise ValueError(f"there is no array {name!r} in it, it holds {held}")
            info = archive.getinfo(f"{name}.npy")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"{name} is compressed: write it with np.savez")
            return _map(path, file, info)
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _map(path: Path, file: BinaryIO, info: zipfile.ZipInfo) -> Shaped[np.ndarray, "..."]:
    """The member's NPY header, checked against its size, and its bytes as an array."""
    file.seek(info.header_offset)
    local = file.read(HEADER)
    lengths = [int.from_bytes(local[i : i + 2], "little") for i in (26, 28)]
    start = info.header_offset + HEADER + sum(lengths)
    file.seek(start)
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"{info.filename} is of NPY version {version}")
    try:
        shape, fortran, dtype = readers[version](file)
    except UNPARSABLE as error:
        raise ValueError(f"{info.filename} has a damaged header") from error
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds pickled objects, which are never read")
    if fortran:
        raise ValueError(f"{info.filename} is in Fortran order: use np.ascontiguousarray")
    at, size = file.tell(), math.prod(shape) * dtype.itemsize
    if at - start + size != info.file_size or at + size > path.stat().st_size:
        raise ValueError(f"{info.filename} is cut short: write the file again")
    if not size:
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", at, shape)
