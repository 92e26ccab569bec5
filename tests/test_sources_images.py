"""Folders and ZIP files of images: the same images, labels and refusals."""

import dataclasses
import io
import json
import threading
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import Dataset, Folder, batches, skipped

Files = Mapping[str, bytes]


def picture(grey: int) -> bytes:
    """A PNG file of one grey."""
    file = io.BytesIO()
    Image.new("RGB", (9, 7), (grey,) * 3).save(file, "PNG")
    return file.getvalue()


def folder(path: Path, files: Files) -> str:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return str(path)


def stored(path: Path, files: Files, how: int = zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return str(path)


def deflated(path: Path, files: Files) -> str:
    return stored(path, files, zipfile.ZIP_DEFLATED)


Pack = Callable[[Path, Files], str]
EVERY = pytest.mark.parametrize("pack", [folder, stored, deflated])


def seen(dataset: Dataset) -> list[tuple[int, int]]:
    """The grey and the label of each image."""
    rows = [dataset.source[i] for i in range(len(dataset))]
    assert all((row["image"] == row["image"][0, 0, 0]).all() for row in rows)
    return [(int(row["image"][0, 0, 0]), int(row["label"])) for row in rows]


@EVERY
def test_sub_folders_are_classes(pack: Pack, tmp_path: Path) -> None:
    files = {"dog/b.png": picture(3), "cat/x/9.png": picture(2), "cat/1.png": picture(1)}
    files |= {".no/1.png": picture(4), "dog/.1.png": picture(5), "dog/readme.txt": b"hi"}
    data = Folder(pack(tmp_path / "data.zip", files), size=4)
    dataset = data.load()
    assert data.classes == dataset.classes == ("cat", "dog")
    assert seen(dataset) == [(1, 0), (2, 0), (3, 1)]


@EVERY
def test_labels_of_edm2s_layout(pack: Pack, tmp_path: Path) -> None:
    rows = [["00000/img1.png", 4], ["00001\\img2.png", 0], ["00000/img0.png", 2]]
    files = {row[0].replace("\\", "/"): picture(10 * row[1]) for row in rows}
    files["dataset.json"] = json.dumps({"labels": rows}).encode()
    data = Folder(pack(tmp_path / "data.zip", files), size=4)
    assert seen(data.load()) == [(20, 2), (40, 4), (0, 0)]
    assert data.classes == ("0", "1", "2", "3", "4")


@EVERY
def test_no_labels_in_edm2s_layout(pack: Pack, tmp_path: Path) -> None:
    files = {"00000/img1.png": picture(7), "dataset.json": b'{"labels": null}'}
    data = Folder(pack(tmp_path / "data.zip", files), size=4)
    assert seen(data.load()) == [(7, -1)]
    assert data.classes == ()


WRONG_JSON = {
    "no json": (b"{labels", "must be JSON"),
    "a list": (b"[1]", "must be JSON"),
    "other keys": (b'{"label": []}', "must be JSON"),
    "bytes": (b"\xff\xfe\xff", "must be JSON"),
    "a number": (b'{"labels": 5}', "must have labels .* got 5"),
    "true": (b'{"labels": true}', "must have labels .* got True"),
    "a fraction": (b'{"labels": 1.5}', "must have labels .* got 1.5"),
    "twice": (b'{"labels": [], "labels": []}', "must be JSON.*it has 'labels' twice"),
    "no rows": (b'{"labels": {"a.png": 1}}', "must have labels"),
    "a vector": (b'{"labels": [["a.png", [0, 1]]]}', r"got \['a.png', \[0, 1\]\]"),
    "negative": (b'{"labels": [["a.png", -1]]}', r"got \['a.png', -1\]"),
    "huge": (b'{"labels": [["a.png", 65536]]}', r"the class in 0 ... 65535, got"),
    "a truth": (b'{"labels": [["a.png", true]]}', "must have labels"),
    "missing": (b'{"labels": [["b.png", 1]]}', "no label for 1 images, such as 'a.png'"),
    "deep": (b'{"labels": ' + b"[" * 100_000, "must be JSON"),
}


@pytest.mark.parametrize("name", WRONG_JSON)
@pytest.mark.parametrize("pack", [folder, stored])
def test_wrong_labels_are_refused_in_one_line(
    name: str, pack: Pack, tmp_path: Path
) -> None:
    text, message = WRONG_JSON[name]
    path = pack(tmp_path / "d.zip", {"a.png": picture(1), "dataset.json": text})
    with pytest.raises(ValueError, match=f"d.zip/dataset.json .*{message}") as caught:
        Folder(path).load()
    assert "\n" not in str(caught.value)


def test_damaged_labels_are_refused(tmp_path: Path) -> None:
    text = b'{"labels": null}'
    path = tmp_path / "d.zip"
    stored(path, {"a.png": picture(1), "dataset.json": text})
    path.write_bytes(path.read_bytes().replace(text, b'{"labels": nuls}'))
    with pytest.raises(ValueError, match=r"dataset\.json cannot be read: .*checksum"):
        Folder(str(path)).load()


def test_threads_read_a_zip_at_once(tmp_path: Path) -> None:
    files = {f"{i:03d}.png": picture(i) for i in range(200)}
    source = Folder(deflated(tmp_path / "d.zip", files), size=4).load().source
    wrong = []

    def reads() -> None:
        for i in np.random.default_rng().permutation(200):
            if (source[int(i)]["image"] != i).any():
                wrong.append(i)

    threads = [threading.Thread(target=reads) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("cut", [-1, 40, 0])
def test_a_cut_zip_is_refused(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "d.zip"
    stored(path, {"a.png": picture(1)})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"d\.zip cannot be read as a ZIP file"):
        Folder(str(path)).load()


def test_a_zip_of_no_images_and_an_encrypted_one(tmp_path: Path) -> None:
    path = stored(tmp_path / "d.zip", {"a.txt": b"hello"})
    with pytest.raises(
        ValueError,
        match=r"no images in .*d\.zip': .*not images \(1, such",
    ):
        Folder(path).load()
    packed = stored(tmp_path / "x.zip", {"a.png": picture(1)}, zipfile.ZIP_LZMA)
    with pytest.raises(ValueError, match=r"a\.png is compressed by method 14"):
        Folder(packed).load()
    with pytest.raises(FileNotFoundError, match="no folder or ZIP file"):
        Folder(str(tmp_path / "nowhere")).load()


def damaged(path: Path) -> Folder:
    """Ten greys, 3, 4 and 9 of which are damaged inside of the archive."""
    stored(path, {f"{i}.png": picture(10 * i) for i in range(10)})
    data = bytearray(path.read_bytes())
    for i in (3, 4, 9):
        data[data.index(picture(10 * i)) + 20] ^= 1
    path.write_bytes(data)
    return Folder(str(path), size=4)


def test_a_damaged_image_stops_the_run(tmp_path: Path) -> None:
    dataset = damaged(tmp_path / "d.zip").load()
    assert dataset.source[2]["image"][0, 0, 0] == 20
    with pytest.raises(ValueError, match=r"d\.zip/3\.png' cannot be .*checksum"):
        dataset.source[3]
    assert skipped(dataset) == 0


def test_a_damaged_image_is_skipped_and_counted(tmp_path: Path) -> None:
    data = dataclasses.replace(damaged(tmp_path / "d.zip"), on_error="skip")
    for first in (3, 9):  # whichever is asked for first, the same stand in
        dataset = data.load()
        with pytest.warns(UserWarning, match=rf"skipped: .*/{first}\.png'"):
            dataset.source[first]
        with pytest.warns(UserWarning, match="skipped"):
            greys = [grey for grey, _ in seen(dataset)]
        assert greys == [0, 10, 20, 50, 50, 50, 60, 70, 80, 0]
        assert skipped(dataset) == 3
    with pytest.warns(UserWarning, match="skipped"):
        batch = next(batches(data.load(), 10, 0))
    assert sorted(batch["image"][:, 0, 0, 0].tolist()) == sorted(greys)


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    path = folder(tmp_path / "d", {"a.png": b"no", "b.png": picture(1)[:30]})
    dataset = Folder(path, on_error="skip").load()
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(ValueError, match="none of the 2 images can be read"),
    ):
        dataset.source[0]
    with pytest.raises(ValueError, match=r"on_error must be one of .* got 'ignore'"):
        Folder(path, on_error="ignore")


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_wrong_number_of_pixels_is_no_fault_of_the_images(
    on_error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAXDIFF_MAX_PIXELS", "many")
    data = Folder(folder(tmp_path, {"a.png": picture(1)}), on_error=on_error)
    with pytest.raises(ValueError, match="JAXDIFF_MAX_PIXELS must be a number of pixels"):
        data.load()
