"""Long commands say how far they are where there is no terminal."""

from pathlib import Path

import numpy as np
import pytest

from jaxdiff.runtime import progress
from tests.cases.commands import run
from tests.cases.test_outputs import COMMANDS, script
from tests.test_nag_commands import ESTIMATES, LINEAR, untrained

SAID = {
    "sample": ("drawing: ",),
    "compare": ("Euler, 2 steps: compiling", "comparing: "),
    "edit": ("drawing: ",),
    "evaluate": ("drawing: ", "looking: ", "measuring: "),
    "sweep": ("sweeping: ",),
    "likelihood": ("measuring: ",),
    "noise_shift": ("watching: ",),
}


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines at once, so that the shortest command has time for one."""
    for name in ("FIRST", "EVERY", "RARELY"):
        monkeypatch.setattr(progress, name, 0.0)
    monkeypatch.setattr(progress, "TICK", 0.001)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and an estimator beside it."""
    folder = tmp_path_factory.mktemp("runs")
    untrained(folder / "level", ESTIMATES)
    return untrained(folder / "run", LINEAR)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", SAID)
def test_commands_say_how_far_they_are(name: str, workdir: Path, tmp_path: Path) -> None:
    assert set(SAID) == set(COMMANDS)
    done = run(*script(name, workdir), f"--out={tmp_path / 'x'}")
    assert done.status == 0, done.err
    for words in SAID[name]:
        assert words in done.err


@pytest.mark.usefixtures("impatient")
def test_a_reference_does_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((500, 8, 8, 3), np.uint8))
    flags = "--batch=2", "--extractors=pixels8", f"--out={tmp_path / 'r'}"
    done = run("reference", f"--images={tmp_path / 'x.npz'}", *flags)
    assert "looking: " in done.err
    assert "of 500" in done.err
