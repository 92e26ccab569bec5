"""Files of weights as users have them: each gives its network's output, or one line.

An audit hook notes whatever Python imports, compiles, starts or opens to write meanwhile.
"""

import argparse
import json
import os
import pickle
import resource
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.interop import adm, autoencoder, dit, published, weights
from jaxdiff.interop.sources import Tensors
from jaxdiff.types import Condition
from tests import import_writer as writer
from tests import torch_writer
from tests.model_goldens import FILES, close, golden
from tests.test_adm_published import settings

# ------------------------------------------------------- files that are whole


def predicted(net: Any, variables: Any, name: str) -> Any:
    """The output of a network for the inputs of a golden one."""
    g = golden(name)
    cond = Condition(g.labels()) if "y" in g else Condition()
    return jax.jit(net.apply)(variables, g.nhwc("x"), jnp.asarray(g.z["t"]), cond).raw


def test_a_plain_state_dict() -> None:
    read = weights.read(FILES / "dit_a.pt")
    assert (read.part, dict(read.args)) == ("", {})
    net, _, variables = dit.imported(read.tensors, "dit", heads=4)
    expected = golden("dit_a").nhwc("out_f64")[..., :4]
    close(predicted(net, variables, "dit_a"), expected, 2e-5)


def test_a_training_checkpoint_gives_its_averages_and_its_arguments_as_data() -> None:
    read = weights.read(FILES / "sit_a_training.pt")
    assert read.part == "ema"
    assert read.args == {"model": "SiT-S/2", "lr": 0.0001}
    net, _, variables = dit.imported(read.tensors, "sit", heads=2)
    expected = -golden("sit_a").nhwc("out_f64")
    close(predicted(net, variables, "sit_a"), expected, 2e-5)


def test_a_flipped_bit_of_a_torch_file_is_seen(tmp_path: Path) -> None:
    """Each member of its zip has a checksum; here the first number of a storage."""
    values = np.ones(4096, np.float32)
    data = bytearray(
        torch_writer.archive({"w": torch_writer.tensor("0", values)}, {"0": values})
    )
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    assert weights.read(path).tensors["w"].tolist() == values.tolist()
    data[data.index(values.tobytes()) + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.pt: .*data/0 is damaged: its checksum"):
        weights.read(path)


# half precision rounds weights by 2^-11
@pytest.mark.parametrize(
    ("file", "dtype", "rtol"),
    [("adm_plain.pt", "float32", 2e-5), ("adm_plain_half.pt", "float16", 5e-3)],
)
def test_single_and_half_precision(file: str, dtype: str, rtol: float) -> None:
    tensors = weights.read(FILES / file).tensors
    assert tensors["input_blocks.1.0.in_layers.2.weight"].dtype == dtype
    net, _, variables = adm.imported(tensors, settings(golden("adm_plain").config))
    assert {a.dtype.name for a in jax.tree.leaves(variables)} == {"float32"}
    expected = golden("adm_plain").nhwc("out_f64")
    close(predicted(net, variables, "adm_plain"), expected, rtol)


NEW = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def renamed(tensors: Tensors, square: int = 2) -> dict[str, np.ndarray]:
    """A VAE's tensors by the new names, attention's weights of so many axes."""
    new_tensors = {}
    for name, value in tensors.items():
        new = next((name.replace(f".{o}.", f".{n}.") for o, n in NEW.items()
                    if f".{o}." in name), name)  # fmt: skip
        attention = ".attentions." in name and value.ndim > 1
        shape = value.shape[:2] + (1,) * (square - 2)
        new_tensors[new] = np.ascontiguousarray(
            value.reshape(shape) if attention else value
        )
    return new_tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A VAE's folder, without weights."""
    shutil.copy(FILES / "vae_a_config.json", tmp_path / "config.json")
    return tmp_path


@pytest.mark.parametrize("kind", ["old names, bin", "safetensors", "bfloat16", "4 axes"])
def test_a_folder_of_a_vae(kind: str, folder: Path) -> None:
    from safetensors.numpy import save_file

    old = weights.read(FILES / "vae_a_old_names.bin").tensors
    to = folder / "diffusion_pytorch_model.safetensors"
    if kind == "old names, bin":
        shutil.copy(FILES / "vae_a_old_names.bin", to.with_suffix(".bin"))
    elif kind == "bfloat16":
        rounded = {k: np.asarray(v).astype(jnp.bfloat16) for k, v in old.items()}
        to.write_bytes(safetensors({k: ("BF16", v) for k, v in rounded.items()}))
    else:
        save_file(renamed(old, 2 if kind == "safetensors" else 4), to)
    described, variables = autoencoder.read(folder)
    decode = jax.jit(lambda v, x: described.network.apply(v, x, method="decode"))
    image = decode(variables, jnp.asarray(golden("vae_a").nhwc("latent")))
    rtol = {"bfloat16": 0.05}.get(kind, 2e-5)
    close(image, golden("vae_a").nhwc("decoded_f64"), rtol)


def test_what_a_folder_lacks_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no weights: it needs diffusion_py"):
        autoencoder.read(folder)
    with pytest.raises(FileNotFoundError, match=r"there is no .*none/config\.json"):
        autoencoder.read(tmp_path / "none")
    for text in ("{", "[1]", "\xff", "[" * 100_000):
        (folder / "config.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(ValueError, match=r"config\.json: it ") as caught:
            autoencoder.read(folder)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------- tensors that are not right


def changed(name: str) -> dict[str, np.ndarray]:
    return dict(golden(name).tensors)


def test_tensors_missing_left_over_and_of_another_shape_are_told_in_one_line() -> None:
    tensors = changed("dit_a")
    del tensors["blocks.1.attn.proj.bias"]
    tensors["blocks.0.extra"] = np.zeros(2, np.float32)
    tensors["t_embedder.mlp.0.bias"] = np.zeros(7, np.float32)
    tensors["t_embedder.mlp.2.bias"] = np.zeros(48, np.int64)
    with pytest.raises(ValueError, match="not the tensors of the DiT") as caught:
        dit.imported(tensors, "dit", heads=4)
    assert str(caught.value).partition(": ")[2] == (
        "1 missing (blocks.1.attn.proj.bias); 1 left over (blocks.0.extra); 1 of another "
        "shape (t_embedder.mlp.0.bias is (7,), must be (48,)); 1 of no floating-point type "
        "(t_embedder.mlp.2.bias is int64)"
    )


def test_names_of_a_file_are_printable_in_messages() -> None:
    tensors = changed("dit_a") | {"\x1b[31m\n" + "x" * 200: np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match=r"1 left over \(\\x1b\[31m\\nx+\)") as caught:
        dit.imported(tensors, "dit", heads=4)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 200


def test_what_a_safetensors_header_says_more_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    more = entry("F32", [2], 0, 8) | {"note": "mine"}
    path.write_bytes(safetensors({"a": PAIR}, a=more))
    assert weights.read(path).tensors["a"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"x_embedder.proj.weight": None}, "not a DiT: its file has a tensor x_embedder"),
        ({"pos_embed": np.zeros((1, 15, 48))}, "15 positions are not a square of patches"),
        ({"pos_embed": np.zeros((16, 48))}, r"pos_embed has shape \(16, 48\), but needs 3"),
        ({"final_layer.linear.weight": np.zeros((12, 48))}, "3 output channels for images"),
        ({"final_layer.linear.bias": np.full(32, np.inf, np.float32)}, "has nan or inf"),
    ],
)
def test_other_tensors_are_no_dit(change: Any, complaint: str) -> None:
    tensors = {k: v for k, v in (changed("dit_a") | change).items() if v is not None}
    with pytest.raises(ValueError, match=complaint) as caught:
        dit.imported(tensors, "dit", heads=4)
    assert "\n" not in str(caught.value)


def test_a_number_of_heads_that_no_file_says_is_asked_for() -> None:
    with pytest.raises(ValueError, match="width 48 is not one of the published sizes"):
        dit.imported(changed("dit_a"), "dit")


@pytest.mark.parametrize(
    ("family", "name"), [("dit", "adm_plain"), ("dit", "vae_b"), ("adm", "dit_a")]
)
def test_a_file_of_another_family(family: str, name: str) -> None:
    read: Callable[[Tensors], Any] = {
        "dit": lambda t: dit.imported(t, "dit"),
        "adm": adm.recognised,
    }[family]
    with pytest.raises(ValueError, match=r"not a .*, which is missing"):
        read(changed(name))


def test_an_adm_with_a_block_less() -> None:
    tensors = {k: v for k, v in changed("adm_iddpm").items()
               if not k.startswith("output_blocks.5.")}  # fmt: skip
    with pytest.raises(ValueError, match="6 blocks on the way down and 5 up, 2 a level"):
        adm.imported(tensors, settings(golden("adm_iddpm").config))


def test_an_adm_of_images_too_small_to_halve() -> None:
    with pytest.raises(ValueError, match="images of 6 pixels do not halve 2 times"):
        adm.imported(changed("adm_iddpm"), adm.Settings(6, heads=4))


# ------------------------------------------------------------------ hostile files


def safetensors(tensors: dict[str, Any], **entries: Any) -> bytes:
    """A file of arrays (type's name, array), and more entries of its header."""
    header, data = {}, b""
    for name, (kind, value) in tensors.items():
        span = [len(data), len(data) + value.nbytes]
        header[name] = {"dtype": kind, "shape": value.shape, "data_offsets": span}
        data += value.tobytes()
    text = json.dumps(header | entries).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(kind: str, shape: list[int], *span: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": span}


class Runs:
    def __reduce__(self) -> Any:
        return os.system, ("touch pwned",)


class Namespace:
    """Pickles as argparse's, with attributes."""

    def __reduce__(self) -> Any:
        kind = writer.standing_in("argparse.Namespace")
        return kind, (), {"lr": 0.1, "__class__": "x"}


def calling(name: str) -> bytes:
    return torch_writer.archive({"args": writer.Calling(name), "ema": {}}, {})


PAIR = ("F32", np.zeros(2, np.float32))
HOSTILE: dict[str, tuple[bytes, str]] = {
    "a header of 2^60 bytes": (struct.pack("<Q", 2**60) + b"{}", "header too large"),
    "a header of 90 MB that is not there": (struct.pack("<Q", 9 * 10**7) + b"{", "header"),
    "overlapping offsets": (
        safetensors({"a": PAIR, "b": PAIR}, b=entry("F32", [2], 4, 12)),
        "invalid offset for tensor",
    ),
    "an unknown type": (safetensors({"a": ("F31", PAIR[1])}), "unknown variant"),
    "whole numbers": (safetensors({"a": ("I64", np.zeros(1, np.int64))}), "has type I64"),
    "a shape of 2^80": (safetensors({}, a=entry("F32", [2**40, 2**40], 0, 8)), "overflow"),
    "a length that begins as a pickle": (
        safetensors({"a": ("I64", np.zeros(1, np.int64))}, __metadata__={"x": "y" * 40}),
        "has type I64",
    ),
    "a negative shape": (safetensors({}, a=entry("F32", [-2], 0, 8)), "safetensors"),
    "an escape sequence for a name": (
        safetensors({"\x1b[31m\n": ("I64", np.zeros(1, np.int64))}),
        r"\x1b[31m\n has type I64",
    ),
    "an escape sequence for a name that overlaps": (
        safetensors(
            {"a": PAIR, "\x1b[31m": PAIR}, **{"\x1b[31m": entry("F32", [2], 4, 12)}
        ),
        r"invalid offset for tensor",
    ),
    "another shape": (safetensors({}, a=entry("F32", [3], 0, 8)), "safetensors"),
    "a cut": (safetensors({"a": PAIR})[:-1], "not fully covered"),
    "no header": (
        b"\x08\0\0\0\0\0\0\0{ello wo",
        "incomplete or damaged safetensors file",
    ),
    "text": (b"hello", "neither a torch file nor safetensors"),
    "nothing": (b"", "the file is empty"),
    "os.system": (torch_writer.archive({"ema": Runs()}, {}), "which is refused"),
    "os.system, as EDM2's pickles are": (pickle.dumps(Runs()), "which is refused"),
    "a length that begins as EDM2's pickles": (
        safetensors(
            {"a": ("I64", np.zeros(1, np.int64))}, __metadata__={"x": "y" * (640 - 88)}
        ),
        "has type I64",
    ),
    "a subclass of Namespace": (calling("mine.Namespace"), "'mine.Namespace', which is"),
    "a Namespace elsewhere": (calling("argparse._AttributeHolder"), "which is refused"),
    "builtins.eval": (calling("builtins.eval"), "which is refused"),
    "no tensors": (torch_writer.archive({"epoch": 3}, {}), "there are no tensors in it"),
    "keys that are not counts": (
        torch_writer.archive({"opt": {2**62: 1}}, {}),
        "must be strings, or counts",
    ),
}

NOTED: list[str] = []
EVENTS = ("import", "compile", "exec", "os.system", "subprocess.Popen", "os.exec",
          "pickle.find_class", "marshal.loads", "socket.connect")  # fmt: skip
HOOKED: list[bool] = []


@pytest.fixture
def noted() -> Iterator[list[str]]:
    """What the interpreter does during a test, by an audit hook that stays for good."""

    def note(event: str, args: Any) -> None:
        if not HOOKED or not HOOKED[-1]:
            return
        if event in EVENTS or (event == "open" and args[1] not in ("r", "rb", None)):
            NOTED.append(event)

    if not HOOKED:
        with pytest.raises(ValueError, match="safetensors"):  # imports what reading needs
            weights._safetensors(FILES / "vae_a_config.json", memoryview(b""))
        sys.addaudithook(note)
    NOTED.clear()
    HOOKED.append(True)
    yield NOTED
    HOOKED.append(False)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_one_line(
    name: str, tmp_path: Path, noted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, complaint = HOSTILE[name]
    path = tmp_path / "weights.pt"
    path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    before, error = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, None
    for _ in range(2):  # the tests' checks of types are compiled at the first call
        noted.clear()
        try:
            published.read(path)
        except ValueError as caught:
            error = caught
    done = list(noted)
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert complaint in str(error)
    assert str(error).startswith(f"{path}: ")
    assert len(str(error).splitlines()) == 1
    assert len(str(error)) < 400
    assert str(error).isprintable()
    assert done == []
    assert more < 64 * 1024  # KiB
    assert not (tmp_path / "pwned").exists()


def test_a_namespace_stays_data(tmp_path: Path, noted: list[str]) -> None:
    """Its attributes are read, and nothing of the class is made."""
    values = np.ones(2, np.float32)
    ema = {"module.w": torch_writer.tensor("0", values)}
    args = Namespace()
    data = torch_writer.archive({"ema": ema, "args": args, "opt": {0: 1}}, {"0": values})
    path = tmp_path / "a.pt"
    path.write_bytes(data)
    read = weights.read(path)
    assert read.args == {"lr": 0.1, "__class__": "x"}
    assert not isinstance(read.args, argparse.Namespace)
    assert read.tensors["w"].tolist() == [1.0, 1.0]
