"""NumPy's arrays in pickles: a shape, a type and bytes, which become an array as they are.

A pickled array is a call of `_reconstruct` and a state (version, shape, dtype, order,
bytes); a dtype is a code such as "f8" and a state with its byte order. Both are read as
records, so of NumPy nothing is run. Python 2 wrote bytes as text, one a character.
"""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jaxdiff.interop.unpickler import Record

_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")
NAMES: Mapping[str, Callable[..., Any] | None] = {
    "numpy.ndarray": None,
    "numpy.dtype": lambda code, *_: Record("dtype", {"code": code}),
    **{f"{c}._reconstruct": lambda *_: Record("array", {}) for c in _CORES},
    **{
        f"{c}.scalar": lambda dtype, raw: Record("array", {"": (1, (), dtype, False, raw)})
        for c in _CORES
    },
}
"""The names that a pickle of arrays may have."""


def array(record: Any, codes: Collection[str]) -> Shaped[np.ndarray, "..."]:
    """The array of at most two dimensions that a record of NumPy's pickling stands for.

    Raises:
        ValueError: not an array, a type that is not in `codes`, or a shape that does not
            fit its bytes.
    """
    state = record.state.get("") if type(record) is Record else None
    if type(state) is tuple and len(state) == 5 and type(state[4]) is str:
        state = (*state[:4], memoryview(state[4].encode("latin-1")))
    kinds = (int, tuple, Record, bool, memoryview)
    if type(state) is not tuple or tuple(map(type, state)) != kinds:
        raise ValueError("its values must be arrays of numbers")
    _, shape, dtype, fortran, raw = state
    code, rest = dtype.state.get("code"), dtype.state.get("")
    order = rest[1] if type(rest) is tuple and len(rest) > 1 else "<"
    if code not in codes or order not in ("<", ">", "|"):
        raise ValueError(f"an array of {str(code)[:20]!r}, not of {' or '.join(codes)}")
    plain = len(shape) <= 2 and all(type(n) is int and 0 <= n < 2**20 for n in shape)
    if not plain or math.prod(shape) * int(code[1]) != len(raw):
        raise ValueError(f"an array of {len(raw):,} bytes does not fit its shape")
    return np.ndarray(shape, np.dtype(order + code), raw, order="F" if fortran else "C")
