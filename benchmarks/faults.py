"""Is anything lost when a run is killed, wherever it is?

    python benchmarks/faults.py --kills=100 --processes=1
    python benchmarks/faults.py --kills=100 --processes=2

Trains tests/system/tiny.py once, uninterrupted, and then again and again, killed with
SIGKILL (one process of several) at random moments: as it starts, between steps, while a
checkpoint is written, while images are drawn and scored; a quarter of the kills each. After
each kill the same command goes on. Checked every time: the other processes ended by
themselves, no checkpoint there before is gone but those that retention lets go, none is
damaged, and each run that came to its end has the uninterrupted one's state bit for bit.
Then SIGTERM is sent --stops times, and the time until the run has saved and ended printed.
Ctrl-C ends the kills, and tells of those until then.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from tqdm import tqdm

from jaxdiff.commands import command
from jaxdiff.runs import checkpoint
from jaxdiff.runtime import sharding

ROOT = Path(__file__).parents[1]
KILLS = flags.DEFINE_integer("kills", 100, "Kills, a quarter at each kind of moment.")
STOPS = flags.DEFINE_integer("stops", 10, "Times that SIGTERM is sent.")
SEED = flags.DEFINE_integer("seed", 0, "Of the random moments.")
EVERY = 10
"""Steps from one drawing and scoring of images to the next."""

flags.declare_key_flag("processes")


class Run:
    """A run of several processes, from outside."""

    def __init__(self, workdir: Path, environment: dict[str, str], processes: int) -> None:
        self.workdir, self._environment, self._count = workdir, environment, processes

    def start(self) -> list[subprocess.Popen]:
        """Starts the command, in every process."""
        line = [sys.executable, "launch/train.py", "--config=tests/system/tiny.py"]
        line += [f"--workdir={self.workdir}", f"--config.eval_every={EVERY}"]
        line += [f"--config.sample_every={EVERY}", "--config.checkpoint_every=8"]
        line += [f"--cpu_devices={2 // self._count}"]
        with socket.create_server(("localhost", 0)) as free:
            port = free.getsockname()[1]
        several = [f"--coordinator=localhost:{port}", f"--processes={self._count}"]
        started = []
        for i in range(self._count):
            place = [*several, f"--process={i}"] if self._count > 1 else ["--processes=1"]
            with (self.workdir.parent / f"{i}.log").open("w") as log:
                process = subprocess.Popen(
                    [*line, *place], cwd=ROOT, env=self._environment, stdout=log, stderr=log
                )
            started.append(process)
        return started

    def step(self) -> int:
        """The last step that the metrics tell of."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        whole = [line for line in lines if line.endswith("}")]
        return json.loads(whole[-1])["step"] if whole else 0

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        folder = self.workdir / "checkpoints"
        return folder.exists() and any("tmp" in name for name in os.listdir(folder))

    def saved(self) -> list[int]:
        """The steps that have a checkpoint."""
        folder = self.workdir / "checkpoints"
        names = os.listdir(folder) if folder.exists() else []
        return sorted(int(name) for name in names if name.isdigit())

    def phase(self, first: int) -> str:
        """What the run is doing, as seen from outside; `first` is its step at the start."""
        if self.saving():
            return "save"
        step = self.step()
        if step == first:
            return "start"
        return "images" if step % EVERY == 0 else "steps"


def until(ready: Callable[[], bool], processes: list[subprocess.Popen]) -> None:
    """Waits until something is so, or the run has ended."""
    while not ready() and all(p.poll() is None for p in processes):
        time.sleep(0.0005)


def ended(processes: list[subprocess.Popen]) -> tuple[list[int], float]:
    """The exit status of all processes, and the seconds that the last one took to end."""
    start = time.monotonic()
    status = [process.wait(timeout=300) for process in processes]
    return status, time.monotonic() - start


def state(workdir: Path) -> dict[str, np.ndarray]:
    """Everything in the newest state, by name; its checksum was looked at."""
    with checkpoint.checkpoints(workdir) as saved:
        newest, _ = saved.restore(sharding.data_mesh(jax.devices()[:2]), saved.steps()[:1])
    raw = lambda leaf: (
        jax.random.key_data(leaf)
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else leaf
    )
    flat = jax.tree_util.tree_leaves_with_path(newest)
    return {jax.tree_util.keystr(path): np.asarray(raw(leaf)) for path, leaf in flat}


def moment(run: Run, kind: str, took: float, chance: random.Random) -> Callable[[], bool]:
    """When to kill: true once a random moment of that kind has come."""
    start, step = time.monotonic(), run.step()
    late = chance.uniform(0, 1)
    after = step + chance.randrange(1, 12)
    since: list[float] = []

    def come() -> bool:
        now = time.monotonic()
        if kind == "start":
            return now - start > late * took
        there = {
            "steps": lambda: run.step() >= after,
            "save": lambda: run.step() > step and run.saving(),
            "images": lambda: run.step() > step and run.step() % EVERY == 0,
        }[kind]
        if not since and there():
            since.append(now)
        return bool(since) and now - since[0] > late * {"images": 0.5}.get(kind, 0.02)

    return come


def main() -> None:
    """Kills, starts again, compares."""
    processes, chance = max(command.PROCESSES.value, 1), random.Random(SEED.value)
    phases, finished, lost, waits = Counter(), 0, 0, []
    with tempfile.TemporaryDirectory() as folder:
        cache = {"JAXDIFF_CACHE": f"{folder}/cache", "PYTHONPATH": str(ROOT)}
        every = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        environment = {**os.environ, **cache, **every}
        environment.pop("XLA_FLAGS", None)
        place = lambda name: Run(Path(folder) / name, environment, processes)
        whole, run = place("whole"), place("run")
        for _ in range(2):  # the second time nothing is compiled
            shutil.rmtree(whole.workdir, ignore_errors=True)
            start = time.monotonic()
            started = whole.start()
            until(lambda: whole.step() > 0, started)
            took = time.monotonic() - start
            assert ended(started)[0] == [0] * processes, "the uninterrupted run failed"
        print(f"start to first step {took:.1f} s; 4 kinds of moments, {KILLS.value} kills")
        expected = state(whole.workdir)
        kinds = [("start", "steps", "save", "images")[i % 4] for i in range(KILLS.value)]
        started = []
        try:
            for kind in tqdm(kinds, unit="kill", mininterval=10):
                before, step = run.saved(), run.step()
                while True:
                    started = run.start()
                    until(moment(run, kind, took, chance), started)
                    if all(process.poll() is None for process in started):
                        break
                    status, _ = ended(started)  # it came to its end before it was killed
                    assert status == [0] * processes, f"{status}: it does not go on"
                    finished += same(run, expected)
                    shutil.rmtree(run.workdir)
                    before, step = [], 0
                phases[run.phase(step)] += 1
                chance.choice(started).kill()
                status, wait = ended(started)
                assert set(status) <= {-signal.SIGKILL, -signal.SIGABRT, 75}, status
                waits.append(wait)
                after = run.saved()
                lost += bool(before) and max(after, default=0) < max(before)
        except KeyboardInterrupt:  # what was seen until then is told all the same
            for process in started:
                process.kill()
                process.wait()
        started = run.start()
        assert ended(started)[0] == [0] * processes
        finished += same(run, expected)
        stops = [stopped(place(f"stop{i}"), chance) for i in range(STOPS.value)]
    seen = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
    print(f"{phases.total()} kills of runs in {processes} process(es), at: {seen}")
    print(f"every restart went on; checkpoints lost: {lost}; runs that came to their end,")
    print(f"each with the uninterrupted one's state bit for bit: {finished}")
    print(
        f"all processes had ended after {np.median(waits):.1f} s, at most {max(waits):.1f}"
    )
    if stops:
        print(f"SIGTERM to exit, saved: {np.median(stops):.2f} s, at most {max(stops):.2f}")


def same(run: Run, expected: dict[str, np.ndarray]) -> int:
    """1 if a run that came to its end has that state; an error if not."""
    actual = state(run.workdir)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)
    return 1


def stopped(run: Run, chance: random.Random) -> float:
    """Seconds from SIGTERM, at a random step, to the end of a run that saved that step."""
    started, step = run.start(), chance.randrange(2, 30)
    until(lambda: run.step() >= step, started)
    start = time.monotonic()
    chance.choice(started).terminate()
    status, _ = ended(started)
    took = time.monotonic() - start
    assert set(status) == {75}, status
    assert run.saved()[-1] >= step
    return took


if __name__ == "__main__":
    command.run(main)
