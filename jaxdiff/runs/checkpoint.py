"""Checkpoints of a run: Orbax behind one small module.

A run's folder holds

    config.json           the experiment, for people
    classes.json          the names of the classes by their labels, for people
    checkpoints/<step>/   the whole TrainState, and a record of what it is of
    statistics.json       mean and std of the data, where they were measured
    metrics.jsonl, tensorboard/, samples/, samples.png, curves.png,
    loss_by_logsnr.jsonl  the loss by noise level
    report.html           all of it as one page

A checkpoint gets its name once it is whole: a kill during a save leaves the one before.
Several processes write one together, each the arrays that its devices hold, and it is read
on any number of processes and devices. All skip what one process finds damaged.
"""

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxdiff.config import Experiment
from jaxdiff.runs import orbax_files
from jaxdiff.runs.record import DamagedError, OtherVersionError, Record, opened, sealed
from jaxdiff.runs.state import TrainState, state_shapes
from jaxdiff.runs.state_parts import (
    checksum,
    compare,
    parts,
    present,
    shapes,
    size_in_bytes,
)
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.files import PathLike, Place, place, printable


class Checkpoints:
    """The checkpoints of one run; made by `checkpoints`."""

    def __init__(self, folder: Place, writer: Callable[[], Any], name: str) -> None:
        """Takes the folder of the steps, what writes there, and its name in messages."""
        self._folder, self._open, self._name = folder, writer, name
        self._writer: Any = None
        self._damaged: set[int] = set()
        self._verified = False

    def steps(self) -> list[int]:
        """The steps that have one, newest first, as process 0 finds them."""
        return processes.from_first(orbax_files.listed(self._folder)[::-1])

    def save(
        self,
        step: int,
        state: TrainState,
        experiment: Experiment,
        images: int | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to save, and returns once the state may be donated.

        `images` are those seen so far, by default steps times the batch size, and `data`
        is the data set's `data.identity`.
        A checkpoint that this step already has is kept, unless it could not be read. The
        first one is waited for and read back, so that training does not go on for nothing.

        Raises:
            OSError: it cannot be written, or what was written cannot be read.
        """
        if step in self.steps() and step not in self._damaged:
            return
        sums = tuple(checksum(state).tolist())
        saved = sealed(Record(step, experiment, sums, data, images))
        with self._one_line_errors():
            self.open()
            self._writer.save_async(
                step,
                state,
                force=True,
                overwrite=step in self._damaged,
                custom_metadata=saved,
            )
        if not self._verified:
            self.wait()
            self._read_back(step, _places(state), saved, sums)
            self._verified = True

    def open(self) -> None:
        """Opens the folder to write there, and clears away what a kill left unfinished."""
        if self._writer is None:
            self._writer = self._open()

    def wait(self) -> None:
        """Returns once all that was saved is on disk.

        Raises:
            OSError: it could not be written; the checkpoints before it are whole.
        """
        with self._one_line_errors():
            if self._writer is not None:
                self._writer.wait()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        with self._one_line_errors():
            if self._writer is not None:
                self._writer.close()

    @contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Orbax's errors, which hold a page of its internals, as one line."""
        try:
            yield
        except Exception as error:
            if processes.several() and processes.is_lost_process(error):
                raise
            text = str(error)
            full = "No space left on device"
            cause = full if full in text else text.split("\n")[0][:200]
            raise OSError(
                f"cannot save a checkpoint in {self._name}: {cause}. Those already there "
                f"({self._there()}) are unchanged: fix it, and the same command continues "
                "from the newest"
            ) from error

    def _there(self, but: int = -1) -> str:
        """The steps that this process finds, as a text."""
        steps = [step for step in orbax_files.listed(self._folder) if step != but]
        return ", ".join(map(str, steps)) or "none"

    def restore(
        self, mesh: Mesh, steps: list[int] | None = None
    ) -> tuple[TrainState, Record]:
        """The newest state that can be read (of `steps`), and its record.

        It is placed on the mesh by `sharding.shared`, whatever mesh it was saved from.

        A damaged checkpoint is skipped with a warning that names it and the next.

        Raises:
            FileNotFoundError: one of `steps` has no checkpoint.
            ValueError: none can be read, or the newest is of another version of jaxdiff.
            OSError: the system does not let it be read.
        """
        there = self.steps()
        steps = there if steps is None else steps
        if absent := [step for step in steps if step not in there]:
            known = ", ".join(map(str, there)) or "none yet"
            raise FileNotFoundError(
                f"{self._name} has no checkpoint {absent[0]}; it has {known}"
            )
        reasons = []
        for step, after in itertools.zip_longest(steps, steps[1:]):
            try:
                return self._read(step, mesh)
            except DamagedError as error:
                self._damaged.add(step)
                reason = f"is damaged ({printable(error)})"
                reasons.append(f"{step} {reason}")
            if after is not None:
                warnings.warn(
                    f"checkpoint {step} of {self._name} {reason} and was passed over; "
                    f"going back to checkpoint {after}",
                    stacklevel=2,
                )
        if others := [step for step in there if step not in steps]:
            raise ValueError(
                f"checkpoint {'; '.join(reasons)} in {self._name}: choose another, it has "
                f"{', '.join(map(str, others))}"
            )
        raise ValueError(
            f"no checkpoint in {self._name} can be read: {'; '.join(reasons)}. Bring back "
            "a copy of the folder, or start over in another --workdir"
        )

    def record(self, step: int) -> Record:
        """The record of a checkpoint, compared with its digest.

        Raises:
            DamagedError: what is wrong with it.
            ValueError: another version of jaxdiff wrote it.
        """
        try:
            record = opened(processes.from_first(orbax_files.kept(self._folder, step)))
        except OtherVersionError as error:
            raise ValueError(f"checkpoint {step} of {self._name}: {error}") from error
        if record.step not in (None, step):
            raise DamagedError(f"it holds step {record.step}")
        return record

    def _read(self, step: int, mesh: Mesh) -> tuple[TrainState, Record]:
        """One checkpoint, compared with its digest and checksums.

        Raises:
            DamagedError: what is wrong with it.
            ValueError: another version of jaxdiff wrote it.
        """
        record = self.record(step)
        try:
            target = _abstract(record.experiment, mesh)
        except (ValueError, TypeError, OverflowError) as error:  # there is no digest
            text = orbax_files.line(error)
            raise DamagedError(f"its network cannot be built: {text}") from error
        state = orbax_files.load(self._folder, step, target)
        if not processes.all_agree(state is not None):
            raise DamagedError(self._misfit(step, target))
        compare(state, checksum(state).tolist(), record.checksum)
        return state, record

    def _read_back(
        self, step: int, target: TrainState, saved: Mapping[str, str], sums: Sequence[int]
    ) -> None:
        """Reads what was just written, part after part of the state.

        Raises:
            OSError: it is not what was to be saved.
        """
        wrong, done = "", []
        try:
            if processes.from_first(orbax_files.kept(self._folder, step)) != saved:
                raise DamagedError("its record is not the one that was written")
            for part in parts(target):
                done += self._sums(step, part, target)
            compare(target, done, sums)
        except DamagedError as error:
            wrong = str(error)
        except MemoryError as error:
            warnings.warn(
                f"checkpoint {step} of {self._name} was not read back: {error}",
                stacklevel=2,
            )
        if not processes.all_agree(not wrong):
            raise OSError(
                f"checkpoint {step} was written to {self._name}, but cannot be read back "
                f"({wrong or 'by another process'}): the run stops here, as nothing it "
                f"learns would be kept. Those before it ({self._there(step)}) are as they "
                "were; train in another --workdir, on another disk"
            )

    def _sums(self, step: int, part: TrainState, target: TrainState) -> list[int]:
        """The checksums of a part of a saved state, or the same error at every process.

        Raises:
            DamagedError: it cannot be read.
            MemoryError: there is no room for it.
        """
        size = sum(map(size_in_bytes, present(part)))
        text = f"there is no memory for another {size:,} bytes of the state"
        read, full = None, False
        try:
            read = orbax_files.load(self._folder, step, part)
        except MemoryError:
            full = True
        if not processes.all_agree(not full):
            raise MemoryError(text)
        if not processes.all_agree(read is not None):
            raise DamagedError(self._misfit(step, target))
        sums: list[int] = []
        try:
            sums = checksum(present(read)).tolist()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
        if not processes.all_agree(bool(sums)):
            raise MemoryError(text)
        return sums

    def _misfit(self, step: int, target: PyTree) -> str:
        """The first array that differs from the network's in shape or type, if listed."""
        if (listed := orbax_files.arrays(self._folder, step)) is None:
            return "its list of arrays cannot be read"
        there = shapes(listed)
        here = shapes(target)
        for name in sorted(there.keys() | here.keys()):
            held, wanted = (
                str(list(side[name])) if name in side else "missing"
                for side in (there, here)
            )
            if held != wanted:
                return f"{name} is {held} in it, and {wanted} in its network"
        return "its arrays cannot be read"


@contextmanager
def checkpoints(workdir: PathLike, keep: int = 0, every: int = 0) -> Iterator[Checkpoints]:
    """The checkpoints of a run: to read with keep = 0, else to write.

    The latest `keep` stay, and those of every step that `every` divides, if it is not 0.

    Raises:
        ValueError: a bucket's folder whose name Orbax would read as a pattern.
    """
    workdir = place(workdir)
    with orbax_files.plainly_named(workdir) as plain:
        folder = plain / "checkpoints"
        writer = lambda: orbax_files.writer(folder, keep, every)
        saved = Checkpoints(folder, writer, printable(workdir / "checkpoints"))
        try:
            if keep:
                saved.open()
            yield saved
        except BaseException:
            if not processes.several():  # to wait for a lost process may take minutes
                saved.close()
            raise
        saved.close()


def _places(state: PyTree) -> PyTree:
    """Shapes, types and places of the arrays of a state.

    The key of a generator has the sharding of the numbers it is made of, [2].
    """

    def one(a: jax.Array) -> jax.ShapeDtypeStruct:
        place = a.sharding
        if isinstance(place, NamedSharding) and len(place.spec) > a.ndim:
            place = NamedSharding(place.mesh, PartitionSpec(*place.spec[: a.ndim]))
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place)

    return jax.tree.map(one, state)


def _abstract(experiment: Experiment, mesh: Mesh) -> PyTree:
    """Shapes, types and places of the state's arrays, nothing computed."""
    state = state_shapes(experiment)
    return jax.tree.map(
        lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
        state,
        sharding.shared(state, mesh),
    )
