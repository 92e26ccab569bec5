"""How people start runs, and what these leave, for the tests of whole commands."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from jaxdiff.runs import checkpoint
from jaxdiff.runtime import sharding
from tests import linear as linear  # registers the network of TINY
from tests.cases import commands as here
from tests.cases.commands import Done
from tests.system.forked import ROOT, Command, Ended

TINY = "--config=tests/system/tiny.py:linear"
UNET = "--config=tests/system/tiny.py"
"""Where it matters that the network is one, with dropout; the other takes less time."""


def command(script: str, *arguments: object) -> list[str]:
    own = "--import=tests.linear"  # the network of TINY
    return [sys.executable, "-m", "jaxdiff", script, own, *map(str, arguments)]


def train(workdir: Path, *arguments: object, config: str = TINY) -> list[str]:
    return command("train", config, f"--workdir={workdir}", "--cpu_devices=2", *arguments)


def refused_training(workdir: Path, *arguments: object, config: str = TINY) -> Done:
    """A command that ends before it computes, in this process."""
    return here.run("train", config, f"--workdir={workdir}", *arguments)


def run(line: list[str], environment: dict[str, str]) -> Ended:
    """A whole command."""
    return start(line, environment).ended()


def start(line: list[str], environment: dict[str, str], together: bool = False) -> Command:
    """Starts a command; `together`, what it prints and its errors are one text."""
    return Command(line, environment, Path(environment["OUTPUTS"]), together)


@contextmanager
def side_by_side(
    count: int, environment: dict[str, str], line_of: Callable[[int], list[str]]
) -> Iterator[list[Command]]:
    """Processes that run as one, each its line: at a free port, of two devices in all."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    together = [f"--coordinator=localhost:{port}", f"--processes={count}"]
    together += [f"--cpu_devices={max(1, 2 // count)}"]
    running = [
        start([*line_of(i), *together, f"--process={i}"], environment, together=True)
        for i in range(count)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.ended()


def run_anew(
    line: list[str], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """A whole command, as a shell starts it: in a new Python, which imports everything."""
    return subprocess.run(
        line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300
    )


def kill_when(
    line: list[str], environment: dict[str, str], ready: Callable[[], bool], sign: int
) -> tuple[int, str]:
    """Starts a run and sends it a signal once `ready`; its exit code and output."""
    running = start(line, environment, together=True)
    deadline = time.monotonic() + 300
    while not ready() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.0005)
    assert running.poll() is None, running.ended().stdout
    running.send_signal(sign)
    done = running.ended(timeout=120)
    return done.returncode, done.stdout


def reached(workdir: Path, step: int) -> Callable[[], bool]:
    """Whether the metrics tell of the step."""
    path = workdir / "metrics.jsonl"

    def check() -> bool:
        lines = path.read_text().splitlines() if path.exists() else []
        return bool(lines) and f'"step": {step},' in lines[-1]

    return check


def saved_steps(workdir: Path) -> list[int]:
    return sorted(
        int(p.name) for p in (workdir / "checkpoints").iterdir() if p.name.isdigit()
    )


def is_key(leaf: jax.Array) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def leaves(workdir: Path) -> dict[str, np.ndarray]:
    """Everything in the newest state, by name."""
    mesh = sharding.data_mesh()
    with checkpoint.checkpoints(workdir) as saved:
        state, _ = saved.restore(mesh)
    flat = jax.tree_util.tree_leaves_with_path(state)
    raw = [(k, jax.random.key_data(v) if is_key(v) else v) for k, v in flat]
    return {jax.tree_util.keystr(k): np.asarray(v) for k, v in raw}
