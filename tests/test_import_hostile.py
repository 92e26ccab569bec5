"""Hostile pickles: each is refused in one line, soon, in little memory, and runs nothing.

All are read in a process of their own, in which an audit hook notes whatever Python
imports, compiles, executes, opens to write or starts while a file is read.
"""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import import_writer as writer

SECONDS, MEGABYTES = 1.0, 64
"""What a refusal may take of a core, and of memory beyond what was there before."""

START = b"\x80\x04"
HALVES = np.zeros(4, np.float16)


class Runs:
    """Pickles as a call, as pickle itself would write it."""

    def __init__(self, call: Callable[..., Any], *args: Any) -> None:
        self.call = call, args

    def __reduce__(self) -> Any:
        return self.call


def length(count: int, size: int) -> bytes:
    return count.to_bytes(size, "little")


def many_storages(data: bytes = writer.torch_file(HALVES)) -> bytes:
    """The bytes of one storage, loaded again and again."""
    names = b"\x8c\x0dtorch.storage\x94\x8c\x10_load_from_bytes\x94\x93\x94"
    stored = b"B" + length(len(data), 4) + data + b"\x94"
    return START + names + stored + b"]" + b"h\x02h\x03\x85Ra" * 100_000 + b"."


def many_keys(count: int = 60_000) -> bytes:
    """A dict of so many keys, stored as 0."""
    keys = b"".join(b"X\x04\0\0\0" + b"%04x" % i + b"N" for i in range(count))
    return b"}\x94(" + keys + b"u"


def many_states(times: int = 65_000) -> bytes:
    """One record that is given the same 60,000 values again and again."""
    record = b"ctorch.nn.modules.container\nModuleDict\n)R\x94"
    return START + many_keys() + record + b"h\x00b" * times + b"."


def many_arguments(times: int = 60_000) -> bytes:
    """A function called with the same 60,000 arguments again and again."""
    arguments = b"(" + b"N" * 60_000 + b"t\x94"
    call = b"h\x01h\x00R"
    return START + arguments + b"cnumpy\ndtype\n\x94" + call * times + b"."


def many_texts() -> bytes:
    """Four megabytes of text, in a storage that is loaded again and again."""
    head = writer.torch_file(HALVES)
    info = writer.dumps({"little_endian": True, "x": "y" * 2**22}, 2)
    start = head.index(b"\x80", head.index(b"\x80", 2) + 1)
    end = head.index(b"\x80", start + 1)
    return many_storages(head[:start] + info + head[end:])


def keys_in_keys() -> bytes:
    """A torch file whose keys are one long text 60,000 times over, in a list."""
    text = "y" * 2**20
    good = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True},
            ("storage", writer.standing_in("torch.HalfStorage"), "94", "cpu", 4),
            [[text] * 60_000])  # fmt: skip
    data = b"".join(writer.dumps(part, 2) for part in good) + bytes(16)
    return tensor(data=data)


def module(**state: Any) -> writer.Calling:
    return writer.persistent("Precond", {"img_resolution": 8, "img_channels": 3,
                                         "label_dim": 0, **state})  # fmt: skip


def snapshot(ema: Any) -> bytes:
    loss = writer.persistent("EDM2Loss", {})
    return writer.dumps({"ema": ema, "encoder": loss, "loss_fn": loss})


def repeated_tensor() -> bytes:
    """One storage shown as many tensors, as large together as 100 files."""
    whole = writer.tensor(np.zeros(10_000, np.float16))
    unet = writer.persistent("UNet", {"_parameters": {f"w{i}": whole for i in range(100)}})
    return snapshot(module(_modules={"unet": unet}))


def laughing_modules() -> bytes:
    """Modules that hold the one before ten times, 10^12 in all."""
    inner = writer.persistent("Block", {"_parameters": {}})
    for _ in range(12):
        same = {str(i): inner for i in range(10)}
        inner = writer.persistent("Block", {"_modules": same})
    return snapshot(module(_modules={"unet": inner}))


def tensor(**other: Any) -> bytes:
    """A snapshot's tensor with another offset, size, stride or storage."""
    fields = {"data": writer.torch_file(HALVES), "offset": 0, "size": (4,), "strides": (1,)}
    fields |= other
    storage = writer.Calling("torch.storage._load_from_bytes", fields.pop("data"))
    value = writer.Calling(
        "torch._utils._rebuild_tensor_v2", storage, *fields.values(), False, {}
    )
    unet = writer.persistent("UNet", {"_parameters": {"w": value}})
    return snapshot(module(_modules={"unet": unet}))


LAUGHS = b"".join(b"(" + (b"h" + bytes([i])) * 10 + b"t\x94" for i in range(60))
LAUGHS = b"()\x94" + LAUGHS + b"t"
"""Tuples of ten times the tuple before: 10^60 in all."""

HOSTILE: dict[str, tuple[bytes, str]] = {
    "os.system by hand": (START + b"cos\nsystem\n(S'touch pwned'\ntR.", "'os.system'"),
    **{
        f"os.system, protocol {p}": (
            pickle.dumps(Runs(os.system, "touch pwned"), p),
            f"'{os.system.__module__}.system', which is refused",
        )
        for p in range(2, 6)
    },
    **{
        f"os.system, protocol {p}": (
            pickle.dumps(Runs(os.system, "touch pwned"), p), "no pickle of protocol 2 to 5"
        )
        for p in range(2)
    },
    "a protocol to come": (b"\x80\x06N.", "no pickle of protocol 2 to 5"),
    "one byte": (b"\x80", "no pickle of protocol 2 to 5"),
    "eval": (pickle.dumps(Runs(eval, "open('pwned', 'w')"), 4), "'builtins.eval'"),
    "getattr": (pickle.dumps(Runs(getattr, 1, "real"), 4), "'builtins.getattr'"),
    "importlib": (START + b"\x8c\x09importlib\x8c\x0dimport_module\x93.", "importlib"),
    "a dotted name": (
        START + b"cdnnlib.util\nEasyDict.__class__\n.",
        "'dnnlib.util.EasyDict.__class__'",
    ),
    "a name that is a number": (START + b"K\x01K\x02\x93.", "something that is not a name"),
    "a very long name": (START + b"c" + b"a" * 10_000_000, "a name without an end"),
    "an extension's code": (START + b"\x82\x01.", "EXT1 is not an instruction"),
    "an instance": (START + b"(cos\nsystem\no.", "'os.system'"),
    "a storage's inner os.system": (
        writer.dumps(
            writer.Calling(
                "torch.storage._load_from_bytes",
                pickle.dumps(Runs(os.system, "touch pwned"), 2),
            )
        ),
        f"'{os.system.__module__}.system', which is refused",
    ),
    "a call of no function": (START + b"K\x01)R.", "it calls int"),
    "a call of a value": (START + b"cnumpy\nndarray\n)R.", "numpy.ndarray, which cannot"),
    "attributes for a name": (
        START + b"cdnnlib.util\nEasyDict\n}\x8c\x08__code__Nsb.", "cannot have a state"
    ),
    "too many arguments": (START + b"cdnnlib.util\nEasyDict\nK\x01\x85R.", "argument"),
    "a persistent id": (START + b"K\x01Q.", "persistent ids, which are refused"),
    # lengths
    "10 GB of bytes": (START + b"\x8e" + length(10 * 2**30, 8) + b"x", "10737418240 bytes"),
    "10 GB of text": (START + b"\x8d" + length(10 * 2**30, 8) + b"x", "10737418240 bytes"),
    "2^64 bytes": (START + b"\x8e" + b"\xff" * 8 + b"x.", "18446744073709551615 bytes"),
    "4 GB of bytes": (START + b"B" + b"\xff" * 4 + b"x.", "4294967295 bytes should"),
    "a frame of 10 GB": (START + b"\x95" + length(10 * 2**30, 8) + b"N.", "10737418240"),
    "an integer of 2 GB": (START + b"\x8b" + length(2**31 - 1, 4) + b"x.", "an integer of"),
    "an integer of 255 bytes": (START + b"\x8a\xff" + b"\1" * 255 + b".", "an integer of"),
    "a bytearray": (START[:1] + b"\x05\x96" + length(2**40, 8), "BYTEARRAY8 is no"),
    "memo 2^32 - 1 stored": (START + b"Nr\xff\xff\xff\xff.", "not an EDM2 snapshot"),
    "memo 2^32 - 1 recalled": (START + b"j\xff\xff\xff\xff.", "recalls 4294967295"),
    "a storage's count": (
        tensor(data=writer.torch_file(HALVES, count=10**12)),
        "4 float16 is followed by a count of 1000000000000",
    ),
    "a storage cut short": (
        tensor(data=writer.torch_file(HALVES)[:-1]), "7 bytes: truncated?"
    ),
    "a tensor of 10^12": (tensor(size=(10**6, 10**6), strides=(0, 0)), "does not fit"),
    "a tensor outside": (tensor(offset=1), "does not fit a storage of 4 elements"),
    "a tensor before": (tensor(offset=-1), "out of range"),
    # depth and number
    "tuples in tuples": (START + b")" + b"\x85" * 200_000 + b".", "more than 64 deep"),
    "lists in lists": (
        START + b"]" * 100_000 + b"a" * 99_999 + b".", "more than 64 deep"
    ),
    "dicts in dicts": (
        START + b"}" + b"\x8c\x01a}" * 50_000 + b"s" * 50_000 + b".", "more than 64 deep"
    ),
    "a list inside itself": (START + b"]\x94h\x00a.", "a value contains itself"),
    "marks": (START + b"(" * 20_000_000, "more than 250,000 instructions"),
    "stored over and over": (START + b"N" + b"\x94" * 20_000_000, "250,000 instr"),
    "empty lists": (START + b"]" * 20_000_000, "more than 250,000 instructions"),
    "the same storage": (many_storages(), "more than 250,000 instructions"),
    "a state given again": (many_states(), "more than 250,000 instructions"),
    "arguments given again": (many_arguments(), "more than 250,000 instructions"),
    "a text read again": (many_texts(), "more than 250,000 instructions"),
    "keys of a torch file": (keys_in_keys(), "keys are not those of its storages"),
    "a billion laughs": (START + LAUGHS + b".", "unfolds to more than"),
    "laughs as a key": (START + b"}" + LAUGHS + b"Ns.", "must be strings"),
    "laughs in a set": (START + b"\x8f(" + LAUGHS + b"\x90.", "must be strings"),
    "laughing modules": (laughing_modules(), "unfolds to more than"),
    "a repeated tensor": (repeated_tensor(), "larger than the file"),
    # damage
    "an empty file": (b"", "the file is empty"),
    "no end": (START + b"K\x01", "truncated?"),
    "an empty stack": (START + b".", "from an empty stack"),
    "a mark below": (START + b"K\x01(\x85.", "from an empty stack"),
    "no mark": (START + b"t.", "a group without a beginning"),
    "values left": (START + b"NN.", "values left on the stack"),
    "a key without a value": (START + b"}(Nu.", "a key without a value"),
    "an append to a number": (START + b"K\x01K\x02a.", "expected a list, got int"),
    "text": (b"hello world", "no pickle of protocol 2 to 5: give the .pkl"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "no pickle of protocol 2 to 5"),
    "a zip": (b"PK\x03\x04" + bytes(64), "a zip, as torch.save writes"),
    "a dict": (pickle.dumps({"ema": 1}), "not an EDM2 snapshot"),
    "no module": (writer.dumps({"ema": 1, "encoder": 1, "loss_fn": 1}), "is not an object"),
    "a line break in a name": (START + b"\x8c\x03a\nb\x8c\x01c\x93.", r"names 'a\nb.c'"),
}  # fmt: skip

READ = """
import json, re, resource, sys, time
from pathlib import Path
from jaxdiff.interop import edm2_snapshot

noted = []
def note(event, args):
    if event in ("import", "compile", "exec", "os.system", "subprocess.Popen", "os.exec",
                 "pickle.find_class", "marshal.loads", "ctypes.dlopen", "socket.connect"):
        noted.append(event)
    if event == "open" and args[1] not in ("r", "rb", None):
        noted.append(f"open {args[0]} {args[1]}")

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

try:
    edm2_snapshot.read("nothing.pkl")
except FileNotFoundError:
    pass
pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**28
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.addaudithook(note)
for path in sorted(Path(".").glob("*.pkl")):
    noted.clear()
    before, start, text, kind = peak(), time.process_time(), "", "nothing"
    try:
        edm2_snapshot.read(path)
    except BaseException as error:
        text, kind = str(error), type(error).__name__
    seconds, more, done = time.process_time() - start, peak() - before, list(noted)
    row = [kind, text, seconds, more, done]
    sys.stdout.write(json.dumps([path.name, row]) + "\\n")
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each file, all read by one process."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs Linux's /proc to know how much memory there is before")
    folder = tmp_path_factory.mktemp("hostile")
    for i, (data, _) in enumerate(HOSTILE.values()):
        (folder / f"{i:03d}.pkl").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", READ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert not (folder / "pwned").exists()
    rows = dict(map(json.loads, done.stdout.splitlines()))
    return {name: rows[f"{i:03d}.pkl"] for i, name in enumerate(HOSTILE)}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(name: str, refusals: dict[str, Any]) -> None:
    kind, text, seconds, more, done = refusals[name]
    assert kind == "ValueError", text
    assert len(text.splitlines()) == 1
    assert len(text) < 300
    assert any(part in text for part in HOSTILE[name][1].split("|")), text
    assert done == []
    assert seconds < SECONDS
    assert more < MEGABYTES


def test_a_good_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    from jaxdiff.interop import edm2_snapshot

    tree = {"unet.w": np.ones((2, 3), np.float16)}
    config = {"img_resolution": 8, "img_channels": 3, "label_dim": 0}
    data, path = writer.snapshot(tree, config), tmp_path / "a.pkl"
    path.write_bytes(data)
    assert edm2_snapshot.read(path).state_dict["unet.w"].tolist() == [[1.0] * 3] * 2
    for end in range(0, len(data), 13):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"a\.pkl: "):
            edm2_snapshot.read(path)
