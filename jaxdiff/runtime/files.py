"""Files that survive: written whole or not at all, here or in a cloud; the cache folder.

A run's folder is a `Place`, which `place` makes of text, and is used by what both kinds of
path have: `/`, `parent`, `name`, `exists`, `is_dir`, `mkdir`, `glob`, `open`, and the bytes
and text of a file. Objects of a cloud are whole by nature, and nothing appends to them.
"""

import importlib.util
import io
import os
import re
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from etils import epath

Place = Path | epath.Path
"""Where a file or a folder lies: on this machine, or in a cloud."""

PathLike = str | os.PathLike[str]
"""What every public function takes as a path, and turns into a `Place` with `place`."""


def place(text: PathLike) -> Place:
    """The path that a text names: of this machine, or after gs:// of a bucket.

    A leading ~ or ~user is that home folder; a folder whose name begins so is ./~name.

    >>> place("runs/mine").name, place(place("runs/mine")).name
    ('mine', 'mine')

    Raises:
        ValueError: it names no bucket, a cloud that checkpoints cannot be kept in, or the
            home of a user who is not known.
        ImportError: a package that reads and writes buckets is missing.
    """
    if not (found := CLOUD.match(str(text))):
        try:
            return Path(text).expanduser()
        except RuntimeError as error:
            raise ValueError(
                f"{text}: there is no such user's home folder; a folder of that name here "
                f"is ./{text}"
            ) from error
    scheme, slashes, bucket = found.groups()
    if slashes == "/":
        raise ValueError(f"{text} has lost a slash, as in a pathlib.Path: give it as text")
    if scheme != "gs":
        raise ValueError(
            f"{text}: no checkpoints can be kept in {scheme}://: use gs://BUCKET/FOLDER, "
            "or mount it and give that folder"
        )
    if not BUCKET.fullmatch(bucket):
        raise ValueError(f"{text} names no bucket ({bucket!r}): use gs://BUCKET/FOLDER")
    if importlib.util.find_spec("gcsfs") is None:
        raise ImportError(f"{text} needs gcsfs, which is not installed: pip install gcsfs")
    return epath.Path(text)


def printable(text: object) -> str:
    """A text that comes from files, as a path, on one line: control characters escaped.

    >>> printable("a\\x1b[31m\\nb"), printable("müde")
    ('a\\\\x1b[31m\\\\nb', 'müde')
    """
    escaped = lambda c: c if c.isprintable() else c.encode("unicode_escape").decode()
    return "".join(
        escaped(c) if not "\ud800" <= c <= "\udfff" else f"\\x{ord(c) - 0xDC00:02x}"
        for c in str(text)
    )


def keep_text(value: object, field: str) -> None:
    """Makes a frozen dataclass' path field, which JSON has to hold, text: a Path may come.

    What the text names stays as it was written, ~ and all, until it is opened.
    """
    object.__setattr__(value, field, os.fspath(getattr(value, field)))


CLOUD = re.compile(r"(\w\w+):(//?)([^/]*)")
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]+[a-z0-9]")


def write_atomically(path: PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` on a binary file that takes the name `path` once it is on disk.

    Whatever goes wrong, and whenever the process is killed, `path` is what it was before
    or all that was written. Missing folders are made. What goes to a cloud is gathered in
    memory, and sent in one piece.

    Raises:
        OSError: it cannot be written there.
    """
    path = place(path)
    if not isinstance(path, Path):
        memory = io.BytesIO()
        write(memory)
        _send(path, memory.getvalue())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"tmp{secrets.token_hex(8)}")
    with temporary.open("xb") as file:  # with the rights that the user's umask leaves
        try:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            temporary.unlink()
            raise
    temporary.replace(path)


def _send(path: epath.Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except Exception as error:  # each cloud has errors of its own
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"cannot write {path}: {cause}. Is there such a bucket, and may you write to "
            "it (gcloud auth application-default login)?"
        ) from error


def lines(path: PathLike) -> list[str]:
    """The lines of a text, with their ends, [] of no file; a kill may have cut the last."""
    if not (path := place(path)).exists():
        return []
    return path.read_bytes().decode(errors="replace").splitlines(keepends=True)


class Resent:
    """An object of a cloud that grows: sent again whole, as nothing appends to it.

    A flush sends it at most every `RESEND` seconds, and so does closing, where there is
    something new: n bytes cost n / `RESEND` bytes a second, and the caller waits. A kill
    loses what came since.
    """

    def __init__(
        self, path: epath.Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._clock, self._next = path, clock, 0.0
        self._content = io.BytesIO()
        self._content.write(path.read_bytes() if path.exists() else b"")
        self._sent = self._content.tell()

    def write(self, more: bytes) -> None:
        self._content.write(more)

    def flush(self) -> None:
        if self._clock() >= self._next:
            self.close()
            self._next = self._clock() + RESEND

    def close(self) -> None:
        if self._content.tell() > self._sent:
            _send(self._path, self._content.getvalue())
            self._sent = self._content.tell()


RESEND = 30.0
"""Seconds between two sendings of a file that grows in a cloud."""


def append(path: PathLike) -> BinaryIO | Resent:
    """Opens a file to write at its end, and makes it, and its folders, if it is not there.

    What is flushed on this machine survives a kill; `Resent` says what does in a cloud.
    """
    path = place(path)
    if not isinstance(path, Path):
        return Resent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def private_folder(path: PathLike) -> Path:
    """A folder for code that will be run, made for its user alone where it is not there.

    Raises:
        ValueError: others may write there, or it is another user's: what they put there
            would be run as this user.
    """
    folder = Path(place(path))
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.stat()
    theirs = about.st_uid not in (os.getuid(), 0)
    if theirs or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        whose = "is another user's" if theirs else "may be written to by others"
        raise ValueError(
            f"{printable(folder)} {whose}, and compiled code that lies there is run: use a "
            f"folder of your own, or take that right away (chmod go-w {printable(folder)})"
        )
    return folder


def cache_folder() -> Path:
    """$JAXDIFF_CACHE, or ~/.cache/jaxdiff where that is unset or empty."""
    return Path(place(os.environ.get("JAXDIFF_CACHE") or "~/.cache/jaxdiff"))
