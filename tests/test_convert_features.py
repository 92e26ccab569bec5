"""Weights of extractors: converted, saved, loaded, and refused."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.evaluation.extractors import dinov2, weights
from jaxdiff.evaluation.extractors.weights import Weights
from tests import import_writer as writer
from tests import torch_writer
from tests.cases import commands
from tests.cases.commands import run

ROOT = Path(__file__).parents[1]
SHAPES = {"w": (2, 3), "bn.weight": (3,), "bn.num_batches_tracked": ()}
TENSORS = {
    "w": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bn.weight": np.ones(3, np.float16),
    "bn.num_batches_tracked": np.array(7),
}
GOOD = Weights("tiny", TENSORS, "tiny.pth", "ab" * 32)


@pytest.fixture(scope="module")
def command() -> ModuleType:
    """The module of the command; its flags are gone."""
    with commands._fresh():
        from jaxdiff.commands import convert_features

        return convert_features


def test_weights_are_loaded_as_they_were_saved(tmp_path: Path) -> None:
    weights.save(tmp_path / "tiny.npz", GOOD)
    loaded = weights.load(tmp_path / "tiny.npz", "tiny", SHAPES)
    assert (loaded.network, loaded.source, loaded.sha256) == ("tiny", "tiny.pth", "ab" * 32)
    assert list(loaded.tensors) == list(SHAPES)
    for name, value in TENSORS.items():
        np.testing.assert_array_equal(loaded.tensors[name], value, strict=True)


def test_the_same_weights_are_the_same_file(tmp_path: Path) -> None:
    for name in "ab":
        weights.save(tmp_path / name, GOOD)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert weights.sha256(tmp_path / "a") == weights.sha256(tmp_path / "b")
    (tmp_path / "c").write_bytes(b"abc")  # FIPS 180's example
    assert weights.sha256(tmp_path / "c").startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float64])
def test_other_floats_become_float32(tmp_path: Path, dtype: Any) -> None:
    tensors = {**TENSORS, "w": TENSORS["w"].astype(dtype)}
    weights.save(tmp_path / "a", Weights("tiny", tensors, "", ""))
    loaded = weights.load(tmp_path / "a", "tiny", SHAPES).tensors["w"]
    np.testing.assert_array_equal(loaded, TENSORS["w"], strict=True)


def saved(header: Any = None, **tensors: Any) -> Callable[[Path], None]:
    """Writes the good weights with others in their place; None leaves one out."""
    origin = {"schema": 1, "network": "tiny", "source": "tiny.pth", "sha256": "ab" * 32}
    origin = (
        header if type(header) is bytes else json.dumps(origin | (header or {})).encode()
    )
    arrays = {**TENSORS, "json": np.frombuffer(origin, np.uint8), **tensors}
    kept = {name: value for name, value in arrays.items() if value is not None}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez(file, **kept)

    return write


def cut(path: Path) -> None:
    saved()(path)
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    saved(w=np.full((2, 3), 1.5, np.float32))(path)
    data = path.read_bytes()
    at = data.index(np.float32(1.5).tobytes() * 6)
    path.write_bytes(data[:at] + b"\1" + data[at + 1 :])


GIVE = "give one that jaxdiff convert_features wrote"
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another network": (saved({"network": "large"}), "the weights of 'large', not of tiny"),
    "another schema": (saved({"schema": 2}), f"its schema is 2, not 1: {GIVE}"),
    "no header": (saved(json=None), f"not a file of an extractor's weights: {GIVE}"),
    "a header of another kind": (saved({"sha256": 3}), "not a file of an extractor's"),
    "a header with more": (saved({"more": 3}), "not a file of an extractor's weights"),
    "a header that is not JSON": (saved(b"{"), "not a file of an extractor's weights"),
    "a header too deep": (saved(b"[" * 60_000), "not a file of an extractor's weights"),
    "a header too long": (saved(b" " * 70_000), "not a file of an extractor's weights"),
    "a header of 2-D": (saved(json=np.zeros((2, 2))), "not a file of an extractor's"),
    "missing": (saved(w=None), "not the tensors of tiny: 1 missing (w)"),
    "extra": (saved(v=np.ones(1)), "not the tensors of tiny: 1 left over (v)"),
    "mis-shaped": (saved(w=np.ones((3, 2))), "1 of another shape (w is (3, 2), must be"),
    "nan": (saved(w=np.full((2, 3), np.nan)), "w has nan or inf in it"),
    "infinity": (saved(w=np.full((2, 3), -np.inf)), "w has nan or inf in it"),
    "objects": (saved(w=np.array([{}])), "'w.npy' holds pickled objects"),
    "cut short": (cut, "truncated"),
    "a bit flipped": (flipped, "w.npy is damaged: its checksum does not match"),
    "a state dict": (
        lambda path: path.write_bytes(torch_writer.state_dict(SHAPES)), "but a zip with"
    ),
    "text": (lambda path: path.write_text("hello"), "not an NPZ"),
    "nothing": (lambda path: path.write_bytes(b""), "the file is empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_files_are_refused(name: str, tmp_path: Path) -> None:
    write, message = REFUSED[name]
    write(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz: ") as error:
        weights.load(tmp_path / "a.npz", "tiny", SHAPES)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_nothing_bad_is_saved(tmp_path: Path) -> None:
    bad = Weights("tiny", {"w": np.array([1, np.nan])}, "", "")
    with pytest.raises(ValueError, match="w has nan or inf in it"):
        weights.save(tmp_path / "a.npz", bad)
    assert not list(tmp_path.iterdir())


def test_a_state_dict_is_found_inside_of_a_checkpoint(
    command: ModuleType, tmp_path: Path
) -> None:
    plain, inner = tmp_path / "plain.pth", tmp_path / "inner.pth"
    plain.write_bytes(torch_writer.state_dict(SHAPES))
    inner.write_bytes(torch_writer.state_dict(SHAPES, epoch=3))
    for path in (plain, inner):
        converted = command.convert(path, "tiny", SHAPES)
        assert {n: a.shape for n, a in converted.tensors.items()} == SHAPES
        assert (converted.source, converted.sha256) == (path.name, weights.sha256(path))


def test_which_tensors_are_a_network_s(command: ModuleType) -> None:
    chosen = lambda tensors: command.own(tensors, "tiny", SHAPES)
    old = {n: a for n, a in TENSORS.items() if n != "bn.num_batches_tracked"}
    assert chosen(old)["bn.num_batches_tracked"] == 0  # as torch before 0.4.1 wrote it
    assert chosen(TENSORS)["bn.num_batches_tracked"] == 7
    beside = {f"net.{n}": a for n, a in TENSORS.items()} | {"optimizer.v": np.ones(1)}
    assert list(chosen(beside)) == list(SHAPES)
    two = {f"{net}.{n}": a for net in ("net", "ema") for n, a in TENSORS.items()}
    with pytest.raises(ValueError, match=r"it has several networks: net\., ema\."):
        chosen(two)
    with pytest.raises(ValueError, match=r"1 left over \(v\)"):
        chosen({**TENSORS, "v": np.ones(1)})
    with pytest.raises(ValueError, match=r"2 missing \(bn.weight, w\)"):
        chosen({})


def test_a_damaged_download_is_refused(command: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "net-01234567.pth"
    path.write_bytes(torch_writer.state_dict(SHAPES))
    digest = weights.sha256(path)
    with pytest.raises(ValueError, match=f"begins 01234567, it begins {digest[:8]}"):
        command.convert(path, "tiny", SHAPES)
    renamed = path.rename(tmp_path / f"net-{digest[:8]}.pth")
    assert command.convert(renamed, "tiny", SHAPES).sha256 == digest


def test_the_command_converts(tmp_path: Path) -> None:
    name, source = "dinov2_vits14", tmp_path / "vits14.pth"
    shapes = dinov2.shapes(dinov2.NETWORKS[name])
    source.write_bytes(torch_writer.state_dict(shapes))
    done = run(
        "convert_features",
        f"--source={source}",
        f"--network={name}",
        f"--out={tmp_path / 'weights'}",
    )
    assert done.status == 0, done.err
    path = tmp_path / "weights" / f"{name}.npz"
    lines = done.out.splitlines()
    assert lines[0] == "dinov2_vits14: 175 tensors, 22,056,576 numbers"
    assert lines[1:3] == [f"sha256 {weights.sha256(p)}  {p}" for p in (source, path)]
    assert lines[3] == f"export JAXDIFF_WEIGHTS={path.parent}"
    loaded = weights.load(path, name, shapes)
    assert loaded.sha256 == weights.sha256(source)
    assert all(a.dtype == np.float16 for a in loaded.tensors.values())
    assert dinov2.tree(loaded.tensors)["params"]["patch"]["kernel"].shape == (
        14,
        14,
        3,
        384,
    )


def test_the_command_refuses_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "a.npz"
    bad = tmp_path / "bad.pth"
    bad.write_bytes(writer.dumps(writer.Calling("os.system", "touch pwned"), 2))
    for arguments, message in (
        ((), "name the published file and the network, such as --network=inception"),
        ((f"--source={bad}", "--network=inception"), "'os.system', which is refused"),
    ):
        done = run("convert_features", f"--out={out}", *arguments)
        assert done.status in (1, 2)
        assert message in done.err, done.err
        assert len(done.err.splitlines()) == 1
    assert not out.exists()
