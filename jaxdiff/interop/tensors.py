"""Tensors by name, from any file that torch wrote."""

import pickle
from typing import Any

import numpy as np

from jaxdiff.interop import archives, torch_legacy, torch_zip
from jaxdiff.runtime.files import PathLike, place


def read(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays in a file of torch's three formats: legacy, zip and TorchScript.

    Nothing of the file is run or imported. Names in nested containers and modules are
    joined by dots, "state_dict.fc.weight"; the arrays are views of the file, read-only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, damage, or a name that is not allowed; one line.
    """
    path = place(path)
    try:
        return torch_zip.arrays(load(archives.mapped(path)))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load(
    data: memoryview, otherwise: str = "not a file of torch: give a .pth or .pt"
) -> Any:
    """The object that torch saved, from the bytes of a file in any of its formats.

    Raises:
        ValueError: damage, a name that is not allowed, or `otherwise` for other files.
    """
    layout = LAYOUTS.get(bytes(data[:1]))
    if layout is None:
        raise ValueError(otherwise)
    return layout.load(data)


LAYOUTS = {archives.HEADER[:1]: torch_zip, pickle.PROTO: torch_legacy}
"""The reader of files that begin with this byte."""
