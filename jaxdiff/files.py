"""Files that survive: written whole or not at all, and the cache folder."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` on a binary file that takes the name `path` once it is on disk.

    Whatever goes wrong, and whenever the process is killed, `path` is what it was before
    or all that was written. Missing folders are made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            os.unlink(file.name)
            raise
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def cache_folder() -> Path:
    """$JAXDIFF_CACHE, or ~/.cache/jaxdiff where that is unset or empty."""
    return Path(os.environ.get("JAXDIFF_CACHE") or "~/.cache/jaxdiff").expanduser()
