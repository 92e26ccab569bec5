"""What image files a folder or a ZIP archive has, and what their labels are.

Labels are those of `dataset.json` beside the images, as [EDM2] writes it,

    {"labels": [["00000/img00000000.png", 3], ...]}    or    {"labels": null}

or else the sub-folders: these are classes, in the order of their names.
"""

import json
import pathlib
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxdiff.data import zips

EXTENSIONS = ("bmp", "gif", "jpeg", "jpg", "png", "webp")
LABELS = "dataset.json"
MOST = 2**16
"""More classes than data sets have."""


@runtime_checkable
class File(Protocol):
    """A file on disk, or a member of an archive."""

    @property
    def name(self) -> str: ...

    def read_bytes(self) -> bytes: ...


def stamp(file: File) -> str:
    """What tells that a file was changed: its date and size, or an archive's checksum."""
    if isinstance(file, Path):
        at = file.stat()
        return f"{file} {at.st_size} {at.st_mtime_ns}"
    return f"{file.path} {file.size} {file.crc}"


class Listing(NamedTuple):
    """Image files, the label of each, -1 = none, and the names of the labels."""

    files: tuple[File, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]


def listing(root: Path) -> Listing:
    """The images in a folder or a ZIP archive, in the order of their paths; none is read.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: no images, a class without, images beside sub-folders, an image that
            dataset.json has no label for, or what is wrong with that or with the archive.
    """
    require(root)
    found = zips.members(root) if root.is_file() else _on_disk(root)
    named = (path for path in found if looks_like_image(path) and path[0] != ".")
    paths = sorted(named, key=lambda path: path.split("/"))
    files = tuple(found[path] for path in paths)
    if LABELS in found:
        where = f"{root}/{LABELS}"
        try:
            text = found[LABELS].read_bytes()
        except (OSError, ValueError) as error:
            raise ValueError(f"{where} cannot be read: {error}") from error
        labels = json_labels(text, paths, where)
        check(root, files)
        return Listing(files, labels, tuple(map(str, range(max(labels) + 1))))
    tops = [path.partition("/")[0] for path in paths]
    loose = [path for path in paths if "/" not in path]
    inside = {*tops} - {*loose}
    classes = sorted(inside) if root.is_file() else subfolders(root)
    if not classes:
        check(root, files)
        return Listing(files, (-1,) * len(files), ())
    if loose:
        raise ValueError(
            f"{str(root)!r} has sub-folders, which are classes, and beside them "
            f"{len(loose)} images, such as {loose[0]!r}: move these into a class"
        )
    for name in classes:
        check(root / name, [name] if name in inside else [])
    number = {name: k for k, name in enumerate(classes)}
    return Listing(files, tuple(number[top] for top in tops), tuple(classes))


def classes_of(root: Path) -> tuple[str, ...]:
    """The names of the labels alone, which takes no look into sub-folders.

    Raises:
        FileNotFoundError, ValueError: as `listing`.
    """
    require(root)
    if root.is_dir() and not (root / LABELS).exists():
        return tuple(subfolders(root))
    return listing(root).classes


def require(root: Path) -> None:
    """Refuses a path without anything.

    Raises:
        FileNotFoundError: as it says.
    """
    if not root.exists():
        raise FileNotFoundError(f"there is no folder or ZIP file {str(root)!r}")


def subfolders(root: Path) -> list[str]:
    """The names of the sub-folders, sorted, those that begin with a dot left out."""
    names = (child.name for child in root.iterdir() if child.is_dir())
    return sorted(name for name in names if not name.startswith("."))


def looks_like_image(path: str) -> bool:
    """Whether a file of this path has an extension that is read, and is not hidden.

    >>> looks_like_image("cats/1.JPG"), looks_like_image("cats/.1.jpg")
    (True, False)
    """
    name = path.rpartition("/")[2]
    return name[:1] != "." and name.rpartition(".")[2].lower() in EXTENSIONS


def json_labels(text: bytes, paths: Collection[str], where: str) -> tuple[int, ...]:
    """The label of each path; all -1 where dataset.json has none.

    Raises:
        ValueError: another kind of file, a label that is no class, a path without one.

    >>> json_labels(b'{"labels": [["a/1.png", 3]]}', ["a/1.png"], "")
    (3,)
    """
    try:
        rows = json.loads(text)["labels"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f'{where} must be JSON, {{"labels": [["a/1.png", 3], ...]}}'
        ) from error
    if rows is None:
        return (-1,) * len(paths)
    if type(rows) is not list or not all(map(_is_row, rows)):
        wrong = next((r for r in rows if not _is_row(r)), rows) if rows else rows
        raise ValueError(
            f"{where} must have labels [path, class], the class in 0 ... {MOST - 1}, got "
            f"{str(wrong)[:60]}"
        )
    known = {path.replace("\\", "/"): label for path, label in rows}
    if missing := [path for path in paths if path not in known]:
        raise ValueError(
            f"{where} has no label for {len(missing)} images, such as {missing[0]!r}"
        )
    return tuple(known[path] for path in paths)


def _is_row(row: Any) -> bool:
    """Whether this is a path and a class."""
    if type(row) is not list or [*map(type, row)] != [str, int]:
        return False
    return 0 <= row[1] < MOST


def _on_disk(root: Path) -> dict[str, File]:
    """The files under a folder by their paths from there, with slashes."""
    found: dict[str, pathlib.Path] = {}
    for path in root.rglob("*"):
        relative = path.relative_to(root).as_posix()
        if (looks_like_image(relative) or relative == LABELS) and path.is_file():
            found[relative] = path
    return found


def check(folder: Path, images: Collection[Any]) -> None:
    """Refuses a folder without images.

    Raises:
        ValueError: which files are read.
    """
    if not images:
        known = ", ".join(EXTENSIONS)
        raise ValueError(f"no images in {str(folder)!r}: files named {known} are read")
