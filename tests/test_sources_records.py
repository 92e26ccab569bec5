"""Records: what is read is what was written, whatever happened in between, or an error."""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import (
    Dataset,
    Digits,
    Folder,
    LatentRecords,
    Latents,
    Records,
    Synthetic,
    batches,
    prepare,
    skipped,
    split_of,
    write_latents,
)
from jaxdiff.data.formats import shards
from jaxdiff.data.prepare import Prepared

pytest.importorskip("array_record", reason='needs pip install "jaxdiff[records]"')
NOISE = Synthetic((8, 8, 3), labels=5, count=25)


def make(
    out: Path, data: object = NOISE, encoding: str = "raw", size: int = 10
) -> Prepared:
    return prepare.prepare(data, out, encoding, size, progress=False)


def rows(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    batch = dataset.take(np.arange(len(dataset)))
    return batch["image"], batch["label"]


@pytest.mark.parametrize("encoding", ["raw", "png"])
@pytest.mark.parametrize("size", [10, 25, 100])
def test_records_are_the_images(encoding: str, size: int, tmp_path: Path) -> None:
    made = make(tmp_path / "r", NOISE, encoding, size)
    assert (made.header.count, made.skipped, made.kept) == (25, 0, 0)
    assert len(made.header.shards) == -(-25 // size)
    dataset = Records(str(tmp_path / "r"), size=8).load()
    for actual, expected in zip(rows(dataset), rows(NOISE.load()), strict=True):
        np.testing.assert_array_equal(actual, expected, strict=True)
    assert dataset.classes == NOISE.classes == Records(str(tmp_path / "r")).classes
    for shard in made.header.shards:
        data = (tmp_path / "r" / shard.name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)
    one, two = (next(batches(d, 9, 3))["image"] for d in (dataset, NOISE.load()))
    np.testing.assert_array_equal(one, two)


def test_records_of_grey_images(tmp_path: Path) -> None:
    digits = split_of(Digits())
    make(tmp_path / "r", digits, "png", 128)
    dataset = Records(str(tmp_path / "r"), size=8, channels=1).load()
    for actual, expected in zip(rows(dataset), rows(digits.load()), strict=True):
        np.testing.assert_array_equal(actual, expected, strict=True)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_records_of_latents(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=(2, 6, 4, 4, 4)).astype("f4")
    path, label = tmp_path / "latents.npz", np.arange(6) - 1
    posteriors = [(mean, np.abs(std), label)]
    write_latents(path, 6, posteriors, list("abcde"), dtype=dtype, progress=False)
    latents = Latents(str(path), size=4)
    make(tmp_path / "r", latents)
    dataset = LatentRecords(str(tmp_path / "r"), size=4).load()
    for actual, expected in zip(rows(dataset), rows(latents.load()), strict=True):
        np.testing.assert_array_equal(actual, expected, strict=True)
    assert dataset.classes == tuple("abcde")
    with pytest.raises(ValueError, match=r"has float.* \(4, 4, 8\), but .* uint8 \(4, 4"):
        Records(str(tmp_path / "r"), size=4).load()


def photos(path: Path) -> Path:
    """Six JPEG files in two classes."""
    rng = np.random.default_rng(0)
    for i in range(6):
        file = path / "ab"[i % 2] / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(noise).save(file)
    return path


def test_records_of_files_are_the_files(tmp_path: Path) -> None:
    data = Folder(str(photos(tmp_path / "p")), size=8)
    make(tmp_path / "r", data, "file", 4)
    dataset = Records(str(tmp_path / "r"), size=8).load()
    for actual, expected in zip(rows(dataset), rows(data.load()), strict=True):
        np.testing.assert_array_equal(actual, expected, strict=True)
    names = [p.read_bytes() for p in data.load().source.paths]
    reader = dataset.source.reader
    assert [shards.unpack(reader[i])[1] for i in range(6)] == names
    other = dataclasses.replace(data, size=5)  # cropped when read, so of any size
    actual = rows(Records(str(tmp_path / "r"), size=5).load())[0]
    np.testing.assert_array_equal(actual, rows(other.load())[0])


def test_unreadable_images_are_left_out_or_stop(tmp_path: Path) -> None:
    folder = photos(tmp_path / "p")
    (folder / "a" / "2.jpg").write_bytes(b"no image")
    data = Folder(str(folder), size=8)
    with pytest.raises(ValueError, match=r"2\.jpg' cannot be read as an image"):
        make(tmp_path / "r", data, "png", 2)
    made = make(tmp_path / "s", dataclasses.replace(data, on_error="skip"), "png", 2)
    assert (made.header.count, made.skipped) == (5, 1)
    assert [shard.count for shard in made.header.shards] == [1, 2, 2]
    expected = [data.load().source[i]["image"] for i in (0, 2, 3, 4, 5)]
    images = rows(Records(str(tmp_path / "s"), size=8).load())[0]
    np.testing.assert_array_equal(images, expected)


class Killed(BaseException):
    """What cannot be caught by mistake."""


def test_it_goes_on_where_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, out = make(tmp_path / "whole", size=5).header, tmp_path / "r"
    packer = prepare.packer

    def dies(*args: object) -> Callable[[int], bytes | None]:
        pack = packer(*args)

        def packed(index: int) -> bytes | None:
            if index == 17:
                (out / "tmpleft").write_bytes(b"half a shard")
                raise Killed
            return pack(index)

        return packed

    monkeypatch.setattr(prepare, "packer", dies)
    with pytest.raises(Killed):
        make(out, size=5)
    monkeypatch.setattr(prepare, "packer", packer)
    with pytest.raises(ValueError, match=r"has 3 of 5 shards: give the command .* again"):
        Records(str(out), size=8).load()
    before = {p.name: p.stat().st_mtime_ns for p in out.glob("*.array_record")}
    assert len(before) == 3
    made = make(out, size=5)
    assert (made.kept, made.header) == (3, whole)
    after = {p.name: p.stat().st_mtime_ns for p in out.iterdir()}
    assert before.items() <= after.items()
    assert sorted(after) == [*(shard.name for shard in whole.shards), "records.json"]
    images = rows(Records(str(out), size=8).load())[0]
    np.testing.assert_array_equal(images, rows(NOISE.load())[0])


def test_it_mixes_nothing_with_other_things(tmp_path: Path) -> None:
    make(tmp_path / "r")
    for other in ({"data": Synthetic((8, 8, 3), count=25)}, {"size": 9}):
        with pytest.raises(
            ValueError, match=r"has records of another kind \(.*: name another folder"
        ):
            make(tmp_path / "r", **other)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(ValueError, match=r"has 'thesis\.txt' in it: name an empty folder"):
        make(tmp_path / "mine")
    with pytest.raises(ValueError, match="not image files: use --encoding=png or raw"):
        make(tmp_path / "new", encoding="file")
    with pytest.raises(ValueError, match=r"no PNG is made of uint8 \(8, 8, 2\)"):
        make(tmp_path / "two", Synthetic((8, 8, 2), count=2), "png")


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "r"
    make(path)
    return path


@pytest.fixture
def copied(records: Path, tmp_path: Path) -> Path:
    """Records that a test may damage."""
    (tmp_path / "r").mkdir()
    for path in records.iterdir():
        (tmp_path / "r" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "r"


def change(path: Path, how: Callable[[dict], object]) -> None:
    """Changes the header's JSON."""
    content = json.loads((path / "records.json").read_text())
    how(content)
    (path / "records.json").write_text(json.dumps(content))


DAMAGE = {
    "no json": (lambda p: (p / "records.json").write_text("{"), "is damaged"),
    "a list": (lambda p: (p / "records.json").write_text("[]"), "is damaged"),
    "later": (lambda p: change(p, lambda s: s.update(version=2)), "of version 2"),
    "count": (lambda p: change(p, lambda s: s.update(count=24)), "it counts 24"),
    "elsewhere": (
        lambda p: change(p, lambda s: s["shards"][0].update(name="../x")),
        "a shard must lie in the folder, got '../x'",
    ),
    "shape": (lambda p: change(p, lambda s: s.update(shape=[8, 8])), "shape must be"),
    "missing": (
        lambda p: (p / "00001-of-00003.array_record").unlink(),
        "there is no .*00001-of-00003",
    ),
    "cut": (
        lambda p: (p / "00001-of-00003.array_record").write_bytes(bytes(99)),
        "00001-of-00003.array_record has 99 bytes, not",
    ),
    "zeros": (
        lambda p: (p / "00001-of-00003.array_record").write_bytes(bytes(131072)),
        "00001-of-00003.array_record is damaged",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_in_one_line(name: str, copied: Path) -> None:
    spoil, message = DAMAGE[name]
    spoil(copied)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        Records(str(copied), size=8).load()
    assert "\n" not in str(caught.value)


def test_a_damaged_record_is_refused_or_skipped(copied: Path) -> None:
    path = copied / "00001-of-00003.array_record"
    image = NOISE.load().source[13]["image"].tobytes()
    data = bytearray(path.read_bytes())
    data[data.index(image) + 5] ^= 1
    path.write_bytes(data)
    dataset = Records(str(copied), size=8).load()
    np.testing.assert_array_equal(
        dataset.source[12]["image"], NOISE.load().source[12]["image"]
    )
    with pytest.raises(ValueError, match=r"00001.*: record 3 cannot be read: .*hash"):
        dataset.source[13]
    dataset = Records(str(copied), size=8, on_error="skip").load()
    with pytest.warns(UserWarning, match="skipped: .*record 3"):
        row = dataset.source[13]
    np.testing.assert_array_equal(row["image"], NOISE.load().source[14]["image"])
    assert skipped(dataset) == 1


def test_a_label_without_a_class_is_refused(copied: Path) -> None:
    change(
        copied,
        lambda content: content.update(classes=["0", "1"]) or content.pop(shards.DIGEST),
    )
    with pytest.raises(ValueError, match="record 2 is damaged: label 2 of 2 classes"):
        Records(str(copied), size=8).load().source[2]


def test_what_is_not_there(records: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"make records of images with jaxdiff prepare_data"
    ):
        Records(str(tmp_path)).load()
    with pytest.raises(ValueError, match=r"has uint8 \(8, 8, 3\), but .* \(16, 16, 3\)"):
        Records(str(records), size=16).load()
    with pytest.raises(ValueError, match="channels must be one of 1, 3, got 2"):
        Records("x", channels=2)


def test_png_is_lossless() -> None:
    image = NOISE.load().source[0]["image"]
    again = np.asarray(Image.open(io.BytesIO(prepare.png(image))))
    np.testing.assert_array_equal(again, image)
