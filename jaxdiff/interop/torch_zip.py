"""Files that torch wrote, read as NumPy arrays without torch: the zip layout.

A zip in which all lies in one folder: data.pkl is a pickle of the object, data/KEY the
raw values of a storage, byteorder their byte order. In the pickle a storage is a persistent
id ("storage", its class, KEY, device, count), and a tensor a view of one, as in the
legacy layout. torch.save writes it (.pth, .pt), and so does TorchScript, whose objects
have classes `__torch__.…`, defined by source code in code/: they are read as `Record`s of
their attributes, and the code is not read. Nothing is copied.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from jaxdiff.interop import archives, pickles, torch_legacy
from jaxdiff.interop.archives import Member
from jaxdiff.interop.unpickler import Record
from jaxdiff.runtime.files import printable

PICKLE = 2**24
"""The largest data.pkl, in bytes; that of 343 tensors has 50,000."""

SCRIPT: Mapping[str, Callable[..., Any]] = {
    "torch.jit._pickle.restore_type_tag": lambda value, tag: value,
    **{f"torch.jit._pickle.build_{kind}list": lambda values: values
       for kind in ("int", "double", "bool", "tensor")},
}  # fmt: skip
"""The functions for TorchScript's other names, which return their lists."""


def load(data: memoryview) -> Any:
    """The object that a file of the zip layout holds: arrays in dicts, lists, `Record`s.

    Raises:
        ValueError: another layout, damage, or a name that is neither torch's nor known.
    """
    members = archives.members(data)
    roots = [name[:-9] for name in members if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(roots) != 1:
        raise ValueError("a zip without data.pkl in its folder: not written by torch.save")
    part = lambda name: members.get(f"{roots[0]}/{name}")
    order = part("byteorder")
    if order and bytes(archives.read(order, 16)) != b"little":
        raise ValueError("the torch file was not written by a little-endian machine")
    code = archives.read(members[f"{roots[0]}/data.pkl"], PICKLE)
    names = {
        **torch_legacy.names(),
        **torch_legacy.INERT,
        **dict.fromkeys(torch_legacy.DTYPES),
        **SCRIPT,
        **_classes(code),
    }
    storage = lambda entry: _storage(torch_legacy.entry_of(entry), part)
    root, end = pickles.load(code, names, persistent=storage)
    if end != len(code):
        raise ValueError(f"data.pkl has {len(code) - end} bytes after its end")
    return root


def _classes(code: memoryview) -> dict[str, Callable[..., Any]]:
    """The classes of TorchScript that a pickle names, each of which builds a `Record`."""
    matches = re.finditer(rb"c(__torch__[\w.]{0,200})\n(\w{1,100})\n", code)
    names = (
        b".".join(name.groups()).decode() for name in itertools.islice(matches, 10_000)
    )
    return {name: _record(name) for name in names}


def _record(name: str) -> Callable[[], Record]:
    return lambda: Record(name, {})


def _storage(entry: tuple, part: Callable[[str], Member | None]) -> np.ndarray:
    """The flat array of a storage's entry: its member's bytes, not copied."""
    _, kind, key, _, count, view = entry
    member = part(f"data/{key}")
    if member is None or view is not None:
        raise ValueError(f"the zip has no storage data/{printable(key)[:80]}")
    if not member.stored:
        raise ValueError(
            f"{printable(member.name)[:80]} is compressed, unlike the storages of torch"
        )
    dtype = torch_legacy.DTYPES.get(kind.name)
    if dtype is None:
        raise ValueError(f"{printable(kind.name)[:80]} is not a class of storages")
    if member.size != count * dtype.itemsize:
        raise ValueError(
            f"a storage of {count} {dtype.name} has {member.size} bytes in the zip"
        )
    return np.frombuffer(archives.read(member, member.size, checked=False), dtype)


def arrays(root: Any) -> dict[str, np.ndarray]:
    """The arrays in an object by their path, joined by dots: a state dict.

    Raises:
        ValueError: more values or longer names than weights have, or one name twice.

    >>> arrays({"net": {"w": np.ones(1)}, "all": [np.zeros(2), None], "epoch": 3})
    {'net.w': array([1.]), 'all.0': array([0., 0.])}
    """
    by_path: dict[str, np.ndarray] = {}
    todo: list[tuple[str, Any]] = [("", root)]
    for _ in range(VALUES + 1):
        if not todo:
            return by_path
        name, value = todo.pop()
        if len(name) > NAME:
            raise ValueError(f"a name of {len(name)} characters, {name[:40]!r}…")
        if type(value) is np.ndarray:
            if name in by_path:
                raise ValueError(f"there are two arrays {name!r}")
            by_path[name] = value
        else:
            inside = f"{name}." if name else ""
            parts = [(f"{inside}{key}", part) for key, part in _parts(value)]
            todo.extend(reversed(parts))
    raise ValueError(f"more than {VALUES:,} values: not a file of weights")


VALUES, NAME = 100_000, 250
"""Bounds on the values searched for arrays, and on the characters of their names."""


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    """Keys and values of a container; nothing of anything else."""
    if type(value) is Record:
        return value.state.items()
    if type(value) is dict:
        return value.items()
    return enumerate(value) if type(value) in (list, tuple) else ()
