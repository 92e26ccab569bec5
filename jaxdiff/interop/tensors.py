"""Tensors by name, from any file that torch wrote."""

import pickle

import numpy as np

from jaxdiff.files import PathLike, place
from jaxdiff.interop import archives, torchfiles, torchzip


def read(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays in a file of torch's three formats: legacy, zip and TorchScript.

    Nothing of the file is run or imported. Names in nested containers and modules are
    joined by dots, "state_dict.fc.weight"; the arrays are views of the file, read-only.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, damage, or a name that is refused; one line.
    """
    path = place(path)
    try:
        data = archives.mapped(path)
        layout = LAYOUTS.get(bytes(data[:1]))
        if layout is None:
            raise ValueError("no file that torch wrote: give a .pth or .pt")
        return torchzip.arrays(layout.load(data))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


LAYOUTS = {archives.HEADER[:1]: torchzip, pickle.PROTO: torchfiles}
"""What reads a file that begins with this byte."""
