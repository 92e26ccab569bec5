"""Snapshots are held against the network that they are of, and read within bounds."""

import json
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.interop import npz
from jaxdiff.runs import snapshots
from tests.test_snapshots import WEIGHT, snapshot

Arrays = dict[str, np.ndarray]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return snapshots.write(tmp_path, snapshot(3, 0.1, [1.0]), "float32")


def changed(path: Path, change: Callable[[Arrays], Any]) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def describing(**fields: Any) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        description = json.loads(bytes(arrays["json"])) | fields
        arrays["json"] = np.frombuffer(json.dumps(description).encode(), np.uint8)

    return change


def holds(name: str, array: Any) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.update({name: np.asarray(array)})


ONES = np.ones((3, 3, 4, 4), np.float32)
NAN = np.full((3, 3, 4, 4), np.nan, np.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (holds(WEIGHT, NAN), rf"{WEIGHT} has nan or infinity in it"),
        (holds(WEIGHT, NAN * np.inf), "has nan or infinity"),
        (
            holds(WEIGHT, ONES[0]),
            r"is \(3, 4, 4\), its network wants \(3, 3, 4, 4\)",
        ),
        (holds(WEIGHT, ONES.astype(np.float64)), "is float64, in a snapshot of float32"),
        (holds(WEIGHT, ONES.astype(np.int32)), "is int32, in a snapshot of float32"),
        (
            lambda a: a.pop(WEIGHT),
            rf"{WEIGHT} is missing, which its network wants",
        ),
        (
            holds("params/more", ONES),
            "params/more .* is an array that its network does not have",
        ),
        (
            holds(f"{WEIGHT}/in", ONES),
            "weight/in .* is an array that its network does not have",
        ),
        (lambda a: a.pop("json"), "no array `json`"),
        (holds("json", np.zeros(2**23, np.uint8)), "its description has 8,388,736 bytes"),
        (describing(std=float("nan")), "its std is nan, not the length of an average"),
        (describing(std=-1.0), "its std is -1.0"),
        (describing(std=float("inf")), "its std is inf"),
        (describing(std=True), "its std is True"),
        (describing(std="0.1"), "its std is 0.1, not the length of an average"),
        (describing(step=-5), "its step is -5, not a number of steps"),
        (describing(step=2.5), "its step is 2.5"),
        (describing(step=10**30), "its step is 10+, not"),
        (describing(images=-1), "its images is -1"),
        (describing(dtype="int8"), "its dtype is int8"),
        (describing(experiment=[]), r"its experiment is \[\], not a table"),
        (describing(experiment={"type": "solvers.Heun"}), "experiment|config"),
        (describing(classes="cat"), "its classes is cat, not a list of names"),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: Callable[[Arrays], Any], message: str, path: Path
) -> None:
    changed(path, change)
    with pytest.raises(ValueError, match=message) as error:
        jd.restore(path)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{path} is damaged, or no snapshot: ")


def test_a_member_of_four_gigabytes_is_not_read(path: Path) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    arrays.pop(WEIGHT)
    np.savez(path, **arrays)
    header = b"\x93NUMPY\x01\x00v\x00"
    count = 2**30 - 64
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({count},), }}"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        content = header + text.ljust(117).encode() + b"\n" + bytes(10**6)
        archive.writestr(f"{WEIGHT}.npy", content)
        archive.infolist()[-1].file_size = 4 * count + 128
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"is \(1073741760,\), its network wants"):
        snapshots.read(path)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 200_000  # kilobytes


def test_members_that_fit_the_network_are_bounded_together(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with np.load(path) as file:
        arrays = {k: a if k == "json" else np.zeros_like(a) for k, a in file.items()}
    largest = max(a.nbytes for k, a in arrays.items() if k != "json")
    np.savez_compressed(path, **arrays)
    monkeypatch.setattr(npz, "RATIO", 1)
    monkeypatch.setattr(npz, "INFLATED", max(largest, arrays["json"].nbytes) + 200)
    with pytest.raises(ValueError, match="it would grow from"):
        snapshots.read(path)
    with pytest.raises(ValueError, match="the file would grow from"):
        npz.load(path)


def test_names_that_come_from_files_move_no_cursor() -> None:
    from jaxdiff.runtime.files import printable

    assert printable("a\x1b[2J\nb\x9bm\udcff") == r"a\x1b[2J\nb\x9bm\xff"
    assert printable("müde 日本") == "müde 日本"
