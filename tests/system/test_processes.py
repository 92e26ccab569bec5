"""Several processes as one run: equal to one process, killed, resumed by others."""

import json
import signal
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from tests.system.commands import (
    TINY,
    UNET,
    Command,
    leaves,
    reached,
    run,
    saved_steps,
    side_by_side,
    train,
)

STEPS = 16
FEW = (f"--config.steps={STEPS}", "--config.sample_every=16", "--config.eval_every=16")
PLAIN = ("--config.sample_every=0", "--config.eval_every=0")
"""Neither pictures nor scores, of which no parameter depends."""


def started(
    workdir: Path,
    count: int,
    environment: dict[str, str],
    *arguments: str,
    own: str = "",
    config: str = TINY,
) -> AbstractContextManager[list[Command]]:
    """The command in each of several processes; `own` is given to the last alone."""

    def line_of(i: int) -> list[str]:
        extra = [own] if own and i == count - 1 else []
        return train(workdir, *FEW, *arguments, *extra, config=config)

    return side_by_side(count, environment, line_of)


def ended(running: list[Command]) -> list[tuple[int, str]]:
    """Status and output of each."""
    ends = [process.ended() for process in running]
    return [(done.returncode, done.stdout) for done in ends]


def complete(
    workdir: Path,
    count: int,
    environment: dict[str, str],
    *arguments: str,
    config: str = TINY,
) -> list[str]:
    with started(workdir, count, environment, *arguments, config=config) as running:
        ends = ended(running)
    assert [status for status, _ in ends] == [0] * count, ends
    return [text for _, text in ends]


def alone(
    workdir: Path, environment: dict[str, str], *arguments: str, config: str = TINY
) -> Path:
    """The run in one process, of two devices."""
    done = run(train(workdir, *FEW, *arguments, config=config), environment)
    assert done.returncode == 0, done.stderr
    return workdir


def losses(workdir: Path) -> list[float]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    return [row["loss"] for row in rows if "loss" in row]


def difference(one: Path, other: Path) -> float:
    """The largest of any number in the states."""
    ours, theirs = leaves(one), leaves(other)
    assert ours.keys() == theirs.keys()
    gaps = [np.abs(a.astype(float) - theirs[name]) for name, a in ours.items()]
    return max(float(gap.max()) for gap in gaps if gap.size)


def test_two_processes_are_as_one(environment: dict[str, str], tmp_path: Path) -> None:
    """Of as many devices: bit for bit, and so they repeat themselves."""
    one = alone(tmp_path / "one", environment, config=UNET)
    first, other = complete(tmp_path / "two", 2, environment, config=UNET)
    assert difference(one, tmp_path / "two") == 0
    assert losses(one) == losses(tmp_path / "two")
    assert f"has all its {STEPS} steps" in first
    assert "step " not in other  # one of them tells for all
    for name in ("samples.png", "starts.jsonl", "curves.png", "statistics.json"):
        assert (tmp_path / "two" / name).stat().st_size > 100
    files = [folder / "metrics.jsonl" for folder in (one, tmp_path / "two")]
    ours, theirs = (json.loads(file.read_text().splitlines()[-1]) for file in files)
    # the same network's images, whose float64 moments other devices sum in another order
    assert ours["fd_pixels8"] == pytest.approx(theirs["fd_pixels8"], rel=1e-6)


def test_four_that_lost_one_go_on_as_two(
    environment: dict[str, str], tmp_path: Path
) -> None:
    whole = alone(tmp_path / "whole", environment, *PLAIN, config=UNET)
    workdir = tmp_path / "run"
    environment = environment | {"JAXDIFF_HEARTBEAT": "5"}
    with started(workdir, 4, environment, *PLAIN, config=UNET) as running:
        ready, deadline = reached(workdir, 6), time.monotonic() + 240
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        began = time.monotonic()
        running[2].kill()
        ends = ended(running)
        took = time.monotonic() - began
    assert ends[2][0] == -signal.SIGKILL
    for status, text in (ends[i] for i in (0, 1, 3)):
        assert status in (75, -signal.SIGABRT), text
        assert "Traceback" not in text
    assert took < 45  # a heartbeat of 5 s, on a machine that has other work
    assert max(saved_steps(workdir)) >= 4
    complete(workdir, 2, environment, *PLAIN, config=UNET)
    assert difference(whole, workdir) < 1e-4  # four devices sum in another order
    np.testing.assert_allclose(losses(workdir), losses(whole), rtol=1e-5)


def test_a_stop_of_one_is_a_stop_of_all(
    environment: dict[str, str], tmp_path: Path
) -> None:
    workdir = tmp_path / "run"
    with started(workdir, 2, environment, *PLAIN, "--config.steps=4000") as running:
        ready, deadline = reached(workdir, 4), time.monotonic() + 240
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.01)
        running[1].send_signal(signal.SIGTERM)
        ends = ended(running)
    assert [status for status, _ in ends] == [75, 75], ends
    assert "To go on:" in ends[0][1]
    assert max(saved_steps(workdir)) >= 4


def test_other_commands_on_other_hosts_are_refused(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with started(tmp_path / "run", 2, environment, own="--config.log_every=3") as running:
        (first, _), (second, text) = ended(running)
    assert second == 1
    assert "another experiment than process 0 (log_every: 2 there, 3 here)" in text
    assert first in (75, -signal.SIGABRT)
