"""Which image files a folder or a ZIP archive has, and what their labels are.

One rule for training, preparing, references and scores, on disk and in archives:

    read        files whose extension is that of a raster format that Pillow reads, at any
                depth, also behind links to folders and files
    left out    what is hidden (its name begins with a dot), folders of operating systems
                (__MACOSX, @eaDir, ...), files that are not images, broken links, and
                links to a folder that they are in; all of it is counted by its reason

Labels are those of `dataset.json` beside the images, as [EDM2] writes it,

    {"labels": [["00000/img00000000.png", 3], ...]}    or    {"labels": null}

or else the sub-folders: these are classes, in the order of their names, or by number where
all names are numbers. Folders that wrap all of this, one in the other, are looked through.
"""

import functools
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxdiff.data.batches import LeftOut
from jaxdiff.data.formats import image_files, zips
from jaxdiff.runtime import jsontext
from jaxdiff.types.ranges import quote

LABELS = "dataset.json"
MOST = 2**16
"""More classes than data sets have."""
SYSTEM = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "__pycache__", "lost+found"} | {
    "system volume information"
}
"""Folders, in small letters, that systems and other programs make beside one's data."""
ROW_BYTES, ROW_PARTS = 2**8, 8
"""What dataset.json may have for each image, beside what any JSON may have."""
DEPTH = 64
"""Folders inside of each other that are looked into."""


@runtime_checkable
class File(Protocol):
    """A file on disk, or a member of an archive."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        ...

    def read_bytes(self) -> bytes:
        """The whole content."""
        ...


def stamp(file: File) -> str:
    """A text that changes with a file: its date and size, or an archive's checksum.

    The path is not part of it, so files may be moved.
    """
    if isinstance(file, Path):
        at = file.stat()
        return f"{file.name} {at.st_size} {at.st_mtime_ns}"
    return f"{file.path} {file.size} {file.crc}"


class Listing(NamedTuple):
    """Image files, the label of each, -1 = none, and the names of the labels."""

    files: tuple[File, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    left_out: Mapping[str, LeftOut]
    from_folders: bool = False
    """Whether the labels are those of the sub-folders."""


class _Left:
    """Counts what is left out, by its reason."""

    def __init__(self) -> None:
        self.of: dict[str, LeftOut] = {}
        self._folders: set[str] = set()

    def file(self, reason: str, path: str) -> None:
        """One more file."""
        count, example = self.of.get(reason, (0, path))
        self.of[reason] = LeftOut(count + 1, example)

    def folder(self, reason: str, path: str) -> None:
        """A folder with all that is in it, which counts once."""
        if path not in self._folders:
            self._folders.add(path)
            self.file(reason, path)


class _Tree(NamedTuple):
    """Images and dataset.json files by path, and the paths of all folders."""

    images: dict[str, File]
    tables: dict[str, File]
    folders: set[str]


def listing(root: Path) -> Listing:
    """The images in a folder or a ZIP archive, in the order of their paths; none is read.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: no images, a class without, images beside sub-folders, an image that
            dataset.json has no label for, or a damaged dataset.json or archive.
    """
    tree, left = _tree(root)
    prefix = _wrapping(tree)
    paths = [path[len(prefix) :] for path in _ordered(tree.images)]
    files = tuple(tree.images[prefix + path] for path in paths)
    for table in tree.tables.keys() - {prefix + LABELS}:
        left.file(f"{LABELS} that is not in the folder that all images are in", table)
    if prefix + LABELS in tree.tables:
        where = f"{root}/{prefix}{LABELS}"
        text = content(tree.tables[prefix + LABELS], where)
        labels = json_labels(text, paths, where, left)
        check(root, files, left.of)
        return Listing(files, labels, tuple(map(str, range(max(labels) + 1))), left.of)
    loose = [path for path in paths if "/" not in path]
    inside = {path.partition("/")[0] for path in paths if "/" in path}
    beside = (path.removeprefix(prefix) for path in tree.folders if path.startswith(prefix))
    classes = natural({path for path in beside if path and "/" not in path} | inside)
    if not classes:
        check(root, files, left.of)
        return Listing(files, (-1,) * len(files), (), left.of)
    if loose:
        raise ValueError(
            f"{str(root)!r} has sub-folders, which are classes, and beside them "
            f"{len(loose)} images, such as {loose[0]!r}: move these into a class"
        )
    if empty := [name for name in classes if name not in inside]:
        raise ValueError(
            f"no images in {str(root / (prefix + empty[0]))!r}: each sub-folder is a class,"
            f" and {len(empty)} of {len(classes)} have no image{_left_out(left.of)}. "
            f"Remove it, or move it elsewhere; or give the labels in {LABELS}, which may "
            "have more"
        )
    number = {name: k for k, name in enumerate(classes)}
    labels = tuple(number[path.partition("/")[0]] for path in paths)
    return Listing(files, labels, tuple(classes), left.of, from_folders=True)


def pictures(root: Path) -> tuple[tuple[File, ...], Mapping[str, LeftOut]]:
    """All images in a folder or a ZIP archive, whatever their labels; and what is not read.

    Raises:
        FileNotFoundError: there is neither.
        ValueError: not an archive, or a damaged one.
    """
    tree, left = _tree(root)
    return tuple(tree.images[path] for path in _ordered(tree.images)), left.of


def classes_of(root: Path) -> tuple[str, ...]:
    """The names of the labels.

    Raises:
        FileNotFoundError, ValueError: as `listing`.
    """
    return listing(root).classes


def content(file: File, where: str | None = None) -> bytes:
    """The bytes of a file, or of a member of an archive.

    Raises:
        ValueError: damage, more bytes than image files have, or no access.
    """
    try:
        if isinstance(file, Path) and (size := file.stat().st_size) > zips.LARGEST:
            raise ValueError(f"it has {size:,} bytes, more than image files have")
        return file.read_bytes()
    except (OSError, ValueError) as error:
        raise ValueError(f"{where or file} cannot be read: {error}") from error


def natural(names: Collection[str]) -> list[str]:
    """Names of classes in order: by number where all are numbers, else as text.

    >>> natural(["10", "2", "02"]), natural(["10", "2", "a"])
    (['02', '2', '10'], ['10', '2', 'a'])
    """
    if all(name.isascii() and name.isdecimal() for name in names):
        plain = {name: name.lstrip("0") for name in names}
        return sorted(names, key=lambda name: (len(plain[name]), plain[name], name))
    return sorted(names)


def json_labels(
    text: bytes, paths: Collection[str], where: str, left: Any = None
) -> tuple[int, ...]:
    """The label of each path; all -1 where dataset.json has none.

    Raises:
        ValueError: another kind of file, a label that is not a class, a path without a
            label, or with two.

    >>> json_labels(b'{"labels": [["a/1.png", 3]]}', ["a/1.png"], "")
    (3,)
    """
    largest = jsontext.LARGEST + ROW_BYTES * len(paths)
    parts = jsontext.PARTS + ROW_PARTS * len(paths)
    try:
        table = jsontext.loads(text, "it", largest=largest, parts=parts)
        if "labels" not in table:
            raise ValueError('it has no "labels"')
    except ValueError as error:
        raise ValueError(
            f'{where} must be JSON, {{"labels": [["a/1.png", 3], ...]}}: {error}'
        ) from error
    rows = table["labels"]
    if rows is None:
        return (-1,) * len(paths)
    wrong = [rows] if type(rows) is not list else [r for r in rows if not _is_row(r)]
    if wrong:
        raise ValueError(
            f"{where} must have labels [path, class], the class in 0 ... {MOST - 1}, got "
            f"{quote(wrong[0], 60)}"
        )
    known: dict[str, int] = {}
    for row, label in rows:
        path = zips.normal(row)
        if known.setdefault(path, label) != label:
            raise ValueError(
                f"{where} has two labels for {path[:80]!r}, {known[path]} and {label}: "
                "keep the right one"
            )
    if missing := [path for path in paths if path not in known]:
        raise ValueError(
            f"{where} has no label for {len(missing)} images, such as {missing[0]!r}"
        )
    for path in known.keys() - {*paths} if left else ():
        left.file(f"paths in {LABELS} of files that are not there, or not read", path)
    return tuple(known[path] for path in paths)


def _is_row(row: Any) -> bool:
    """Whether this is a path and a class."""
    if type(row) is not list or [*map(type, row)] != [str, int]:
        return False
    return 0 <= row[1] < MOST


def check(
    folder: Path, images: Collection[Any], left_out: Mapping[str, LeftOut] | None = None
) -> None:
    """Checks that a folder has images.

    Raises:
        ValueError: it has none; the message has what was left out.
    """
    if not images:
        raise ValueError(
            f"no images in {str(folder)!r}: files of formats that Pillow reads, such as "
            f"png, jpg, webp and tif, are taken{_left_out(left_out or {})}"
        )


def _left_out(left_out: Mapping[str, LeftOut]) -> str:
    """The files left out, as the end of a sentence; "" if there are none."""
    left = (f"{reason} ({n:,}, such as {one!r})" for reason, (n, one) in left_out.items())
    return f" (left out: {'; '.join(left)})" if left_out else ""


def _ordered(images: Collection[str]) -> list[str]:
    """Paths in the order of their parts."""
    return sorted(images, key=lambda path: path.replace("/", "\0"))


def _wrapping(tree: _Tree) -> str:
    """The path, with a slash at its end, of the folder that the data are in: "" = the root.

    A folder that is alone is looked through where it has folders or dataset.json in it,
    and no images beside these.
    """
    prefix = ""
    while prefix + LABELS not in tree.tables:
        inside = [path[len(prefix) :] for path in tree.images if path.startswith(prefix)]
        folders = {path[len(prefix) :] for path in tree.folders if path.startswith(prefix)}
        tops = {path.partition("/")[0] for path in (*inside, *folders)} - {""}
        if len(tops) != 1 or not inside:
            break
        top = f"{tops.pop()}/"
        nested = all(path.startswith(top) and path.count("/") > 1 for path in inside)
        if not nested and prefix + top + LABELS not in tree.tables:
            break
        prefix += top
    return prefix


def _tree(root: Path) -> tuple[_Tree, _Left]:
    """All of a folder or an archive that is not left out.

    Raises:
        FileNotFoundError: there is neither.
    """
    if not root.exists():
        raise FileNotFoundError(f"there is no folder or ZIP file {str(root)!r}")
    tree, left = _Tree({}, {}, set()), _Left()
    for path, file in (
        _in_zip(root, tree, left) if root.is_file() else _on_disk(root, tree, left)
    ):
        reason = _why_not(path)
        if reason:
            left.file(reason, path)
        elif path.rpartition("/")[2] == LABELS:
            tree.tables[path] = file
        else:
            tree.images[path] = file
    return tree, left


def _why_not(path: str) -> str:
    """Why a file of this path is left out; "" for images and dataset.json."""
    name = path.rpartition("/")[2]
    if name.startswith("."):
        return "hidden files"
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    if name == LABELS or extension in image_files.extensions():
        return ""
    if extension in image_files.FOREIGN:
        return "images that need other programs (EPS, WMF)"
    return "files that are not images"


def _why_not_into(name: str) -> str:
    """Why a folder of this name is left out; "" if it is not."""
    if name.startswith("."):
        return "hidden folders"
    return "folders of operating systems" if name.lower() in SYSTEM else ""


def _in_zip(root: Path, tree: _Tree, left: _Left) -> Iterator[tuple[str, File]]:
    """The files of an archive that are in no folder that is left out."""
    files, folders = zips.members(root)

    @functools.cache
    def kept(folder: str) -> bool:
        above, _, name = folder.rpartition("/")
        if folder.count("/") >= DEPTH:
            deep = "/".join(folder.split("/", DEPTH + 1)[: DEPTH + 1])
            left.folder(f"folders more than {DEPTH} deep", deep)
            return False
        if above and not kept(above):
            return False
        if name and (reason := _why_not_into(name)):
            left.folder(reason, folder)
            return False
        return True

    tree.folders.update(path for path in folders if kept(path))
    for path, file in files.items():
        if kept(path.rpartition("/")[0]):
            if not _why_not(path):
                file.require_readable()
            yield path, file


def _on_disk(root: Path, tree: _Tree, left: _Left) -> Iterator[tuple[str, File]]:
    """The files under a folder that are in no folder that is left out."""
    todo: list[tuple[str, tuple[tuple[int, int], ...]]] = [("", (_place(root),))]
    while todo:
        inside, above = todo.pop()
        with os.scandir(root / inside) as entries:
            for entry in entries:
                path, at = f"{inside}{entry.name}", root / inside / entry.name
                kind = _kind(at)
                if kind != "folder":
                    if kind == "file":
                        yield path, at
                    elif not entry.name.startswith("."):
                        left.file(kind, path)
                elif reason := _why_not_into(entry.name):
                    left.folder(reason, path)
                elif (place := _place(at)) in above:
                    left.folder("links to a folder that they are in", path)
                elif len(above) > DEPTH:
                    left.folder(f"folders more than {DEPTH} deep", path)
                else:
                    tree.folders.add(path)
                    todo.append((f"{path}/", (*above, place)))


def _kind(path: Path) -> str:
    """folder or file, links followed, or the reason why it is neither."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return "broken links"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "not regular files"


def _place(folder: Path) -> tuple[int, int]:
    """Device and inode, which identify a folder by whatever path."""
    at = folder.stat()
    return at.st_dev, at.st_ino
