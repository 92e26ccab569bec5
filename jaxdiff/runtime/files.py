"""Atomic file writes, local and bucket paths, and the cache folder.

A run's folder is a `Place`, which `place` makes from text. Code uses only what both kinds
of path have: `/`, `parent`, `name`, `exists`, `is_dir`, `mkdir`, `glob`, `open`, and a
file's bytes and text. Cloud objects are written atomically, and cannot be appended to.
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
"""The path of a file or folder, on this machine or in a cloud."""

PathLike = str | os.PathLike[str]
"""What every public function takes as a path, and turns into a `Place` with `place`."""


def place(text: PathLike) -> Place:
    """The path for a text: local, or in a bucket if it starts with gs://.

    A leading ~ or ~user is that home folder; write ./~name for a folder of that name.

    >>> place("runs/mine").name, place(place("runs/mine")).name
    ('mine', 'mine')

    Raises:
        ValueError: a malformed bucket, a cloud without checkpoints, or the home folder of
            an unknown user.
        ImportError: a package that reads and writes buckets is missing.
    """
    if not (url := CLOUD.match(str(text))):
        try:
            return Path(text).expanduser()
        except RuntimeError as error:
            raise ValueError(
                f"{text}: unknown user; for a folder of that name here write ./{text}"
            ) from error
    scheme, slashes, bucket = url.groups()
    if slashes == "/":
        raise ValueError(
            f"{text} has lost a slash, as in a pathlib.Path: pass it as a string"
        )
    if scheme != "gs":
        raise ValueError(
            f"{text}: checkpoints cannot be stored in {scheme}://: use gs://BUCKET/FOLDER, "
            "or mount it and give that folder"
        )
    if not BUCKET.fullmatch(bucket):
        raise ValueError(
            f"{text}: {bucket!r} is not a valid bucket name: use gs://BUCKET/FOLDER"
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ImportError(f"{text} needs gcsfs, which is not installed: pip install gcsfs")
    return epath.Path(text)


def printable(text: object) -> str:
    """Text from outside, such as a path, on one line with control characters escaped.

    >>> printable("a\\x1b[31m\\nb"), printable("müde")
    ('a\\\\x1b[31m\\\\nb', 'müde')
    """
    escaped = lambda c: c if c.isprintable() else c.encode("unicode_escape").decode()
    return "".join(
        escaped(c) if not "\ud800" <= c <= "\udfff" else f"\\x{ord(c) - 0xDC00:02x}"
        for c in str(text)
    )


def keep_text(value: object, field: str) -> None:
    """Turns a path field of a frozen dataclass into a string, so that JSON can hold it.

    The text is kept as written, ~ included, until the path is opened.
    """
    object.__setattr__(value, field, os.fspath(getattr(value, field)))


CLOUD = re.compile(r"(\w\w+):(//?)([^/]*)")
BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]+[a-z0-9]")


def write_atomically(path: PathLike, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write` on a binary file that gets the name `path` once it is on disk.

    After any error or kill, `path` is either unchanged or complete. Missing folders are
    created. For a cloud, the content is collected in memory and sent in one piece.

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
    with temporary.open("xb") as file:  # with permissions from the user's umask
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
    except Exception as error:  # each cloud has its own errors
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(
            f"cannot write {path}: {cause}. Does the bucket exist, and may you write to "
            "it (gcloud auth application-default login)?"
        ) from error


def lines(path: PathLike) -> list[str]:
    """A file's lines with their ends, [] if there is none; a kill may truncate the last."""
    if not (path := place(path)).exists():
        return []
    return path.read_bytes().decode(errors="replace").splitlines(keepends=True)


class Resent:
    """A growing cloud object, which is resent whole since objects cannot be appended to.

    A flush sends it at most every `RESEND` seconds, and closing sends the rest: an object
    of n bytes costs n / `RESEND` bytes a second, and the caller waits. A kill loses what
    was written since the last send.
    """

    def __init__(
        self, path: epath.Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._clock, self._next = path, clock, 0.0
        self._content = io.BytesIO()
        self._content.write(path.read_bytes() if path.exists() else b"")
        self._sent = self._content.tell()

    def write(self, more: bytes) -> None:
        """Appends bytes; they are sent by the next `flush` or `close`."""
        self._content.write(more)

    def flush(self) -> None:
        """Sends the object, unless it was sent less than `RESEND` seconds ago."""
        if self._clock() >= self._next:
            self.close()
            self._next = self._clock() + RESEND

    def close(self) -> None:
        """Sends the object if it has grown since it was last sent."""
        if self._content.tell() > self._sent:
            _send(self._path, self._content.getvalue())
            self._sent = self._content.tell()


RESEND = 30.0
"""Minimal seconds between two sends of a growing cloud object."""


def append(path: PathLike) -> BinaryIO | Resent:
    """Opens a file for appending, and creates it and its folders if needed.

    Flushed data survive a kill on this machine; for a cloud see `Resent`.
    """
    path = place(path)
    if not isinstance(path, Path):
        return Resent(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab")


def private_folder(path: PathLike) -> Path:
    """A folder for code that will be run, created with permissions for this user alone.

    Raises:
        ValueError: it belongs to another user, or others can write there, so that their
            code would run as this user.
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
    """$JAXDIFF_CACHE, or ~/.cache/jaxdiff if that is unset or empty."""
    return Path(place(os.environ.get("JAXDIFF_CACHE") or "~/.cache/jaxdiff"))
