"""`jaxdiff prepare_data` as people run it: killed, run again, given nonsense."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.data import Digits, Records
from tests.cases import commands
from tests.cases.commands import Done

pytest.importorskip("array_record", reason='needs pip install "jaxdiff[records]"')
ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}


def command(*flags: str) -> list[str]:
    return [sys.executable, "-m", "jaxdiff", "prepare_data", *flags]


def run(*flags: str) -> Done:
    return commands.run("prepare_data", *flags)


def test_a_killed_command_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "records"
    flags = ("--config=configs/digits.py", f"--out={out}", "--shard_size=16")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command(*flags), cwd=ROOT, env=ENV, **quiet)
    until = time.monotonic() + 300
    while not list(out.glob("*.array_record")) and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = json.loads((out / "records.json").read_text())
    assert before["count"] < 1497
    done = run(*flags)
    assert done.status == 0, done.err
    kept = len(before["shards"])
    message = f"1,497 records of 10 classes in 94 shards ({kept} were there)"
    assert message in done.out
    assert f"--config.data.path={out} --config.data.size=8" in done.out
    assert "--config=folder:records" in done.out
    numbers = np.arange(1497)
    stored = Records(str(out), size=8, channels=1).load().take(numbers)
    expected = Digits().load().take(numbers)
    for name in ("image", "label"):
        np.testing.assert_array_equal(stored[name], expected[name])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out=x"], "name the data: either --images=FOLDER or --config=FILE"),
        (["--images=nowhere", "--out=x"], "there is no folder or ZIP file 'nowhere'"),
        (
            ["--config=configs/digits.py", "--encoding=file", "--out=x"],
            "these data are not image files: use --encoding=png or raw",
        ),
        (
            ["--config=digits", "--out=setup.py"],
            f"--out: cannot write to setup.py: {ROOT / 'setup.py'} is a file: choose "
            "another place",
        ),
    ],
    ids=str,
)
def test_mistakes_are_one_line(flags: list[str], message: str) -> None:
    done = run(*flags)
    assert done.status == 1
    assert done.err == f"error: {message}\n"
    assert not (ROOT / "x").exists()
