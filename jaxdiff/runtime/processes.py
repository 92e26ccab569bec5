"""Several processes as one run: how they find each other, agree, and end.

Every host runs the same command; `jax.distributed` makes all of their devices one system,
and each computation runs on all of them. What one process learns by itself (a file that it
read, a signal that it got) has to be shared with the others before they act on it, by
`from_first`, `from_each` and `all_agree`. In a single process these do nothing.
"""

import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from jaxdiff.runtime import xla_flags

AGAIN = 75
"""Exit status that asks to start the same command again (EX_TEMPFAIL of sysexits.h)."""


@dataclass(frozen=True)
class Place:
    """One process of several: process 0's address, the number of processes, and its own.

    Without a coordinator, jax detects them.
    """

    coordinator: str = ""
    processes: int = 0
    process: int = -1


def place(
    coordinator: str = "",
    processes: int = 0,
    process: int = -1,
    environ: Mapping[str, str] = os.environ,
) -> Place | None:
    """This process' place among several; None if it is alone.

    `coordinator` is "host:port" of process 0, `processes` their number, `process` this
    one's, from 0. Missing values come from $JAX_COORDINATOR_ADDRESS,
    $JAX_NUM_PROCESSES and $JAX_PROCESS_ID, or $JOB_COMPLETION_INDEX of Kubernetes. TPU
    pods, Slurm and Open MPI need none of them. With one process the
    environment is not read.

    >>> place("10.0.0.1:1234", 2, environ={"JAX_PROCESS_ID": "1"})
    Place(coordinator='10.0.0.1:1234', processes=2, process=1)

    Raises:
        ValueError: some are missing, or they contradict each other.
    """
    coordinator = coordinator or environ.get("JAX_COORDINATOR_ADDRESS", "")
    processes = processes or _number(environ, "JAX_NUM_PROCESSES", 0)
    if process == -1:
        index = _number(environ, "JOB_COMPLETION_INDEX", -1)
        process = _number(environ, "JAX_PROCESS_ID", index)
    if processes == 1:
        return None
    if coordinator or processes:
        _require_whole(coordinator, processes, process)
        return Place(coordinator, processes, process)
    return Place() if in_cluster(environ) else None


def join(at: Place) -> bool:
    """Connects this process to the others; returns whether there are any.

    Call it before anything uses jax's devices.

    Raises:
        ValueError: jax cannot find the other processes, or $JAXDIFF_HEARTBEAT is wrong.
        RuntimeError: the others did not connect.
    """
    where = f" at {at.coordinator}" if at.coordinator else ""
    name = f"process {at.process} of {at.processes}: " if at.coordinator else ""
    print(f"{name}waiting for the others{where}", file=sys.stderr, flush=True)
    seconds = heartbeat()
    address = (at.coordinator, at.processes, at.process) if at.coordinator else ()
    how = {"cluster_detection_method": "deactivate"} if address else {}
    if address:
        _reach(at)
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to save yet
    try:
        jax.distributed.initialize(*address, heartbeat_timeout_seconds=seconds, **how)
    except ValueError as error:
        if on_tpu() and not address:
            return False  # a single TPU machine names no coordinator, and needs none
        raise ValueError(
            f"this is one of several processes, but jax cannot find the others ({error}): "
            "give --coordinator, --processes and --process; --processes=1 trains alone"
        ) from error
    finally:
        signal.signal(signal.SIGINT, handler)
    return several()


def heartbeat(environ: Mapping[str, str] = os.environ) -> int:
    """Seconds without a heartbeat after which a process is lost, and the others end.

    $JAXDIFF_HEARTBEAT, or 20.

    >>> heartbeat({"JAXDIFF_HEARTBEAT": "60"})
    60

    Raises:
        ValueError: it is not a whole number from 1 on.
    """
    return _number(environ, "JAXDIFF_HEARTBEAT", 20, least=1)


def _reach(at: Place) -> None:
    """Waits until process 0 listens; in process 0, checks that its port is free.

    Raises:
        ValueError: the port is taken, or no process 0 listens after `PATIENCE` seconds.
    """
    host, _, port = at.coordinator.rpartition(":")
    if at.process == 0:
        try:
            socket.create_server(("", int(port))).close()
        except OSError as error:
            raise ValueError(
                f"process 0 cannot listen at port {port} ({error.strerror}): give all "
                "processes another --coordinator=HOST:PORT, or end what listens there"
            ) from error
        return
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise ValueError(
                    f"nobody listens at {at.coordinator} after {PATIENCE} s "
                    f"({error.strerror or error}): is process 0 started, and does the "
                    "network let processes reach it?"
                ) from error
        time.sleep(0.2)


PATIENCE = 300
"""Seconds that processes wait for each other at start."""


def is_lost_process(error: BaseException) -> bool:
    """Whether a jax error means that another process or the network connection is lost."""
    return re.search(LOST, str(error)) is not None


LOST = r"Gloo|NCCL|heartbeat|[Bb]arrier|coordination|^(UNAVAILABLE|DEADLINE_EXCEEDED): "
"""Texts in such errors, from collectives and from the coordination service."""


def _require_whole(coordinator: str, processes: int, process: int) -> None:
    """Checks for a complete description.

    Raises:
        ValueError: a part is missing or out of range.
    """
    host, _, port = coordinator.rpartition(":")
    if not (coordinator and processes) or process == -1:
        raise ValueError(
            "several processes need --coordinator, --processes and --process, or "
            "$JAX_COORDINATOR_ADDRESS, $JAX_NUM_PROCESSES and $JAX_PROCESS_ID; got "
            f"{coordinator or 'no coordinator'}, {processes or 'no'} processes, process "
            f"{'none' if process == -1 else process}"
        )
    if not (host and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(
            f"--coordinator is {coordinator!r}: give process 0's host and a free port of "
            "it, as 10.0.0.1:1234"
        )
    if not 0 <= process < processes:
        raise ValueError(
            f"--process is {process} of {processes} processes: number them from 0 to "
            f"{processes - 1}"
        )


def _number(environ: Mapping[str, str], name: str, default: int, least: int = 0) -> int:
    """The whole number in an environment variable.

    Raises:
        ValueError: it is not a whole number, or below `least`.
    """
    text = environ.get(name, "")
    if text and not (text.isdecimal() and int(text) >= least):
        raise ValueError(f"${name} must be a whole number from {least} on, got {text!r}")
    return int(text or default)


def in_cluster(environ: Mapping[str, str]) -> bool:
    """Whether jax can find the other processes by itself.

    True on TPU machines, and in one of several tasks of a Slurm step or Open MPI. False in
    a shell inside a Slurm allocation, which is not a task of a step.

    >>> in_cluster({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"})
    False
    >>> in_cluster({"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "2"})
    True
    """
    tasks = [environ.get(k, "1") for k in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")]
    if any(n != "1" for n in tasks):
        return True
    return on_tpu()


def on_tpu() -> bool:
    """Whether this is a machine with TPUs."""
    return xla_flags.kind_of_machine() == "tpu"


def several() -> bool:
    """Whether there are other processes. Initialises jax's devices."""
    return jax.process_count() > 1


def first() -> bool:
    """Whether this is process 0, which writes the files that only one process writes."""
    return jax.process_index() == 0


def from_first(value: Any) -> Any:
    """Process 0's value, on every process; any value that JSON can hold."""
    if not several():
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    buffer = np.zeros(size, np.uint8)
    if first():
        buffer[:] = text
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(buffer)))


def from_each(value: Any) -> list[Any]:
    """The values of all processes, in order, on every one; values that JSON can hold."""
    if not several():
        return [value]
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(text.size))
    buffer = np.zeros(sizes.max(), np.uint8)
    buffer[: text.size] = text
    texts = multihost_utils.process_allgather(buffer)
    return [json.loads(bytes(t[:n])) for t, n in zip(texts, sizes, strict=True)]


def wait_for_all() -> None:
    """Returns once all processes have called it: files that process 0 wrote are there."""
    if several():
        all_agree(True)


def all_agree(yes: bool) -> bool:
    """Whether `yes` is true in every process."""
    return bool(np.all(multihost_utils.process_allgather(np.array(yes))))


def total(count: int) -> int:
    """The sum of the counts of all processes."""
    return int(np.sum(multihost_utils.process_allgather(np.array(count))))


def on_host(tree: PyTree) -> PyTree[np.ndarray]:
    """Fetches whole arrays to every process as NumPy arrays, one at a time."""

    def fetched(a: jax.Array) -> np.ndarray:
        if isinstance(a, jax.Array) and not a.is_fully_addressable:
            return np.asarray(multihost_utils.process_allgather(a, tiled=True))
        return jax.device_get(a)

    return jax.tree.map(fetched, tree)


def leave(status: int) -> NoReturn:
    """Exits at once, without waiting for the other processes at a barrier."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
