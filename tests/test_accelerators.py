"""Compiler flags: what is set, whose value wins, and that XLA knows each of them."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jaxdiff.runtime.xla_flags import GPU, TPU, kind_of_machine, settings

PACKAGE = Path(__file__).parents[1]
NAMES = {"gpu": ("XLA_FLAGS", GPU), "tpu": ("LIBTPU_INIT_ARGS", TPU)}


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_flags_stand_before_the_users(kind: Any) -> None:
    name, ours = NAMES[kind]
    assert settings({}, kind) == {name: " ".join(ours)}
    theirs = {name: "--a=1  --b", "OTHER": "--c"}
    assert settings(theirs, kind) == {name: " ".join((*ours, "--a=1  --b"))}
    assert theirs == {name: "--a=1  --b", "OTHER": "--c"}


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_the_users_value_of_a_flag_wins(kind: Any) -> None:
    name, (first, *rest) = NAMES[kind]
    against = first.replace("=true", "=false")
    assert settings({name: against}, kind).get(name, against) == " ".join([*rest, against])


@pytest.mark.parametrize("kind", ["gpu", "tpu"])
def test_a_process_of_a_process_adds_nothing(kind: Any) -> None:
    assert settings(settings({"LIBTPU_INIT_ARGS": "--a=1"}, kind), kind) == {}


def test_nothing_is_set_where_nothing_is_wanted() -> None:
    assert settings({"XLA_FLAGS": "--a=1"}, "") == {}
    assert settings({"JAXDIFF_XLA_FLAGS": "off"}, "gpu") == {}
    assert settings({"JAXDIFF_XLA_FLAGS": "off"}, "tpu") == {}
    assert settings({"JAXDIFF_XLA_FLAGS": ""}, "gpu") == settings({}, "gpu")
    with pytest.raises(
        ValueError, match="JAXDIFF_XLA_FLAGS=no: write JAXDIFF_XLA_FLAGS=off"
    ):
        settings({"JAXDIFF_XLA_FLAGS": "no"}, "")


def test_a_file_of_flags_is_left_alone() -> None:
    """XLA_FLAGS may name a file; with a flag before it, XLA would not read it."""
    assert settings({"XLA_FLAGS": " flags.txt"}, "gpu") == {}


def test_this_xla_knows_each_flag_and_takes_it(tmp_path: Path) -> None:
    """After jax was imported; the dump has the flags that are not at their defaults."""
    code = (
        "import os, jax\n"
        "from jaxdiff.runtime.xla_flags import settings\n"
        "os.environ.update(settings(os.environ, 'gpu'))\n"
        "jax.jit(lambda x: x + 1)(1.0)\n"
    )
    environ = {"XLA_FLAGS": f"--xla_dump_to={tmp_path}", "JAX_PLATFORMS": "cpu"}
    environ |= {"PYTHONPATH": str(PACKAGE), "JAXDIFF_XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environ},
    )
    assert done.returncode == 0, done.stderr[-500:]  # an unknown flag aborts
    dumped = next(tmp_path.glob("*debug_options")).read_text().splitlines()
    for flag in GPU:
        assert flag.removeprefix("--").replace("=", ": ") in dumped


@pytest.mark.parametrize(
    ("files", "library", "kind"),
    [
        ((), True, ""),
        (("dev/nvidia0",), False, "gpu"),
        (("dev/nvidiactl",), True, "gpu"),
        (("proc/driver/nvidia/version",), False, "gpu"),
        (("dev/dxg",), False, "gpu"),
        (("dev/accel0",), True, "tpu"),
        (("dev/accel0",), False, ""),
        (("dev/vfio/0",), True, "tpu"),
        (("dev/vfio/0",), False, ""),
        (("dev/null", "dev/nvme0"), True, ""),
    ],
)
def test_kind_of_machine(
    files: tuple[str, ...],
    library: bool,
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = importlib.util.find_spec("os") if library else None
    monkeypatch.setattr(importlib.util, "find_spec", {"libtpu": spec}.get)
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert kind_of_machine(tmp_path) == kind
