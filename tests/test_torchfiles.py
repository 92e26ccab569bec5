"""Torch's three file formats, read without torch, and files that only look like them."""

import io
import os
import pickle
import random
import re
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxdiff.interop import archives, tensors, torch_zip
from jaxdiff.interop.unpickler import Record
from tests import import_writer as writer
from tests import torch_writer

FOLDER = Path(__file__).parent / "golden" / "formats"
ONES = np.ones(4, np.float32)


def read(path: Path, data: bytes) -> dict[str, np.ndarray]:
    path.write_bytes(data)
    return tensors.read(path)


@pytest.mark.parametrize(
    ("name", "expected", "prefix"),
    [
        ("torch_legacy.pth", "torch", ""),
        ("torch_zip.pth", "torch", ""),
        ("torch_zip_nested.pt", "torch", "state_dict."),
        ("torchscript_tiny.pt", "torchscript", ""),
    ],
)
def test_files_of_torch(name: str, expected: str, prefix: str) -> None:
    by_name = tensors.read(FOLDER / name)
    arrays = np.load(FOLDER / f"{expected}_expected.npz")
    assert list(by_name) == [prefix + name for name in arrays]
    for name, value in arrays.items():
        array = by_name[prefix + name]
        assert array.dtype == ("bfloat16" if name == "bf16" else value.dtype), name
        assert not array.flags.writeable or not array.size
        np.testing.assert_array_equal(array.astype(value.dtype), value, strict=True)


def test_what_is_no_tensor_is_kept_too() -> None:
    loaded = torch_zip.load(memoryview((FOLDER / "torch_zip_nested.pt").read_bytes()))
    del loaded["state_dict"]
    values = {"epoch": 3, "name": "x", "lst": [1, 2.5, None, True], "tup": (1, "a")}
    assert loaded == values


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_state_dict_has_attributes(tmp_path: Path, protocol: int) -> None:
    sd = OrderedDict(w=torch_writer.tensor("0", ONES))
    sd._metadata = OrderedDict({"": {"version": 1}})  # as Module.state_dict() leaves it
    data = torch_writer.archive(writer.dumps(sd, protocol), {"0": ONES})
    arrays = read(tmp_path / "a.pth", data)
    assert list(arrays) == ["w"]
    np.testing.assert_array_equal(arrays["w"], ONES)


def test_storages_are_not_copied(tmp_path: Path) -> None:
    tied = {"a": torch_writer.tensor("0", ONES), "b": torch_writer.tensor("0", ONES)}
    arrays = read(tmp_path / "a.pth", torch_writer.archive(tied, {"0": ONES}))
    assert np.shares_memory(arrays["a"], arrays["b"])


def test_torchscript_s_lists_tags_and_mangled_names(tmp_path: Path) -> None:
    jit = "torch.jit._pickle."
    name = "__torch__.net.___torch_mangle_7.Block"

    def module(**state: Any) -> Any:
        block = writer.standing_in(name)()
        block.__dict__.update(state)
        return block

    numbers = writer.Calling(f"{jit}build_intlist", [1, 2])
    tagged = writer.Calling(f"{jit}restore_type_tag", {"k": 1}, "Dict[str, int]")
    parts = [torch_writer.tensor("0", ONES)]
    listed = writer.Calling(f"{jit}build_tensorlist", parts)
    inner = module(w=torch_writer.tensor("0", ONES), numbers=numbers, training=False)
    data = torch_writer.archive(module(a=inner, tagged=tagged, some=listed), {"0": ONES})
    root = torch_zip.load(memoryview(data))
    assert type(root) is Record
    assert root.name == name
    assert root.state["tagged"] == {"k": 1}
    assert root.state["a"].state["numbers"] == [1, 2]
    assert list(read(tmp_path / "a.pt", data)) == ["a.w", "some.0"]


def test_wide_zips_are_read(tmp_path: Path) -> None:
    """Archives beyond 4 GB say sizes and places in wider fields; here they are made to."""
    data = torch_writer.archive({"w": torch_writer.tensor("0", ONES)}, {"0": ONES})
    end = data.rindex(b"PK\x05\x06")
    count, start = struct.unpack_from("<10xH4xL", data, end)
    entries, at = b"", start
    for _ in range(count):
        named, more = struct.unpack_from("<28x2H", data, at)
        packed, full = struct.unpack_from("<20x2L", data, at)
        place = struct.unpack_from("<42xL", data, at)[0]
        head = bytearray(data[at : at + 46])
        struct.pack_into("<2L", head, 20, 2**32 - 1, 2**32 - 1)
        struct.pack_into("<L", head, 42, 2**32 - 1)
        extra = struct.pack("<2H8x", 0x5A46, 8)  # padding of another kind stands before
        extra += struct.pack("<2H3Q", 1, 24, full, packed, place)
        struct.pack_into("<H", head, 30, len(extra))
        entries += head + data[at + 46 : at + 46 + named] + extra
        at += 46 + named + more
    end64 = b"PK\x06\x06" + struct.pack(
        "<Q2H2L4Q", 44, 45, 45, 0, 0, count, count, len(entries), start
    )
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, start + len(entries), 1)
    short = b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, *[2**16 - 1] * 2,
                                        *[2**32 - 1] * 2, 0)  # fmt: skip
    wide = data[:start] + entries + end64 + locator + short
    np.testing.assert_array_equal(read(tmp_path / "a.pth", wide)["w"], ONES)
    with pytest.raises(ValueError, match="wide end is missing"):
        read(tmp_path / "a.pth", data[:start] + entries + end64 + short)


class Runs:
    """Pickles as a call, as pickle itself would write it."""

    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


def good(**settings: Any) -> bytes:
    return torch_writer.archive(
        {"w": torch_writer.tensor("0", ONES)}, {"0": ONES}, **settings
    )


def viewed(*view: Any) -> bytes:
    return torch_writer.archive({"w": torch_writer.tensor("0", ONES, *view)}, {"0": ONES})


def edited(data: bytes, mark: bytes, offset: int, new: bytes, last: bool = True) -> bytes:
    """The bytes with others in the place that is `offset` after the mark."""
    at = (data.rindex(mark) if last else data.index(mark)) + offset
    return data[:at] + new + data[at + len(new) :]


def overlapping() -> bytes:
    """A storage whose bytes are in another member's: one member's data twice."""
    data = good()
    places = [m.start() for m in re.finditer(b"PK\x01\x02", data)]
    names = [data[p + 46 : p + 46 + int.from_bytes(data[p + 28 : p + 30], "little")]
             for p in places]  # fmt: skip
    place = places[names.index(b"net/data.pkl")]
    grown = int.from_bytes(data[place + 20 : place + 24], "little") + 60
    return data[: place + 20] + struct.pack("<2L", grown, grown) + data[place + 28 :]


def twice() -> bytes:
    file = io.BytesIO(good())
    with zipfile.ZipFile(file, "a") as out, pytest.warns(UserWarning, match="Duplicate"):
        out.writestr("net/data/0", ONES.tobytes())
    return file.getvalue()


def crowd(count: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as out:
        for i in range(count):
            out.writestr(f"net/{i}", b"")
    return file.getvalue()


def nested(depth: int) -> Any:
    value: Any = torch_writer.tensor("0", ONES)
    for _ in range(depth):
        value = {"a" * 100: value}
    return value


@cache
def bomb() -> bytes:
    """A pickle of 67 MB in an archive of 65 kB."""
    pickled = b"\x80\x02" + b"N0" * 2**25 + b"N."
    return torch_writer.archive(pickled, {}, compressed=("data.pkl",))


ENTRY, END = b"PK\x01\x02", b"PK\x05\x06"
HOSTILE: dict[str, tuple[bytes | Callable[[], bytes], str]] = {
    "os.system, zip": (torch_writer.archive(pickle.dumps(Runs(), 2), {}),
        f"'{os.system.__module__}.system', which is refused"),
    "os.system, legacy": (pickle.dumps(Runs(), 2), "which is refused"),
    "a name beside TorchScript's": (
        torch_writer.archive(b"\x80\x02c__torch__os\nsys tem\n)\x81.", {}),
        "'__torch__os.sys tem', which is refused"),
    "an unknown storage": (torch_writer.archive(
        b"\x80\x02ctorch\nQInt8Storage\n.", {}), "'torch.QInt8Storage', which is refused"),
    "a zip bomb": (bomb, "net/data.pkl has 67,108,868 bytes, more than 16,777,216"),
    "a bomb that says it is small": (lambda: edited(
        bomb(), ENTRY, 24, struct.pack("<L", 100), last=False),
        "net/data.pkl is damaged: its ch"),
    "a bomb of byteorders": (good(byteorder=b"l" * 100, compressed=("byteorder",)),
        "net/byteorder has 100 bytes, more than 16"),
    "a compressed storage": (good(compressed=("data/0",)), "net/data/0 is compressed"),
    "another compression": (edited(good(), ENTRY, 10, b"\x0e\0", last=False),
        "net/data.pkl is compressed by method 14"),
    "no storage": (torch_writer.archive({"w": torch_writer.tensor("9", ONES)}, {}),
        "the zip has no storage data/9"),
    "a storage outside": (torch_writer.archive(
        {"w": torch_writer.tensor("../../0", ONES)}, {"0": ONES}),
        "the zip has no storage data/../../0"),
    "a storage too short": (torch_writer.archive(
        {"w": torch_writer.tensor("0", ONES)}, {"0": ONES[:3]}),
        "a storage of 4 float32 has 12 bytes in the zip"),
    "a view too long": (viewed(1, (4,), (1,)), "does not fit a storage of 4 elements"),
    "a view before": (viewed(-1, (4,), (1,)), "out of range"),
    "a view of 10^12": (viewed(0, (10**6, 10**6), (0, 0)), "does not fit a storage"),
    "an entry of six": (torch_writer.archive(writer.Calling(
        "torch._utils._rebuild_tensor_v2", writer.Persistent(("storage",
        writer.standing_in("torch.FloatStorage"), "0", "cpu", 4, ("1", 0, 4))), 0, (4,),
        (1,)), {"0": ONES}), "the zip has no storage data/0"),
    "a storage that is none": (torch_writer.archive(b"\x80\x02K\x01Q.", {}),
        "a storage's entry is not a tuple of five or six"),
    "a big-endian machine's": (good(byteorder=b"big"), "a little-endian machine"),
    "bytes after the pickle": (torch_writer.archive(b"\x80\x02N.N", {}), "1 bytes after"),
    "another zip": (crowd(3), "a zip without data.pkl in its folder"),
    "an NPZ": ((FOLDER / "torch_expected.npz").read_bytes(), "a zip without data.pkl"),
    "many members": (lambda: crowd(20_001), "the zip has 20,001 members"),
    "members that overlap": (overlapping(), "members of the zip overlap"),
    "a member twice": (twice(), "the zip has two members 'net/data/0'"),
    "a member beyond the end": (edited(good(), ENTRY, 20, struct.pack("<2L", 10**9, 10**9)),
        "reaches beyond the zip's members"),
    "a member elsewhere": (edited(good(), ENTRY, 42, struct.pack("<L", 7)),
        "is not where the zip's directory puts it"),
    "a member far away": (edited(good(), ENTRY, 42, struct.pack("<L", 2**32 - 2)),
        "is not where the zip's directory puts it"),
    "another name in front": (edited(good(), b"PK\x03\x04", 30, b"x", last=False),
        "has another name in its own header"),
    "an encrypted member": (edited(good(), ENTRY, 8, b"\1"), "is encrypted"),
    "no wide sizes": (edited(good(), ENTRY, 20, b"\xff" * 4), "has no wide sizes"),
    "a directory of more": (edited(good(), END, 8, struct.pack("<2H", 5, 5)),
        "the zip's directory is damaged"),
    "a directory of less": (edited(good(), END, 8, struct.pack("<2H", 3, 3)),
        "directory is not one of 3 members"),
    "a directory outside": (edited(good(), END, 12, struct.pack("<2L", 10**6, 10**6)),
        "the zip's directory lies outside of it"),
    "a directory of 4 GB": (edited(good(), END, 12, struct.pack("<L", 2**32 - 2)),
        "of 4,294,967,294 bytes of names"),
    "a wide end that is none": (edited(good(), END, 8, b"\xff" * 4), "wide end is missing"),
    "a part of several": (edited(good(), END, 4, b"\1"), "one of several parts"),
    "bytes after the zip": (good() + b"x", "end record has a wrong length"),
    "the end alone": (b"PK\x03\x04" + END, "a zip without its end"),
    "a long name": (torch_writer.archive(nested(3), {"0": ONES}), "a name of 302 char"),
    "one name twice": (torch_writer.archive({"a.b": torch_writer.tensor("0", ONES),
        "a": {"b": torch_writer.tensor("0", ONES)}}, {"0": ONES}), "two arrays 'a.b'"),
    "an empty file": (b"", "the file is empty"),
    "text": (b"hello world", "not a file of torch"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "not a file of torch"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[name]
    Path("a.pth").write_bytes(data() if callable(data) else data)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"^a\.pth: ") as error:
            tensors.read("a.pth")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    text = str(error.value)
    assert message in text, text
    assert len(text) < 250
    assert len(text.splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
    assert peak < 2**25


def test_a_file_has_so_many_values_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_zip, "VALUES", 1000)
    shared = [None] * 19  # with the list itself twenty values, however often it is shared
    assert torch_zip.arrays([shared] * 49 + [None] * 18 + [ONES]).keys() == {"67"}
    with pytest.raises(ValueError, match="more than 1,000 values"):
        torch_zip.arrays([shared] * 50)


def test_no_file() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file nothing\.pth"):
        tensors.read("nothing.pth")


NAMES = ("torch_zip.pth", "torch_legacy.pth", "torchscript_tiny.pt")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_anywhere_is_refused(name: str, tmp_path: Path) -> None:
    data = (FOLDER / name).read_bytes()
    for end in range(0, len(data) - 1, 41):
        with pytest.raises(ValueError, match=r"a\.pth: "):
            read(tmp_path / "a.pth", data[:end])


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    """Whatever byte is another: arrays, or one ValueError in one line; nothing else."""
    data, chance = (FOLDER / name).read_bytes(), random.Random(0)
    refused = []
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(chance.choice([1, 1, 4])):
            broken[chance.randrange(len(data))] = chance.randrange(256)
        try:
            read(tmp_path / "a.pth", bytes(broken))
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 15
    assert all(len(text.splitlines()) == 1 for text in refused)


def test_a_member_is_read_within_its_limit() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a", bytes(1000))
        out.writestr("b", b"")
        out.writestr("c", random.Random(0).randbytes(2**22))
    members = archives.members(memoryview(file.getvalue()))
    assert bytes(archives.read(members["a"], 1000)) == bytes(1000)
    assert bytes(archives.start(members["a"], 10)) == bytes(10)
    assert bytes(archives.read(members["b"], 0)) == b""
    tracemalloc.start()
    try:
        assert len(archives.start(members["c"], 10)) == 10
        assert tracemalloc.get_traced_memory()[1] < 2**20  # the rest is not copied
    finally:
        tracemalloc.stop()
    assert archives.read(members["c"], 2**22) == random.Random(0).randbytes(2**22)
    with pytest.raises(ValueError, match="a has 1,000 bytes, more than 999"):
        archives.read(members["a"], 999)
