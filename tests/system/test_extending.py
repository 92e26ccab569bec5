"""docs/extending.md by commands: a file of a user's own, outside of the repository."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest

import jaxdiff
from tests.extending import whole
from tests.system.commands import command, kill_when, reached, run, saved_steps


def test_what_is_one_s_own_trains_is_killed_resumes_samples_and_is_scored(
    environment: dict[str, str], tmp_path: Path
) -> None:
    mine, workdir = tmp_path / "mine.py", tmp_path / "run"
    mine.write_text(whole())
    few = ["--config.steps=40", "--config.log_every=2", "--config.checkpoint_every=4"]
    few += ["--config.sample_every=40", "--config.sampling.steps=2", "--cpu_devices=2"]
    train = command("train", f"--config={mine}", f"--workdir={workdir}", *few)
    code, output = kill_when(train, environment, reached(workdir, 10), signal.SIGKILL)
    assert code == -signal.SIGKILL, output
    assert 4 <= max(saved_steps(workdir)) < 40
    done = run(train, environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith(f"--import={mine}")
    assert max(saved_steps(workdir)) == 40

    line = r"config.data.type is 'data.Stripes', a name that is not registered: .*--import="
    with pytest.raises(ValueError, match=line):
        jaxdiff.restore(workdir)

    own = [f"--workdir={workdir}", f"--import={mine}", "--cpu_devices=2"]
    solver = "--solver=Renoise(scale=0.5)"
    drawn = run(command("sample", *own, solver, "--number=4"), environment)
    assert drawn.returncode == 0, drawn.stderr
    assert np.load(workdir / "generated.npz")["images"].shape == (4, 8, 8, 1)
    scoring = ["--extractors=edges", "--number=12", "--blocks=1"]
    scored = run(command("evaluate", *own, *scoring), environment)
    assert scored.returncode == 0, scored.stderr
    metrics = json.loads((workdir / "quality/quality.json").read_text())["metrics"]
    assert np.isfinite(
        [metrics[f"{name}_edges"]["mean"] for name in ("fd", "meangap")]
    ).all()
