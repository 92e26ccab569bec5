"""Reads weight files in common formats as state dicts: torch's formats, safetensors.

A training checkpoint is a dict with several entries; published results were made with its
averaged weights, `ema`. `args`, an argparse Namespace, is data like the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.interop import archives, torch_zip
from jaxdiff.interop.sources import Tensors
from jaxdiff.interop.tensors import load
from jaxdiff.interop.unpickler import Record
from jaxdiff.runtime import jsontext
from jaxdiff.runtime.files import PathLike, place, printable

PARTS = ("ema", "model", "state_dict")
"""Entries of a checkpoint that are weights, in order of preference."""
OTHERWISE = "neither a torch file nor safetensors: give .pt or .safetensors"
"""The message about another kind of file."""
DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
}
"""Types of tensors in safetensors."""


@dataclass(frozen=True)
class Weights:
    """A state dict, and the other contents of its file."""

    tensors: Tensors
    """Tensors by name; views of the file, in its own types."""
    part: str = ""
    """The checkpoint's entry that holds them; "" if the file holds nothing else."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the training, as plain values."""


def read(path: PathLike) -> Weights:
    """The weights in a file, whatever its name: torch's formats, or safetensors.

    Nothing of the file is run or imported.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another kind of file, damage, or a name that is not allowed; one line.
    """
    path = place(path)
    try:
        data = archives.mapped(path)
        if is_safetensors(bytes(data[:9])):
            return Weights(_safetensors(path, data))
        chosen = _chosen(load(data, OTHERWISE))
        if bytes(data[:4]) == archives.HEADER:
            archives.require_intact(path)
        return chosen
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def is_safetensors(start: bytes) -> bool:
    """Whether a file's start is that of safetensors: a length of 8 bytes, then JSON."""
    return start[8:9] == b"{"


def _chosen(root: Any) -> Weights:
    """The preferred weights in an object that torch saved."""
    part = ""
    args: dict[str, Any] = {}
    if type(root) is dict:
        parts = (name for name in PARTS if type(root.get(name)) in (dict, Record))
        part = next(parts, "")
        args = _plain(root.get("args"))
    tensors = torch_zip.arrays(root[part] if part else root)
    if not tensors:
        raise ValueError("there are no tensors in it")
    if all(name.startswith("module.") for name in tensors):  # from DataParallel
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return Weights(tensors, part, args)


def _plain(args: Any) -> dict[str, Any]:
    """The entries of a Namespace or a dict that are numbers, strings or None."""
    state = args.state if type(args) is Record else args
    if type(state) is not dict:
        return {}
    plain = (str, int, float, bool, type(None))
    return {str(key): value for key, value in state.items() if type(value) in plain}


def _safetensors(path: PathLike, data: memoryview) -> dict[str, np.ndarray]:
    """The tensors of a safetensors file, whose header the `safetensors` package checks."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "np"):
            pass  # this checks sizes, offsets and types against the file's length
    except SafetensorError as error:
        text = printable(str(error).splitlines()[0])[:160]
        raise ValueError(f"incomplete or damaged safetensors file: {text}") from error
    begin = 8 + int.from_bytes(data[:8], "little")
    header = jsontext.loads(bytes(data[8:begin]), "its header")
    header.pop("__metadata__", None)
    return {name: _view(name, data[begin:], entry) for name, entry in header.items()}


def _view(name: str, data: memoryview, entry: Mapping[str, Any]) -> np.ndarray:
    """The tensor that an entry of the header describes; its other keys are ignored."""
    dtype, shape, (start, end) = (entry[k] for k in ("dtype", "shape", "data_offsets"))
    if dtype not in DTYPES:
        raise ValueError(
            f"{printable(name)[:80]} has type {dtype}; weights are {', '.join(DTYPES)}"
        )
    return np.frombuffer(data[start:end], DTYPES[dtype]).reshape(shape)
