"""The machine underneath: files, processes, devices, memory, compiler flags, progress."""

from etils import epy

with epy.lazy_api_imports(globals()):
    from jaxdiff.runtime import (
        equal_batches,
        files,
        finite,
        heap,
        jsontext,
        processes,
        progress,
        provenance,
        sharding,
        xla_flags,
    )

__all__ = [
    "equal_batches",
    "files",
    "finite",
    "heap",
    "jsontext",
    "processes",
    "progress",
    "provenance",
    "sharding",
    "xla_flags",
]
