"""A bucket in memory, where tests have gs:// paths."""

import importlib.machinery
import sys
from types import ModuleType
from typing import Any

import pytest
from etils.epath import backend
from fsspec.implementations.memory import MemoryFileSystem


class Buckets(MemoryFileSystem):
    """Objects by name, which like a cloud's are written whole and never appended to."""

    protocol = "gs"
    cachable = False

    def __init__(self) -> None:
        super().__init__(global_store=False)
        self.sent: list[str] = []
        self.broken = False

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return super()._strip_protocol(str(path).removeprefix("gs://"))

    def _open(self, path: str, mode: str = "rb", **how: Any) -> Any:
        if "a" in mode:
            raise NotImplementedError("objects are not appended to")
        if mode == "wb":
            if self.broken:
                raise RuntimeError("503 the bucket is out\nof order")
            self.sent.append(path.removeprefix("/bucket/"))
        return super()._open(path, mode, **how)

    def glob(self, path: Any, **how: Any) -> Any:
        return [
            path_in_bucket.removeprefix("/") for path_in_bucket in super().glob(path, **how)
        ]


def in_memory(monkeypatch: pytest.MonkeyPatch) -> Buckets:
    """Makes gs:// lead to a bucket in memory."""
    gcsfs = ModuleType("gcsfs")
    gcsfs.__spec__ = importlib.machinery.ModuleSpec("gcsfs", None)
    monkeypatch.setitem(sys.modules, "gcsfs", gcsfs)
    monkeypatch.setenv("EPATH_USE_TF", "0")
    buckets = Buckets()
    monkeypatch.setattr(
        backend.fsspec_backend, "_get_filesystem", lambda name: {"gcs": buckets}[name]
    )
    return buckets
