"""Writes files of torch's zip layout, of any object, without torch."""

import io
import zipfile
from collections import OrderedDict
from typing import Any

import numpy as np

from tests import import_writer as writer

CLASSES = {"float16": "Half", "float32": "Float", "float64": "Double", "int64": "Long"}


def tensor(key: str, storage: np.ndarray, *view: Any) -> writer.Calling:
    """A tensor of the storage data/KEY: all of it, or (offset, size, strides)."""
    kind = writer.standing_in(f"torch.{CLASSES[storage.dtype.name]}Storage")
    stored = writer.Persistent(("storage", kind, key, "cpu", storage.size))
    steps = tuple(step // storage.itemsize for step in storage.strides)
    view = view or (0, storage.shape, steps)
    rebuild = "torch._utils._rebuild_tensor_v2"
    return writer.Calling(rebuild, stored, *view, False, OrderedDict())


def archive(
    root: Any,
    storages: dict[str, np.ndarray],
    folder: str = "net",
    compressed: tuple[str, ...] = (),
    **members: bytes,
) -> bytes:
    """The zip of an object, or of a pickle's bytes; other members by name."""
    code = root if isinstance(root, bytes) else writer.dumps(root, 2)
    parts = {"data.pkl": code, "byteorder": b"little", "version": b"3\n"}
    parts |= {f"data/{key}": value.tobytes() for key, value in storages.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for name, data in (parts | members).items():
            kind = zipfile.ZIP_DEFLATED if name in compressed else zipfile.ZIP_STORED
            out.writestr(f"{folder}/{name}", data, kind)
    return file.getvalue()


def state_dict(shapes: dict[str, tuple[int, ...]], **outer: Any) -> bytes:
    """A state dict of float16 zeros, which are all views of one storage."""
    flat = np.zeros(max(int(np.prod(shape)) for shape in shapes.values()), np.float16)
    strides = {n: tuple(int(np.prod(s[i + 1 :])) for i in range(len(s)))
               for n, s in shapes.items()}  # fmt: skip
    tensors = {n: tensor("0", flat, 0, s, strides[n]) for n, s in shapes.items()}
    return archive({**outer, "state_dict": tensors} if outer else tensors, {"0": flat})
