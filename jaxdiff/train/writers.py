"""Where metrics and pictures go: a small protocol, and its four writers.

A writer takes scalars and images by step. A run resumed from a checkpoint writes no step
twice: files drop the steps after it, and Weights & Biases is not sent any again.
"""

import json
import re
import secrets
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from jaxdiff.runtime import jsontext, progress
from jaxdiff.runtime.files import (
    PathLike,
    Place,
    append,
    cache_folder,
    lines,
    place,
    write_atomically,
)
from jaxdiff.types.ranges import Whole


@runtime_checkable
class Writer(Protocol):
    """Takes metrics and pictures by step."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name."""
        ...

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        """One picture."""
        ...

    def close(self) -> None:
        """Ends the writing."""
        ...


class JSONL:
    """One JSON object a line, metrics.jsonl in the run's folder.

    Lines past the starting step, and a last line that a kill cut short, are dropped. In a
    cloud, lines arrive every half minute; see `files.append`.
    """

    def __init__(self, path: PathLike, start: int) -> None:
        before = lines(path)
        kept = [line for line in before if _is_up_to(line, start)]
        if kept != before:
            text = "".join(kept).encode()
            write_atomically(path, lambda file: file.write(text))
        self._file = append(path)

    def scalars(self, step: int, values: Mapping[str, float | Mapping[str, float]]) -> None:
        self._file.write(_line({"step": step, **values}))
        self._file.flush()

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        """Pictures are files of their own."""

    def close(self) -> None:
        self._file.close()


class Terminal:
    """A line for people, above the progress bar where there is one.

    Goodput is left out: it means little until a run has made many steps, and the last line
    of a long run has it.
    """

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        printed = {name: value for name, value in values.items() if name != "goodput"}
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in printed.items())
        progress.say(f"step {step:>7}  {numbers}")

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        """Does nothing: a terminal has no pictures."""

    def close(self) -> None:
        """Nothing to close."""


class TensorBoard:
    """TensorBoard's event files, without TensorFlow: `tensorboard --logdir=…`.

    Nothing is written by a thread, so a full disk or a lost cloud raises here. A new file
    begins at each start and after `EVENTS` bytes, as a file in a cloud is sent whole.
    """

    def __init__(self, folder: PathLike, start: int) -> None:
        from tensorboardX import summary
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder, self._event, self._summary = place(folder), Event, summary
        self._begin()
        session = SessionLog(status=SessionLog.START)  # drops events from this step on
        self._add(start + 1, session_log=session)
        self._file.flush()

    def _begin(self) -> None:
        self._file = append(self._folder / f"events.out.tfevents.{time.time_ns()}")
        self._left = EVENTS
        self._add(0, file_version="brain.Event:2")

    def _add(self, step: int, **what: Any) -> None:
        event = self._event(wall_time=time.time(), step=step, **what)
        record = _record(event.SerializeToString())
        self._file.write(record)
        self._left -= len(record)

    def _tell(self, step: int, summaries: Sequence[Any]) -> None:
        if self._left < 0:
            self._file.close()
            self._begin()
        for summary in summaries:
            self._add(step, summary=summary)
        self._file.flush()

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tell(step, [self._summary.scalar(*value) for value in values.items()])

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        self._tell(step, [self._summary.image(name, pixels, dataformats="HWC")])

    def close(self) -> None:
        self._file.close()


EVENTS = 2**24
"""Bytes of an event file after which the next begins."""


def _record(content: bytes) -> bytes:
    """The framing of event files: length, its checksum, content, its checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(content))
    checks = (struct.pack("<I", masked_crc32c(part)) for part in (length, content))
    return b"".join((length, next(checks), content, next(checks)))


class WandB:
    """Weights & Biases: one run a folder, with its id in wandb.json there.

    A resumed run continues in it. W&B cannot take back a step, and loses what was unsent
    at a kill: on opening, steps that metrics.jsonl has and W&B lacks are sent, and no step
    twice. With WANDB_MODE=offline it needs no account.

    Raises:
        ImportError: wandb is not installed.
        ValueError: W&B cannot be reached, or rejects the login.
    """

    def __init__(
        self, workdir: PathLike, start: int, project: str, config: Mapping[str, Any]
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ImportError(
                "Weights & Biases needs wandb, which is not installed: pip install wandb"
            ) from error
        workdir = place(workdir)
        self._path, self._picture = workdir / "wandb.json", wandb.Image
        self._id, closed = _known(self._path, workdir.name)
        folder = workdir if isinstance(workdir, Path) else cache_folder()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run = wandb.init(
                project=project,
                id=self._id,
                name=workdir.name,
                resume="allow",
                config=dict(config),
                allow_val_change=True,
                dir=str(folder),
            )
        except wandb.Error as error:
            raise ValueError(
                f"W&B does not open ({str(error).splitlines()[0]}): `wandb login`, set "
                "WANDB_MODE=offline, or leave out the project"
            ) from error
        has = self._run.starting_step - 1 if self._run.resumed else closed
        self._has = self._last = has
        for line in lines(workdir / "metrics.jsonl"):
            if _is_up_to(line, start):
                row = jsontext.loads(line, "a line of metrics.jsonl")
                self.scalars(row.pop("step"), row)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._tell(step, dict(values))

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        self._tell(step, {name: self._picture(pixels)})

    def _tell(self, step: int, values: dict[str, Any]) -> None:
        if step > self._has:
            self._run.log(values, step=step)
            self._last = step

    def close(self) -> None:
        self._run.finish(exit_code=int(sys.exception() is not None))
        _know(self._path, self._id, self._last)


def _known(path: Place, name: str) -> tuple[str, int]:
    """A run's id at W&B, made up and kept if it has none, and the last step when closed."""
    if path.exists():
        known = jsontext.loads(path.read_text(), str(path))
        return tuple(jsontext.fields(known, str(path), id=str, step=LastStep))
    made = f"{re.sub(r'[^A-Za-z0-9_-]', '-', name)[:48]}-{secrets.token_hex(4)}"
    _know(path, made, -1)
    return made, -1


def _know(path: Place, run_id: str, step: int) -> None:
    write_atomically(path, lambda file: file.write(_line({"id": run_id, "step": step})))


class All:
    """Several writers as one."""

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.scalars(step, values)

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        for writer in self._writers:
            writer.image(step, name, pixels)

    def close(self) -> None:
        with ExitStack() as each:  # even if another fails
            for writer in self._writers:
                each.callback(writer.close)


def open_all(
    workdir: PathLike,
    start: int,
    terminal: bool,
    wandb: str = "",
    config: Mapping[str, Any] | None = None,
) -> All:
    """The writers of a run's folder, of the terminal and of W&B if these are chosen.

    `config` is the configuration that W&B shows of the run.
    """
    workdir = place(workdir)
    opened: list[Writer] = [WandB(workdir, start, wandb, config or {})] if wandb else []
    opened += [Terminal()] if terminal else []
    opened += [JSONL(workdir / "metrics.jsonl", start)]
    return All([*opened, TensorBoard(workdir / "tensorboard", start)])


LastStep = Annotated[int, Whole(-1, 10**9)]


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values).encode() + b"\n"


def _is_up_to(line: str, step: int) -> bool:
    """Whether a line is whole and about a step up to this one."""
    try:
        return line.endswith("\n") and jsontext.loads(line, "line")["step"] <= step
    except (ValueError, TypeError, KeyError):
        return False
