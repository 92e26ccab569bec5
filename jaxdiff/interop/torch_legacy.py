"""Files that torch wrote, read as NumPy arrays without torch: the legacy layout.

Five pickles in a row: a magic number, the protocol's version, facts of the system, the
object, and the keys of its storages; then for each key a count (int64) and as many raw
values. A storage is a flat array; in the object it stands as

    ("storage", its class, key, device, count)  or  (..., None or (view, offset, count)),

as a tuple or a persistent id. A tensor is a view of one: offset, size and strides, in
elements, each checked against the storage's length. Nothing is copied.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff.interop import pickles
from jaxdiff.interop.unpickler import Global, Record

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001

DTYPES: Mapping[str, np.dtype] = {
    "torch.BFloat16Storage": np.dtype(jnp.bfloat16),
    "torch.BoolStorage": np.dtype("?"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.UntypedStorage": np.dtype("u1"),
    "torch.storage.UntypedStorage": np.dtype("u1"),
}
"""The element types of the classes of storages; untyped ones are bytes."""
TYPED = "torch.storage.TypedStorage"
"""A class without a type: floats, as wide as the bytes of its file allow."""


def load(data: memoryview, budget: Iterator[int] | None = None) -> Any:
    """The object that a file of the legacy layout holds: arrays, in dicts and lists.

    Raises:
        ValueError: another layout, damage, or a name that is neither torch's nor known.
    """
    at, head = 0, []
    for _ in range(3):
        value, at = pickles.load(data, {}, at, budget=budget)
        head.append(value)
    if head[:2] != [MAGIC, PROTOCOL]:
        raise ValueError("not a torch file of the legacy layout, protocol 1001")
    if type(head[2]) is not dict or head[2].get("little_endian") is not True:
        raise ValueError("the torch file was not written by a little-endian machine")
    classes = dict.fromkeys((*DTYPES, TYPED))
    seen: dict[str, tuple] = {}
    note = lambda entry: seen.setdefault(entry_of(entry)[2], entry)
    blank = {**dict.fromkeys(names(), lambda *_: None), **_DICTS, **INERT, **classes}
    root, end = pickles.load(data, blank, at, note, budget)
    alone = type(root) is tuple
    if alone:
        note(root)
    keys, end = pickles.load(data, {}, end, budget=budget)
    storages = _storages(data, end, keys, seen)
    resolve = lambda entry: _resolve(entry_of(entry), storages)
    if alone:
        return resolve(root)
    return pickles.load(data, {**names(), **INERT, **classes}, at, resolve, budget)[0]


def names() -> dict[str, Callable[..., Any]]:
    """The functions for the names in torch pickles: tensors, parameters, ordered dicts."""
    return {
        **_DICTS,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_parameter": lambda data, *_: data,
    }


_DICTS: Mapping[str, Callable[..., Any]] = {"collections.OrderedDict": lambda: {}}
INERT: Mapping[str, Callable[..., Any]] = {
    "argparse.Namespace": lambda: Record("argparse.Namespace", {})
}
"""Other objects in checkpoints, such as training settings: read as data."""


def tensor(storage: Any, offset: Any, size: Any, strides: Any, *_: Any) -> np.ndarray:
    """A tensor as a view of its flat storage; read-only.

    Raises:
        ValueError: it reaches beyond the storage, or has an element more than once.

    >>> tensor(np.arange(6), 1, (2, 2), (1, 2))
    array([[1, 3],
           [2, 4]])
    """
    whole = all(type(v) is tuple for v in (size, strides))
    numbers = (offset, *size, *strides) if whole else ()
    if type(storage) is not np.ndarray or not whole or len(size) != len(strides):
        raise ValueError("a tensor is a storage, an offset, a size and strides")
    if len(size) > 16 or not all(type(n) is int and 0 <= n < 2**40 for n in numbers):
        raise ValueError("a tensor's offset, size or strides are out of range")
    count = math.prod(size)
    if not count:
        return np.zeros(size, storage.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, strides, strict=True))
    if last >= storage.size or count > storage.size:
        raise ValueError(
            f"a tensor of shape {size}, strides {strides} and offset {offset} does not "
            f"fit a storage of {storage.size} elements"
        )
    steps = tuple(step * storage.itemsize for step in strides)
    view = np.lib.stride_tricks.as_strided
    return view(storage[offset:], size, steps, writeable=False)


def entry_of(entry: Any) -> tuple:
    """A storage's entry, checked: ("storage", class, key, device, count, view)."""
    kinds = (str, Global, str, str, int)
    if type(entry) is not tuple or not 5 <= len(entry) <= 6:
        raise ValueError("a storage's entry is not a tuple of five or six")
    if entry[0] != "storage" or tuple(map(type, entry[:5])) != kinds:
        raise ValueError("a storage's entry is not (storage, class, key, device, count)")
    return entry if len(entry) == 6 else (*entry, None)


def _storages(
    data: memoryview, at: int, keys: Any, entries: Mapping[str, tuple]
) -> dict[str, np.ndarray]:
    """The flat arrays that follow the pickles, by key."""
    plain = type(keys) is list and all(type(key) is str for key in keys)
    if not plain or len(keys) != len(entries) or set(keys) != entries.keys():
        raise ValueError("the torch file's keys are not those of its storages")
    storages = {}
    for key in keys:
        count, left = int.from_bytes(data[at : at + 8], "little"), len(data) - at - 8
        kind, declared = entries[key][1].name, entries[key][4]
        if kind == TYPED:
            width = left // max(count, 1) if len(keys) == 1 else 0
            if width not in (2, 4, 8):
                raise ValueError(f"a {TYPED} of {count} elements in {left} bytes")
            dtype = np.dtype(f"<f{width}")
        else:
            dtype = DTYPES[kind]
        if left < 0 or count != declared or count * dtype.itemsize > left:
            raise ValueError(
                f"a storage of {declared} {dtype.name} is followed by a count of {count} "
                f"and {max(left, 0)} bytes: truncated?"
            )
        storages[key] = np.frombuffer(data, dtype, count, at + 8)
        at += 8 + count * dtype.itemsize
    return storages


def _resolve(entry: tuple, storages: Mapping[str, np.ndarray]) -> np.ndarray:
    """The array of an entry, or the part of it that its view covers."""
    storage, view = storages[entry[2]], entry[5]
    if view is None:
        return storage
    if type(view) is not tuple or tuple(map(type, view)) != (str, int, int):
        raise ValueError("a storage's view is not (key, offset, count)")
    _, offset, count = view
    if not 0 <= offset <= offset + count <= storage.size or count < 0:
        raise ValueError(f"a view of {count} at {offset} in a storage of {storage.size}")
    return storage[offset : offset + count]
