"""A run's folder: locked by one run at a time, with human-readable records."""

import fcntl
import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from jaxdiff.config import Experiment, to_dict
from jaxdiff.runtime import processes
from jaxdiff.runtime.files import PathLike, Place, place, write_atomically


@contextmanager
def alone(workdir: PathLike) -> Iterator[None]:
    """Locks a run's folder for the processes of this run, until they end in any way.

    Raises:
        ValueError: another run trains in it, or not all processes see the same folder.
    """
    workdir = place(workdir)
    with _held(workdir) if processes.first() else nullcontext():
        require_shared(workdir)
        yield


def require_shared(workdir: PathLike) -> None:
    """Rejects a folder that is not shared by all hosts, if there are several processes.

    Raises:
        ValueError: not all processes see a file that process 0 wrote there.
    """
    workdir = place(workdir)
    if not processes.several():
        return
    mark = workdir / f".shared-{os.getpid()}"
    if processes.first():
        write_atomically(mark, lambda file: file.write(b""))
    seen = processes.all_agree((workdir / processes.from_first(mark.name)).exists())
    if processes.first():
        mark.unlink()
    if not seen:
        raise ValueError(
            f"not all processes see the same folder {workdir}: it must lie on a file "
            "system that all hosts share"
        )


@contextmanager
def _held(workdir: Place) -> Iterator[None]:
    if not isinstance(workdir, Path):  # buckets have no locks
        write_atomically(workdir / ".lock", lambda file: file.write(b""))
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        lock = (workdir / ".lock").open("a")
    except OSError as error:
        raise ValueError(
            f"cannot write to {workdir} ({error.strerror}): choose another --workdir"
        ) from error
    with lock as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is training in {workdir}: wait for it, stop it, or "
                "choose another --workdir"
            ) from error
        except OSError as error:
            warnings.warn(
                f"{workdir} lies on a file system that knows no locks ({error.strerror}): "
                "see to it that no other run trains there",
                stacklevel=2,
            )
        yield


def describe(
    workdir: PathLike, experiment: Experiment, classes: Sequence[str] = ()
) -> None:
    """Writes config.json, and classes.json: the names of the classes by their labels.

    They are for people to read: the run itself uses the record in its checkpoints.
    """
    if classes:
        names = json.dumps(list(classes), indent=1, ensure_ascii=False) + "\n"
        content = names.encode(errors="backslashreplace")  # as JSON escapes surrogates
        path = place(workdir) / "classes.json"
        write_atomically(path, lambda file: file.write(content))
    text = json.dumps(to_dict(experiment), indent=2) + "\n"
    write_atomically(place(workdir) / "config.json", lambda file: file.write(text.encode()))
