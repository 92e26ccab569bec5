"""Where metrics and pictures go: a tiny protocol, and its three writers.

A writer takes scalars and images by step. All are told the step that a run starts from,
so that a run resumed from a checkpoint writes no step twice.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from jaxdiff.files import write_atomically


@runtime_checkable
class Writer(Protocol):
    """Takes what a run has to report."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers by name."""
        ...

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        """One picture."""
        ...

    def close(self) -> None:
        """Nothing comes after."""
        ...


class JSONL:
    """One JSON object a line, metrics.jsonl in the run's folder.

    Lines past the starting step, and a last line that a kill cut short, are dropped.
    """

    def __init__(self, path: Path, start: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = (
            path.read_text(errors="replace").splitlines(keepends=True)
            if path.exists()
            else []
        )
        kept = [line for line in lines if _tells(line, start)]
        if kept != lines:
            text = "".join(kept).encode()
            write_atomically(path, lambda file: file.write(text))
        self._file = path.open("a")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        """Pictures are files of their own."""

    def close(self) -> None:
        self._file.close()


class Terminal:
    """A line for people, above the progress bar where there is one."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from tqdm import tqdm

        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        tqdm.write(f"step {step:>7}  {numbers}", file=sys.stderr)

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        """A terminal shows no pictures."""

    def close(self) -> None:
        """Nothing to close."""


class TensorBoard:
    """TensorBoard's event files, without TensorFlow: `tensorboard --logdir=…`."""

    def __init__(self, folder: Path, start: int) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=start + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        self._writer.close()


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
        for writer in self._writers:
            writer.close()


def open_all(workdir: Path, start: int, terminal: bool) -> All:
    """The writers of a run's folder, and the terminal if asked."""
    files = [
        JSONL(workdir / "metrics.jsonl", start),
        TensorBoard(workdir / "tensorboard", start),
    ]
    return All([*([Terminal()] if terminal else []), *files])


def _tells(line: str, step: int) -> bool:
    """Whether a line is whole and about a step up to this one."""
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, TypeError, KeyError):
        return False
