"""CIFAR-10's archives, written by hand as Python 2 wrote them, and damaged ones."""

import io
import pickle
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.data import CIFAR10, split_of
from jaxdiff.data.sources import cifar10

Files = Mapping[str, bytes]
N = 3
NAMES = (*cifar10.TRAIN, *cifar10.TEST)


def planes(part: int) -> np.ndarray:
    """N rows of 3072 bytes: red, green and blue planes, unlike in all files."""
    return np.random.default_rng(part).integers(0, 256, (N, 3072), np.uint8)


def labels(part: int) -> list[int]:
    return [(3 * part + i) % 10 for i in range(N)]


def text(data: bytes) -> bytes:
    """SHORT_BINSTRING or BINSTRING, as cPickle of Python 2 writes str."""
    if len(data) < 256:
        return b"U" + bytes([len(data)]) + data
    return b"T" + struct.pack("<i", len(data)) + data


def pickled(rows: np.ndarray, label: list[int], order: bytes = b"\x89") -> bytes:
    """{"batch_label", "labels", "data"} by cPickle of Python 2, protocol 2."""
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ" + b"\xff" * 4
    dtype += b"J" + b"\xff" * 4 + b"K\x00tb"
    shape = b"".join(b"M" + struct.pack("<H", n) for n in rows.shape) + b"\x86"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    array += b"(K\x01" + shape + dtype + order + text(rows.tobytes()) + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([k]) for k in label) + b"e"
    items = text(b"batch_label") + b"q\x01" + text(b"batch 1 of 5")
    items += text(b"labels") + numbers + text(b"data") + array
    return b"\x80\x02}(" + items + b"u."


def python() -> Files:
    return {name: pickled(planes(i), labels(i)) for i, name in enumerate(NAMES)}


def binary() -> Files:
    rows = [np.insert(planes(i), 0, labels(i), axis=1) for i in range(len(NAMES))]
    return {
        f"{name}.bin": row.astype(np.uint8).tobytes()
        for name, row in zip(NAMES, rows, strict=True)
    }


def tar(path: Path, files: Files) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {**files, "readme.html": b"hello"}.items():
            member = tarfile.TarInfo(f"cifar-10-batches/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def folder(path: Path, files: Files) -> Path:
    path.mkdir()
    for name, data in files.items():
        (path / name).write_bytes(data)
    return path


@pytest.fixture
def any_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files other than the published ones pass."""
    monkeypatch.setattr(cifar10, "MD5", {})


def test_the_hand_written_pickle_is_one() -> None:
    root = pickle.loads(pickled(planes(0), labels(0)), encoding="latin-1")
    np.testing.assert_array_equal(root["data"], planes(0), strict=True)
    assert root["labels"] == labels(0)


@pytest.mark.parametrize("files", [python, binary])
@pytest.mark.parametrize("pack", [tar, folder])
@pytest.mark.usefixtures("any_bytes")
def test_every_form_of_the_archive_reads_alike(
    files: Callable[[], Files], pack: Callable[[Path, Files], Path], tmp_path: Path
) -> None:
    data = CIFAR10(str(pack(tmp_path / "c.tar.gz", files())))
    for split, parts in (("train", range(5)), ("test", [5]), ("all", range(6))):
        dataset = split_of(data, split).load()
        rows = dataset.take(np.arange(len(dataset)))
        assert rows["label"].tolist() == [k for part in parts for k in labels(part)]
        whole = np.concatenate([planes(part) for part in parts])
        assert rows["image"].shape == (len(whole), *data.shape)
        for channel in range(3):  # planes one after the other, rows within
            plane = whole[:, 1024 * channel : 1024 * (channel + 1)].reshape(-1, 32, 32)
            np.testing.assert_array_equal(rows["image"][..., channel], plane)
    assert dataset.classes[3] == "cat"


def test_only_the_published_pickles_are_read(tmp_path: Path) -> None:
    path = tar(tmp_path / "c.tar.gz", python())
    with pytest.raises(ValueError, match=r"data_batch_1: its MD5 is .*c99cafc15224"):
        CIFAR10(str(path)).load()


def changed(**files: bytes) -> Files:
    return {**python(), **files}


def without(name: str) -> Files:
    return {key: data for key, data in python().items() if key != name}


GLOBAL = b"\x80\x02cposix\nsystem\nU\x04exit\x85R."
ROWS = planes(0)
WRONG = {
    "another name": (changed(data_batch_2=GLOBAL), "data_batch_2: .*'posix.system'.*ref"),
    "cut pickle": (changed(data_batch_1=pickled(ROWS, [1] * N)[:900]), "truncated"),
    "more behind": (changed(data_batch_1=pickled(ROWS, [1] * N) + b"x"), "1 bytes follow"),
    "a label of 10": (changed(data_batch_1=pickled(ROWS, [1, 10, 1])), "a label is 10, "),
    "few labels": (changed(data_batch_1=pickled(ROWS, [1])), "a list of 3"),
    "narrow": (changed(data_batch_1=pickled(ROWS[:, :3000], [1] * N)), r"\(3, 3000\)"),
    "a list": (changed(data_batch_1=b"\x80\x02]."), "not a dict with data and labels"),
    "no array": (
        changed(data_batch_1=b"\x80\x02}(U\x04dataNU\x06labels]u."),
        "must be arrays",
    ),
    "one missing": (without("data_batch_3"), "lacks data_batch_3"),
    "binary, cut": (
        {**binary(), "data_batch_4.bin": bytes(5000)},
        "data_batch_4: 5,000 bytes are not rows of 3073",
    ),
    "binary, label": (
        {**binary(), "data_batch_4.bin": bytes([11]) + bytes(3072)},
        "data_batch_4: a label is 11",
    ),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.usefixtures("any_bytes")
def test_damage_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    files, message = WRONG[name]
    path = tar(tmp_path / "c.tar.gz", files)
    with pytest.raises(ValueError, match=message) as caught:
        CIFAR10(str(path)).load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 5, 1000, -20])
@pytest.mark.usefixtures("any_bytes")
def test_a_cut_archive_is_refused(cut: int, tmp_path: Path) -> None:
    path = tar(tmp_path / "c.tar.gz", python())
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(
        ValueError, match=r"c\.tar\.gz is not an archive of CIFAR-10, or is cut"
    ):
        CIFAR10(str(path)).load()


@pytest.mark.usefixtures("any_bytes")
def test_an_altered_archive_is_refused(tmp_path: Path) -> None:
    path = tar(tmp_path / "c.tar.gz", binary())
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # gzip's own checksum, of bytes that are no longer these
    path.write_bytes(data)
    with pytest.raises(ValueError, match="CRC check failed"):
        CIFAR10(str(path)).load()


def test_what_is_not_there() -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*kriz/cifar\.html"):
        CIFAR10("nowhere.tar.gz").load()
    with pytest.raises(ValueError, match="path is empty"):
        CIFAR10("")
    with pytest.raises(ValueError, match=r"split must be one of .* got 'valid'"):
        CIFAR10("x", split="valid")
