"""Archives that are damaged, hostile or unusual: one line, and little memory."""

import io
import json
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxdiff import evaluation
from jaxdiff.data import CIFAR10, Latents, VAELatents
from jaxdiff.data.formats import shards
from jaxdiff.interop import npz

ONE = VAELatents(mean=(0.0,), std=(1.0,))


def saved(save: Callable[..., None] = np.savez, **arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def test_texts_are_read_where_they_are_allowed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(saved(names=np.array(["a", "bé"]), x=np.eye(2)))
    arrays = npz.load(path)
    assert arrays["names"].tolist() == ["a", "bé"]
    np.testing.assert_array_equal(npz.load(path, ["x", "y"])["x"], np.eye(2))
    with pytest.raises(ValueError, match=r"'names\.npy' holds no numbers"):
        npz.load(path, texts=False)


def test_an_array_that_grows_beyond_reason_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "INFLATED", 2**20)
    path = tmp_path / "a.npz"
    path.write_bytes(saved(np.savez_compressed, x=np.zeros(2**20)))
    with pytest.raises(
        ValueError, match=r"would grow from 8,\d+ to 8,388,736 bytes: write"
    ):
        npz.load(path)
    noise = np.random.default_rng(0).integers(0, 256, 2**21, np.uint8)
    path.write_bytes(saved(np.savez_compressed, x=noise))  # large, as what it is made of
    np.testing.assert_array_equal(npz.load(path)["x"], noise)
    path.write_bytes(saved(np.savez, x=np.zeros(2**20)))  # large, as its file is
    assert len(npz.load(path)["x"]) == 2**20


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_many_small_arrays_do_not_grow_together_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(npz, "INFLATED", 2**20)
    path = tmp_path / "a.npz"
    arrays = {f"x{i}": np.zeros(2**16) for i in range(3)}
    path.write_bytes(saved(np.savez_compressed, **arrays))
    with pytest.raises(ValueError, match=r"the file would grow from [\d,]+ to"):
        npz.load(path)
    assert npz.load(path, ["x0"]).keys() == {"x0"}


def test_a_reference_reads_what_it_lists_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[set[str]] = []
    plain = npz.load
    monkeypatch.setattr(
        npz, "load", lambda path, names: read.append({*names}) or plain(path, names)
    )
    known = {"pixels8": {"name": "pixels8", "preprocessing": "x", "sha256": "", "dims": 1}}
    meta = {"jaxdiff_observed": 1, "extractors": known, "source": "x", "shape": None}
    arrays = {f"{i}": np.zeros(9) for i in range(3)}
    of = {"pixels8/mean": np.zeros(1), "pixels8/scatter": np.ones((1, 1))}
    arrays |= {**of, "pixels8/count": np.array(9), "meta": np.array(json.dumps(meta))}
    np.savez(tmp_path / "r.npz", **arrays)
    assert evaluation.load(tmp_path / "r.npz").count == 9
    assert read == [{"meta"}, {f"pixels8/{p}" for p in (
        "mean", "scatter", "count", "features")}]  # fmt: skip


def header(text: bytes) -> bytes:
    """An NPZ with an array whose NPY header is this text."""
    text = text.ljust(118) + b"\n"
    body = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(8)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.npy", body)
    return file.getvalue()


def raw(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def nameless() -> bytes:
    """A member whose name is a byte long no more: that byte is its extra field."""
    data = bytearray(raw("x", b"hello"))
    entry = data.index(b"PK\x01\x02")
    data[26:30] = data[entry + 28 : entry + 32] = struct.pack("<2H", 0, 1)
    return bytes(data)


def encrypted() -> bytes:
    data = bytearray(saved(x=np.eye(2)))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def compressed(method: int) -> bytes:
    array = npy(np.eye(2))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("x.npy", array)
    return file.getvalue()


def deflate_damaged() -> bytes:
    data = bytearray(saved(np.savez_compressed, x=np.arange(1000.0)))
    data[60:80] = bytes(20)
    return bytes(data)


HOSTILE = {
    "not a literal": header(b"{'descr': '<f8', 'fortran_order': False, 'shape': ((((1"),
    "unterminated text": header(b"'''"),
    "indented": header(b"  \n x\n   y\n"),
    "deep": header(b"(" * 117),
    "unhashable": header(b"{[]: 1}"),
    "another key": header(b"{'descr': '<f8', 'fortran_order': False, 'shap': (1,)}"),
    "a type of nothing": header(
        b"{'descr': ('<f8',), 'fortran_order': False, 'shape': (1,)}"
    ),
    "a number as type": header(b"{'descr': 7, 'fortran_order': False, 'shape': (1,)}"),
    "negative": header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (-1,)}"),
    "a shape of text": header(b"{'descr': '<f8', 'fortran_order': False, 'shape': ('a',)}"),
    "many axes": header(b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,) * 40}"),
    "raw bytes": raw("x", b"hello"),
    "raw bytes as an array": raw("x.npy", b"hello"),
    "no name": nameless(),
    "encrypted": encrypted(),
    "bzip2": compressed(zipfile.ZIP_BZIP2),
    "lzma": compressed(zipfile.ZIP_LZMA),
    "deflate": deflate_damaged(),
    "objects": saved(x=np.array([{}], object)),
    "empty": b"",
    "text": b"hello",
    "a zip of nothing": raw("x", b"")[-22:],
}


WORDS = {
    "negative": "which do not fit (-1,)",
    "raw bytes": "a zip with 'x' in it",
    "no name": "a zip with '' in it",
    "encrypted": "'x.npy' is encrypted",
    "bzip2": "x.npy is compressed by method 12",
    "lzma": "x.npy is compressed by method 14",
    "deflate": "x.npy is damaged",
    "objects": "holds pickled objects, which are never read",
    "empty": "the file is empty",
    "text": "it does not begin like a zip",
    "a zip of nothing": "it does not begin like a zip",
}
"""Of the others: no header of an array."""


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_npz_is_one_line(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(HOSTILE[name])
    words = WORDS.get(name, "'x.npy' has no header of an array")
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        npz.load(path)
    assert "\n" not in str(caught.value)


def test_labels_of_latents_are_bounded(tmp_path: Path) -> None:
    path, latents = tmp_path / "a.npz", np.ones((2, 1, 1, 2), np.float32)
    for label, line in (
        (50_000_000, r"0 \.\.\. 50000000, .* 65535 for its 65,536"),
        (2**40, "1099511627776"),
    ):
        path.write_bytes(saved(latents=latents, labels=np.array([0, label])))
        with pytest.raises(ValueError, match=line):
            Latents(str(path), 1, ONE).load()
    for classes in (np.array("cat"), np.array([["cat"]]), np.array(["cat"] * 65_537)):
        path.write_bytes(saved(latents=latents, labels=np.array([0, 0]), classes=classes))
        with pytest.raises(
            ValueError, match=r"classes has shape .* a list of at most 65,536"
        ):
            Latents(str(path), 1, ONE).load()


def test_a_name_that_changed_in_the_header_of_records_is_damage(tmp_path: Path) -> None:
    header = shards.Header("raw", "uint8", (8, 8, 3), ("cat", "dog"), 0, (), {"data": "x"})
    path = tmp_path / shards.HEADER
    path.write_bytes(shards.dumps(header))
    assert shards.read_header(tmp_path) == header
    path.write_bytes(shards.dumps(header).replace(b'"cat"', b'"cau"'))
    with pytest.raises(ValueError, match=r"records\.json is damaged: its checksum"):
        shards.read_header(tmp_path)
    content = json.loads(shards.dumps(header))
    del content[shards.DIGEST]  # as version 0.1 wrote it
    path.write_text(json.dumps(content))
    assert shards.read_header(tmp_path) == header


def test_a_flipped_bit_of_a_latent_is_damage(tmp_path: Path) -> None:
    path, latents = tmp_path / "a.npz", np.ones((2, 1, 1, 2), np.float32)
    data = bytearray(saved(latents=latents, labels=np.array([0, 1])))
    data[data.index(latents.tobytes()) + 1] ^= 1  # still finite, and close to what it was
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"latents\.npy is damaged: its checksum"):
        Latents(str(path), 1, ONE).load()


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_damaged_tar_is_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"cifar.tar.{kind}"
    content = np.random.default_rng(0).bytes(5000)
    with tarfile.open(path, f"w:{kind}") as archive:
        info = tarfile.TarInfo("data_batch_1.bin")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    data = bytearray(path.read_bytes())
    for at in range(100, len(data), 211):
        damaged = data.copy()
        damaged[at] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"cifar\.tar") as caught:
            CIFAR10(path).load()
        assert "\n" not in str(caught.value)
