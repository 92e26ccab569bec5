"""Runs as people start them: through the launch scripts, killed, resumed, mistreated."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.data import Digits
from jaxdiff.runs import restoring, run_folder
from tests.cases import commands as here
from tests.cases.commands import Done
from tests.system.commands import (
    UNET,
    Ended,
    command,
    kill_when,
    leaves,
    reached,
    refused_training,
    run,
    run_anew,
    saved_steps,
    train,
)

STEPS = 40
PLAIN = ("--config.sample_every=0", "--config.eval_every=0")
"""Neither pictures nor scores, where a test is not about them."""


def saving(workdir: Path, past: int) -> Callable[[], bool]:
    """Whether a checkpoint after step `past` is being written at this moment."""
    folder = workdir / "checkpoints"

    def check() -> bool:
        names = os.listdir(folder) if folder.exists() else []
        return any(
            n.endswith("-tmp") and int(n.split(".")[0]) > past for n in names if "tmp" in n
        )

    return check


@pytest.fixture(scope="module")
def finished(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    done = run_anew(train(workdir), environment)
    assert done.returncode == 0, done.stderr
    assert "jaxdiff sample --workdir" in done.stdout.splitlines()[-1]
    return workdir


def test_a_run_leaves_what_it_says(finished: Path, environment: dict[str, str]) -> None:
    rows = [json.loads(r) for r in (finished / "metrics.jsonl").read_text().splitlines()]
    *rows, scored = rows
    assert [row["step"] for row in rows] == list(range(2, STEPS + 1, 2))
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert (scored["step"], scored["fd_pixels8"] > 0) == (STEPS, True)
    assert saved_steps(finished) == [STEPS - 4, STEPS]
    files = "samples.png", "curves.png", "config.json", "report.html"
    for name in (*files, f"samples/{STEPS:07d}.png"):
        assert (finished / name).stat().st_size > 100
    assert list((finished / "tensorboard").glob("events*"))
    again = run(train(finished), environment)
    assert again.returncode == 0
    assert f"has all its {STEPS} steps" in again.stdout


def test_a_run_knows_the_data_s_statistics(finished: Path) -> None:
    pixels = Digits(split="train").load().source.image / 127.5 - 1
    measured = json.loads((finished / "statistics.json").read_text())
    assert measured["count"] == len(pixels)
    np.testing.assert_allclose(measured["mean"], [pixels.mean()], rtol=1e-6)
    np.testing.assert_allclose(measured["std"], [pixels.std()], rtol=1e-6)


def test_killed_anywhere_ends_the_same(environment: dict[str, str], tmp_path: Path) -> None:
    """A network with dropout, beside the same run that was left alone."""
    finished = tmp_path / "finished"
    done = run(train(finished, *PLAIN, config=UNET), environment)
    assert done.returncode == 0, done.stderr
    workdir = tmp_path / "run"
    moments = [
        (lambda: (workdir / "config.json").exists(), signal.SIGKILL),  # before any step
        (reached(workdir, 10), signal.SIGKILL),
        (saving(workdir, past=12), signal.SIGKILL),
        (reached(workdir, 30), signal.SIGTERM),
    ]
    for ready, sign in moments:
        before = saved_steps(workdir) if (workdir / "checkpoints").exists() else []
        line = train(workdir, *PLAIN, config=UNET)
        code, output = kill_when(line, environment, ready, sign)
        kept = saved_steps(workdir) if (workdir / "checkpoints").exists() else []
        assert not before or max(kept) >= max(before)
        assert code == (-signal.SIGKILL if sign == signal.SIGKILL else 75), output
    assert "To go on:" in output
    assert max(saved_steps(workdir)) >= 30  # SIGTERM saved the step it stopped at
    done = run(train(workdir, *PLAIN, config=UNET), environment)
    assert done.returncode == 0, done.stderr
    whole, pieces = leaves(finished), leaves(workdir)
    assert whole.keys() == pieces.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(value, pieces[name], err_msg=name)
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    steps = [row["step"] for row in rows]
    assert steps == sorted(set(steps)), "no step is reported twice"


def test_samples_depend_on_their_seed_alone(
    finished: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    def images(name: str, *arguments: object) -> dict[str, np.ndarray]:
        out = tmp_path / name
        line = command("sample", f"--workdir={finished}", f"--out={out}", *arguments)
        done = run(line, environment)
        assert done.returncode == 0, done.stderr
        assert out.with_suffix(".png").stat().st_size > 100
        return dict(np.load(out.with_suffix(".npz")))

    one = images("one", "--number=6", "--labels=3", "--cpu_devices=1")
    two = images("two", "--number=6", "--labels=3", "--cpu_devices=2", "--batch=4")
    late = images("late", "--number=2", "--labels=3", "--seed=3", "--cpu_devices=2")
    assert one["images"].shape == (6, 8, 8, 1)
    assert one["images"].dtype == np.uint8
    assert len({image.tobytes() for image in one["images"]}) == 6
    # Float rounding may move a value across the middle between two grey levels.
    assert np.abs(one["images"].astype(int) - two["images"]).max() <= 1
    assert np.abs(one["images"][3:5].astype(int) - late["images"]).max() <= 1
    assert late["seeds"].tolist() == [3, 4]


def damage(workdir: Path, step: int) -> None:
    for path in (workdir / f"checkpoints/{step}").rglob("d/*"):
        path.write_bytes(path.read_bytes()[:10])


def copy(workdir: Path, to: Path) -> Path:
    subprocess.run(["cp", "-r", workdir, to], check=True)
    return to


def test_a_damaged_checkpoint_is_passed_over(
    finished: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    workdir = copy(finished, tmp_path / "run")
    damage(workdir, STEPS)
    done = run(train(workdir, *PLAIN), environment)
    assert done.returncode == 0, done.stderr
    passed_over = f"warning: checkpoint {STEPS} of .* going back to checkpoint {STEPS - 4}"
    assert any(
        line.startswith(f"warning: checkpoint {STEPS}") and str(STEPS - 4) in line
        for line in done.stderr.splitlines()
    ), passed_over
    whole, mended = leaves(finished), leaves(workdir)
    for name, value in whole.items():
        np.testing.assert_array_equal(value, mended[name], err_msg=name)


def errors(done: subprocess.CompletedProcess | Ended | Done) -> str:
    """The error of a command that failed as it should: its one last line."""
    if not isinstance(done, Done):
        done = Done(done.returncode, done.stdout, done.stderr)
    assert done.status not in (0, None)
    assert "Traceback" not in done.err
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert done.err.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--stepz=3"], "unknown flag --stepz (did you mean --config.steps or"),
        (["extra"], "'extra' is not a flag"),
        (
            ["--config.batchsize=3"],
            "batchsize' (did you mean --config.batch_size?); it",
        ),
        (["--config.times.sdt=3"], "config.times has no field 'sdt' (did you mean"),
        (["--config.batch_size=many"], "--config.batch_size=many"),
        (["--config.times.std=-1.0"], "config.times.std must be a number above 0"),
        (["--config.network.dtype=foo"], "config.network.dtype must be one of"),
        (["--config.seed=-1"], "config.seed must be"),
        (["--config=configs/digits_ddpm.py:nope"], "'nope' is none of constant, p2"),
        (
            ["--config=configs/nope.py"],
            "there is no file configs/nope.py; there are the ready",
        ),
        (["--workdir=/dev/null/run"], "/dev/null"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str], complaint: str, tmp_path: Path
) -> None:
    done = refused_training(tmp_path / "run", *arguments, config=UNET)
    assert complaint in errors(done)
    assert not list(tmp_path.rglob("checkpoints/*"))


def test_mistakes_about_a_run_are_one_line(finished: Path, tmp_path: Path) -> None:
    done = refused_training(finished, "--config.loss_scale=2.0")
    assert "another experiment (loss_scale: 1.0 there, 2.0 here)" in errors(done)
    for arguments, complaint in [
        ([f"--workdir={tmp_path}/none"], "holds no run"),
        ([f"--workdir={finished}", "--labels=11"], "'11' is not a class of this run"),
        ([f"--workdir={finished}", "--std=0.3"], "tracks no EMA of std 0.3; it has 0.1"),
        ([f"--workdir={finished}", "--checkpoint=7"], f"it has {STEPS}, {STEPS - 4}"),
    ]:
        assert complaint in errors(here.run("sample", *arguments))
    lost = copy(finished, tmp_path / "lost")
    damage(lost, STEPS)
    damage(lost, STEPS - 4)
    message = errors(here.run("sample", f"--workdir={lost}"))
    assert f"{STEPS} is damaged (" in message
    assert f"{STEPS - 4} is damaged (" in message


def test_a_loss_that_is_not_finite_stops_the_run(
    environment: dict[str, str], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    # An absurd rate that rises step by step: the gradient's square overflows, but not yet.
    wild = (
        "--config.optimizer.learning_rate=1e13",
        "--config.optimizer.rampup_images=1600",
        "--config.checkpoint_every=1",
    )
    done = run(train(workdir, *PLAIN, *wild, config=UNET), environment)
    step = int(re.search(r"not finite at step (\d+);", errors(done))[1])
    assert 2 < step < STEPS
    assert saved_steps(workdir)[-1] == step - 1
    newest = leaves(workdir)
    assert newest[".first_bad"] == -1
    assert all(np.isfinite(value).all() for value in newest.values())


def test_a_flipped_bit_is_seen(
    finished: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    workdir = copy(finished, tmp_path / "run")
    files = (workdir / f"checkpoints/{STEPS}").rglob("d/*")
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    with pytest.warns(UserWarning, match=f"checkpoint {STEPS} of .* is damaged"):
        assert restoring.restore(workdir).step == STEPS - 4


def test_a_second_run_in_a_folder_is_refused(
    environment: dict[str, str], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    with run_folder.alone(workdir):
        done = run(train(workdir, *PLAIN), environment)
    assert f"another process is training in {workdir}" in errors(done)


def test_a_mistake_before_the_first_checkpoint_claims_nothing(
    environment: dict[str, str], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    assert "split" in errors(refused_training(workdir, "--config.data.split=nope"))
    few = (*PLAIN, "--config.steps=2")
    assert run(train(workdir, *few), environment).returncode == 0


def test_a_run_may_move_to_other_devices_and_knows_its_experiment(
    finished: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    workdir = copy(finished, tmp_path / "run")
    (workdir / "config.json").unlink()
    done = refused_training(workdir, "--config.seed=5")
    assert "another experiment (seed: 0 there, 5 here)" in errors(done)
    more = (*PLAIN, "--config.steps=42", "--cpu_devices=1")
    done = run(train(workdir, *more), environment)
    assert done.returncode == 0, done.stderr
    assert "has all its 42 steps" in done.stdout
    rows = (workdir / "metrics.jsonl").read_text().splitlines()
    assert json.loads(rows[-1])["step"] == 42


def test_the_second_start_compiles_nothing(
    finished: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    cache = Path(environment["JAXDIFF_CACHE"]) / "xla"
    before = {path.name for path in cache.iterdir() if "atime" not in path.name}
    assert before
    assert run(train(tmp_path / "run"), environment).returncode == 0
    assert {p.name for p in cache.iterdir() if "atime" not in p.name} == before


def test_a_full_disk_loses_nothing(environment: dict[str, str], tmp_path: Path) -> None:
    """The limit on the size of a file stands in for a disk that is full."""
    workdir = tmp_path / "run"
    line = train(workdir, *PLAIN, config=UNET)
    assert run([*line, "--config.steps=4"], environment).returncode == 0
    limited = ["bash", "-c", f"ulimit -f 20; exec {' '.join(line)}"]
    assert "cannot save a checkpoint" in errors(run_anew(limited, environment))
    assert saved_steps(workdir) == [4]
    assert run([*line, "--config.steps=8"], environment).returncode == 0
    assert saved_steps(workdir) == [4, 8]
