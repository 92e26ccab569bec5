"""Which files of a folder or archive are images, and their classes: one rule for all."""

import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import Folder, LeftOut, describe, differences, identity
from jaxdiff.data.formats import image_files, listing, zips
from jaxdiff.evaluation import images_in
from jaxdiff.runtime import jsontext

Files = Mapping[str, bytes]


def picture(grey: int, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), grey).save(file, kind)
    return file.getvalue()


def folder(path: Path, files: Files) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive(path: Path, files: Files) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            file.writestr(name, data)
    return path


Pack = Callable[[Path, Files], Path]
BOTH = pytest.mark.parametrize("pack", [folder, archive])


def seen(path: Path) -> list[tuple[int, int]]:
    """The grey and the label of each image, and its classes."""
    source = Folder(path, 8).load().source
    rows = [source[i] for i in range(len(source))]
    return [(int(row["image"][0, 0, 0]), int(row["label"])) for row in rows]


JUNK = {
    "cat/.ipynb_checkpoints/1-checkpoint.png": "hidden folders",
    "dog/deep/.Trash/x/2.png": "hidden folders",
    "cat/._1.png": "hidden files",
    "dog/deep/.DS_Store": "hidden files",
    "__MACOSX/cat/._1.png": "folders of operating systems",
    "cat/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg": "folders of operating systems",
    "dog/Thumbs.db": "files that are not images",
    "notes.txt": "files that are not images",
    "cat/figure.eps": "images that need other programs (EPS, WMF)",
}


@BOTH
def test_what_is_no_data_is_left_out_and_counted(pack: Pack, tmp_path: Path) -> None:
    files = {"cat/1.png": picture(1), "dog/deep/2.png": picture(2)}
    path = pack(tmp_path / "d.zip", files | dict.fromkeys(JUNK, picture(9)))
    assert seen(path) == [(1, 0), (2, 1)]
    dataset = Folder(path, 8).load()
    assert dataset.classes == ("cat", "dog")
    reasons = [*JUNK.values()]
    assert {k: n for k, (n, _) in dataset.left_out.items()} == {
        reason: reasons.count(reason) for reason in reasons
    }
    assert dataset.left_out["hidden folders"].example in (
        "cat/.ipynb_checkpoints",
        "dog/deep/.Trash",
    )


@BOTH
def test_scores_read_the_same_files(pack: Pack, tmp_path: Path) -> None:
    files = {"cat/1.png": picture(1), "dog/deep/2.tif": picture(2, "TIFF")}
    path = pack(tmp_path / "d.zip", files | dict.fromkeys(JUNK, picture(9)))
    source = images_in(path)
    assert [int(source[i]["image"][0, 0, 0]) for i in range(len(source))] == [1, 2]


WRAPPED: dict[str, tuple[Files, tuple[str, ...], list[tuple[int, int]]]] = {
    "compress folder": (
        {"photos/cat/1.png": picture(1), "photos/dog/2.png": picture(2)},
        ("cat", "dog"),
        [(1, 0), (2, 1)],
    ),
    "with macOS' own": (
        {"photos/cat/1.png": picture(1), "photos/dog/2.png": picture(2)}
        | {"__MACOSX/photos/cat/._1.png": b"\0", "photos/.DS_Store": b"\0"},
        ("cat", "dog"),
        [(1, 0), (2, 1)],
    ),
    "twice": (
        {"a/b/cat/1.png": picture(1), "a/b/dog/2.png": picture(2)},
        ("cat", "dog"),
        [(1, 0), (2, 1)],
    ),
    "dataset.json": (
        {"data/00000/0.png": picture(1), "data/00000/1.png": picture(2)}
        | {"data/dataset.json": b'{"labels": [["00000/0.png", 3], ["00000/1.png", 1]]}'},
        ("0", "1", "2", "3"),
        [(1, 3), (2, 1)],
    ),
    "one class": ({"cat/1.png": picture(1)}, ("cat",), [(1, 0)]),
    "one class and more in it": (
        {"cat/1.png": picture(1), "cat/more/2.png": picture(2)},
        ("cat",),
        [(1, 0), (2, 0)],
    ),
    "a text beside it": (
        {"photos/cat/1.png": picture(1), "photos/dog/2.png": picture(2), "x.txt": b""},
        ("cat", "dog"),
        [(1, 0), (2, 1)],
    ),
    "no classes": ({"1.png": picture(1)}, (), [(1, -1)]),
}


@BOTH
@pytest.mark.parametrize("name", WRAPPED)
def test_wrapping_folders_are_looked_through(name: str, pack: Pack, tmp_path: Path) -> None:
    files, classes, expected = WRAPPED[name]
    path = pack(tmp_path / "d.zip", files)
    assert Folder(path, 8).classes == classes
    assert seen(path) == expected


@pytest.mark.parametrize("name", ["cat\\1.png", "./cat/1.png", "/cat/1.png", "cat//1.png"])
def test_names_of_other_systems(name: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "d.zip", {name: picture(1), "dog/2.png": picture(2)})
    assert Folder(path, 8).classes == ("cat", "dog")
    assert seen(path) == [(1, 0), (2, 1)]


def test_names_beyond_ascii(tmp_path: Path) -> None:
    """As marked UTF-8, as macOS writes it without the mark, and in code page 437."""
    path = archive(tmp_path / "d.zip", {"käse/1.png": picture(1), "x/2.png": picture(2)})
    assert Folder(path, 8).classes == ("käse", "x")
    marked = path.read_bytes()
    plain = marked.replace(b"\x00\x08\x08\x00", b"\x00\x00\x08\x00")  # flags, method
    assert plain != marked
    for data in (plain, plain.replace("käse".encode(), b"k\x84se\xe1")):
        path.write_bytes(data)
        assert "kä" in Folder(path, 8).classes[0]
        assert seen(path) == [(1, 0), (2, 1)]


def test_links_are_followed_and_loops_are_not(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", {"9.png": picture(9)})
    root = folder(tmp_path / "d", {"dog/1.png": picture(1), "eel/2.png": picture(2)})
    (root / "cat").symlink_to("../elsewhere")
    (root / "dog/more").symlink_to(tmp_path / "elsewhere")
    (root / "dog/a.png").symlink_to("1.png")
    (root / "eel/up").symlink_to("..")
    (root / "eel/self").symlink_to("self")
    (root / "eel/gone.png").symlink_to("nowhere.png")
    os.mkfifo(root / "eel/pipe.png")
    dataset = Folder(root, 8).load()
    assert dataset.classes == ("cat", "dog", "eel")
    assert seen(root) == [(9, 0), (1, 1), (1, 1), (9, 1), (2, 2)]
    assert dataset.left_out["links to a folder that they are in"] == (1, "eel/up")
    assert dataset.left_out["broken links"].count == 2
    assert dataset.left_out["not regular files"] == LeftOut(1, "eel/pipe.png")


def test_every_format_is_read_and_none_that_runs_programs(tmp_path: Path) -> None:
    assert {"png", "jpg", "jpeg", "jpe", "jfif", "tif", "tiff", "webp", "bmp", "gif"} <= (
        image_files.extensions()
    )
    assert {"ppm", "pgm", "tga", "jp2"} <= image_files.extensions()
    assert image_files.extensions().isdisjoint(
        {"eps", "ps", "wmf", "emf", "pdf", "txt", "h5"}
    )
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"
    source = Folder(folder(tmp_path / "d", {"a.png": script}), 8).load().source
    with pytest.raises(ValueError, match=r"a\.png' cannot be read as an image"):
        source[0]


@BOTH
def test_classes_named_by_numbers(pack: Pack, tmp_path: Path) -> None:
    files = {f"{n}/0.png": picture(n) for n in (0, 1, 2, 10, 11)}
    path = pack(tmp_path / "d.zip", files)
    assert Folder(path, 8).classes == ("0", "1", "2", "10", "11")
    assert sorted(seen(path)) == [(0, 0), (1, 1), (2, 2), (10, 3), (11, 4)]
    kept = {"classes": ["0", "1", "10", "11", "2"], "count": 5, "shape": [8, 8, 3]}
    text = (
        "label 2 was '10', now '2', and 2 more labels changed: the same names in another "
    )
    text += "order"
    assert (
        "label 2 is '2', and was '10' in version 0.1"
        in describe(Folder(path, 8, on_error="skip").load())[-1]
    )
    assert differences(kept, identity(Folder(path, 8).load())) == text
    assert listing.natural(["9" * 5000, "8"]) == ["8", "9" * 5000]


def test_numbers_of_a_table_are_as_they_were(tmp_path: Path) -> None:
    rows = [[f"00000/{n}.png", n] for n in range(12)]
    files = {path: picture(n) for path, n in rows}
    lines = describe(
        Folder(folder(tmp_path, files | {"dataset.json": _table(rows)})).load()
    )
    assert not any("version 0.1" in line for line in lines)


@BOTH
def test_a_path_with_two_labels(pack: Pack, tmp_path: Path) -> None:
    rows = [["a/1.png", 1], ["a\\1.png", 1], ["a/2.png", 0], ["gone.png", 5]]
    files = {"a/1.png": picture(1), "a/2.png": picture(2)}
    path = pack(tmp_path / "d.zip", files | {"dataset.json": _table(rows)})
    assert seen(path) == [(1, 1), (2, 0)]
    (reason,) = Folder(path, 8).load().left_out
    assert "paths in dataset.json of files that are not there" in reason
    rows[1][1] = 2
    path = pack(tmp_path / "e.zip", files | {"dataset.json": _table(rows)})
    with pytest.raises(ValueError, match=r"two labels for 'a/1\.png', 1 and 2: keep"):
        Folder(path, 8).load()


def _table(rows: list) -> bytes:
    return json.dumps({"labels": rows}).encode()


def test_a_table_of_millions_of_lists_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsontext, "PARTS", 1000)
    rows = [["1.png", 0]] * 100
    path = archive(tmp_path / "d.zip", {"1.png": picture(1), "dataset.json": _table(rows)})
    assert seen(path) == [(1, 0)]
    table = b'{"labels": [' + b"[]," * 900 + b"[]]}"
    path = archive(tmp_path / "e.zip", {"1.png": picture(1), "dataset.json": table})
    with pytest.raises(ValueError, match="1,806 lists and elements, over 1,008"):
        Folder(path, 8).load()


def test_a_table_may_be_as_large_as_its_images_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsontext, "LARGEST", 100)
    monkeypatch.setattr(jsontext, "PARTS", 10)
    rows = [[f"cat/{n}.png", n % 3] for n in range(50)]
    files = {path: picture(n) for n, (path, _) in enumerate(rows)}
    path = archive(tmp_path / "d.zip", files | {"dataset.json": _table(rows)})
    assert len(seen(path)) == 50


@BOTH
def test_a_table_within_a_class_is_counted(pack: Pack, tmp_path: Path) -> None:
    files = {"cat/1.png": picture(1), "dog/2.png": picture(2)}
    files["cat/dataset.json"] = _table([["1.png", 7]])
    path = pack(tmp_path / "d.zip", files)
    assert seen(path) == [(1, 0), (2, 1)]
    assert [*Folder(path, 8).load().left_out.values()] == [LeftOut(1, "cat/dataset.json")]


def test_labels_of_a_table_are_not_taken_for_those_of_folders(tmp_path: Path) -> None:
    """Though its folders are called like them."""
    files = {f"{n}/0.png": picture(n) for n in range(12)}
    rows = [[f"{n}/0.png", n] for n in range(12)]
    path = archive(tmp_path / "d.zip", files | {"dataset.json": _table(rows)})
    assert not any("version 0.1" in line for line in describe(Folder(path, 8).load()))


def test_an_empty_class_is_refused_with_a_way_on(tmp_path: Path) -> None:
    message = r"no images in .*dog': .* 1 of 2 have no image.* Remove it, or move it"
    root = folder(tmp_path / "d", {"cat/1.png": picture(1)})
    (root / "dog").mkdir()
    with pytest.raises(ValueError, match=message):
        Folder(root, 8).load()
    (root / "dog/.hidden.png").touch()
    with pytest.raises(ValueError, match=r"left out: hidden files \(1, such as 'dog/.hid"):
        Folder(root, 8).load()
    path = archive(tmp_path / "d.zip", {"cat/1.png": picture(1), "dog/": b""})
    with pytest.raises(ValueError, match=message):
        Folder(path, 8).load()


@BOTH
def test_folders_without_end_are_left_out(pack: Pack, tmp_path: Path) -> None:
    deep, deeper = "/".join("a" * 64), "/".join("a" * 65)
    files = {f"{deep}/1.png": picture(1), f"{deeper}/2.png": picture(2)}
    path = pack(tmp_path / "d.zip", files | {"b/3.png": picture(3)})
    assert seen(path) == [(1, 0), (3, 1)]
    (reason,) = Folder(path, 8).load().left_out.items()
    assert reason == ("folders more than 64 deep", LeftOut(1, deeper))
    if pack is archive:
        path = pack(tmp_path / "e.zip", {"a/" * 30_000 + "1.png": b"", "2.png": picture(2)})
        assert seen(path) == [(2, -1)]


def test_a_file_twice_in_an_archive_is_refused(tmp_path: Path) -> None:
    files = {"cat/1.png": picture(1), "cat\\1.png": picture(2)}
    with pytest.raises(ValueError, match=r"cannot be read as a ZIP file: it has two files"):
        Folder(archive(tmp_path / "d.zip", files), 8).load()


@pytest.mark.parametrize("name", [b"cat/1.png", b"dog/2.png"])
def test_names_that_differ_inside_an_archive(name: bytes, tmp_path: Path) -> None:
    """A bit of a name in the directory alone: it would be a class of its own."""
    files = {"cat/1.png": picture(1), "dog/2.png": picture(2)}
    path = archive(tmp_path / "d.zip", files)
    data = bytearray(path.read_bytes())
    data[data.rindex(name)] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="another name in its own header"):
        Folder(path, 8).load()


def test_an_archive_with_a_huge_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zips, "MEMBERS", 3)
    path = archive(tmp_path / "d.zip", {f"{i}.png": b"" for i in range(4)})
    with pytest.raises(ValueError, match="the zip has 4 members"):
        Folder(path, 8).load()


def test_images_of_large_numbers_of_files_are_arrays(tmp_path: Path) -> None:
    root = folder(tmp_path / "d", {"b/1.png": picture(1), "a/1.png": picture(2)})
    assert np.asarray(Folder(root, 8).load().source.label).tolist() == [0, 1]
