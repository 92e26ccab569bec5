"""Commands as processes that are forked from one that has imported what they import.

Importing JAX and jaxdiff takes a new process 2 s of a processor, more than most of these
commands need afterwards. Nothing here imports anything: this is read by that process too.
"""

import atexit
import contextlib
import multiprocessing
import os
import runpy
import sys
import threading
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
IMPORTED = (
    *("tests.system.forked", "jaxdiff.commands.command", "jaxdiff.train.loop", "grain"),
    *("jaxdiff.runs.restoring", "orbax.checkpoint", "jax.experimental.multihost_utils"),
    *("tensorboardX", "matplotlib.pyplot", "sklearn.datasets"),
    "ml_collections.config_flags",
)
"""Importing these starts no thread: a process that has threads cannot be forked."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(IMPORTED))


class Ended(NamedTuple):
    """What a process left, as `subprocess.CompletedProcess` says it."""

    returncode: int
    stdout: str
    stderr: str


class Command:
    """A running command: `line` is python -m jaxdiff COMMAND ..."""

    def __init__(
        self, line: list[str], environment: dict[str, str], folder: Path, together: bool
    ) -> None:
        number = sum(1 for _ in folder.iterdir())
        self.files = [folder / f"{number}.out", folder / f"{number}.err"]
        if together:
            self.files[1] = self.files[0]
        for file in self.files:
            file.touch(0o600)  # before the next command counts
        with _exactly(environment):  # JAX reads it at import, XLA when it first can
            forkserver.ensure_running()
        arguments = line[3:], environment, *map(str, self.files)
        self.process = CONTEXT.Process(target=_run, args=arguments)
        self.process.start()

    def poll(self) -> int | None:
        """The exit status, once there is one."""
        return self.process.exitcode

    def send_signal(self, sign: int) -> None:
        os.kill(self.process.pid, sign)

    def kill(self) -> None:
        self.process.kill()

    def ended(self, timeout: float = 300) -> Ended:
        """Waits for the end.

        Raises:
            TimeoutError: it takes longer.
        """
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"not ended after {timeout} s: {self.files[0].read_text()}")
        out, err = (file.read_text() for file in self.files)
        return Ended(self.process.exitcode, out, err)


@contextlib.contextmanager
def _exactly(environment: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(arguments: list[str], environment: dict[str, str], out: str, err: str) -> None:
    """The command in the new process, from the files that it writes to to its last word."""
    for path, descriptor in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, descriptor)
        os.close(file)
    os.chdir(ROOT)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["jaxdiff", *arguments]
    try:
        runpy.run_module("jaxdiff", run_name="__main__", alter_sys=True)
    finally:  # as Python ends; multiprocessing leaves out what is registered at exit
        threading._shutdown()
        atexit._run_exitfuncs()
