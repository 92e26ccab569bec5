"""The machine underneath: files, processes, devices, compiler flags, progress."""

from etils import epy

with epy.lazy_api_imports(globals()):
    from jaxdiff.runtime import (
        equal_batches,
        files,
        finite,
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
    "jsontext",
    "processes",
    "progress",
    "provenance",
    "sharding",
    "xla_flags",
]
