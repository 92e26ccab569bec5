"""Checkpoints of a run: Orbax behind one small module.

A run's folder holds

    config.json           the experiment, for people
    classes.json          the names of the classes by their labels, for people
    checkpoints/<step>/   the whole TrainState, and a record of what it is of
    statistics.json       mean and std of the data, where they were measured
    metrics.jsonl, tensorboard/, samples/, samples.png, curves.png

A checkpoint gets its name once it is whole: a kill during a save leaves the one before.
Several processes write one together, each the arrays that its devices hold, and it is read
on as many processes and devices as there are then. What one finds damaged, all pass over.
"""

import fcntl
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from jaxdiff.config import Experiment, to_dict
from jaxdiff.runs import orbax_files, snapshots
from jaxdiff.runs.record import DamagedError, OtherVersionError, Record, opened, sealed
from jaxdiff.runs.snapshots import Snapshot
from jaxdiff.runs.state import TrainState, checksum, ema_variables, init_state, run_denoiser
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.files import PathLike, Place, place, printable, write_atomically
from jaxdiff.types import Denoiser, NoiseLevel, reprs


@dataclass(frozen=True)
class Restored:
    """What a run left: its denoiser, what it was, and how far it came.

    A second line samples:
        x0 = jd.sample(run.denoise, cond, keys, run.shape, run.levels, jd.Heun())
    """

    denoise: Denoiser
    experiment: Experiment
    variables: PyTree
    """The network's {"params", "constants"}, the parameters averaged."""
    step: int
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of their labels; () if none were kept."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.experiment.data.shape

    @property
    def levels(self) -> NoiseLevel:
        """The grid that the run samples on."""
        sampling = self.experiment.sampling
        return sampling.grid(self.experiment.schedule, sampling.steps)

    def __repr__(self) -> str:
        """What one asks of a run first, on a few lines."""
        e, s = self.experiment, self.experiment.sampling
        count = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
        size = " x ".join(map(str, self.shape))
        classes = f"{e.network.label_dim} classes" if e.network.label_dim else "no classes"
        return (
            f"Restored(step {self.step:,} of {e.steps:,}\n"
            f"  data     {reprs.short(e.data)}: {size}, {classes}\n"
            f"  network  {type(e.network).__name__} with {count:,} parameters\n"
            f"  training {reprs.short(e.schedule)}, {reprs.short(e.times)}, "
            f"{reprs.short(e.parameterization)}\n"
            f"  sampling {s.steps} steps of {reprs.short(s.solver)} on "
            f"{reprs.short(s.grid)})"
        )


def restore(
    workdir: PathLike, std: float | None = None, step: int | None = None
) -> Restored:
    """The denoiser of a run, from its newest checkpoint that can be read.

    `std` chooses among the EMA widths that the run tracked, by default the one it samples
    with, and those that were reconstructed after training; `step` chooses another
    checkpoint, or snapshot, than the newest. The path of a snapshot restores that file,
    which must be of the `std` and `step` that are given.

    Raises:
        FileNotFoundError: there is no such run, or it has no checkpoint.
        ValueError: no such EMA, no checkpoint can be read, or a snapshot is of another
            width or step.
    """
    folder = place(workdir)
    if folder.suffix == ".npz":
        snapshot = snapshots.read(folder)
        if std is not None and not snapshots.same(std, snapshot.std):
            raise ValueError(
                f"{folder} is the average of std {snapshot.std:g}, not {std:g}: leave out "
                f"--std, or give its run's folder"
            )
        if step not in (None, snapshot.step):
            raise ValueError(
                f"{folder} is of step {snapshot.step}, not {step}: leave out --checkpoint, "
                f"or give its run's folder"
            )
        return of_snapshot(snapshot)
    if not (folder / "checkpoints").is_dir():
        if found := snapshots.find(folder, std, step):
            return of_snapshot(snapshots.read(found))
        raise FileNotFoundError(
            f"{folder} holds no run (no folder `checkpoints` in it) and no such snapshot: "
            "give the --workdir that launch/train.py was given"
        )
    with checkpoints(folder) as saved:
        if step is not None and step not in saved.steps():
            if found := snapshots.find(folder, std, step):
                return of_snapshot(snapshots.read(found))
            known = ", ".join(map(str, saved.steps())) or "none yet"
            raise FileNotFoundError(f"{folder} has no checkpoint {step}; it has {known}")
        if not saved.steps():
            raise FileNotFoundError(
                f"{folder} has no checkpoint yet: the first is written after "
                "checkpoint_every steps"
            )
        steps = None if step is None else [step]
        state, record = saved.restore(sharding.data_mesh(), steps)
    experiment = record.experiment
    std = experiment.sampling.std if std is None else std
    found = snapshots.find(folder, std, step)
    if found and std not in experiment.optimizer.lengths:
        return of_snapshot(snapshots.read(found))
    variables = ema_variables(experiment, state, std)
    denoise = run_denoiser(experiment, variables)
    return Restored(denoise, experiment, variables, int(state.step), record.classes)


def of_snapshot(snapshot: Snapshot) -> Restored:
    """The denoiser that a snapshot is, on all devices."""
    everywhere = sharding.replicated(sharding.data_mesh())
    variables = jax.device_put(snapshot.variables, everywhere)
    denoise = run_denoiser(snapshot.experiment, variables)
    return Restored(
        denoise, snapshot.experiment, variables, snapshot.step, snapshot.classes
    )


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
        return processes.told(orbax_files.listed(self._folder)[::-1])

    def save(
        self,
        step: int,
        state: TrainState,
        experiment: Experiment,
        images: int | None = None,
        data: Mapping[str, Any] | None = None,
    ) -> None:
        """Starts to save, and returns once the state may be donated.

        `images` are those seen so far, by default as many as steps of the batch size, and
        `data` is what `data.identity` says of the data set.
        A checkpoint that this step already has is kept, unless it could not be read. The
        first one is waited for and read back, so that training does not go on for nothing.

        Raises:
            OSError: it cannot be written, or what was written cannot be read.
        """
        if step in self.steps() and step not in self._damaged:
            return
        sums = tuple(_checksum(state).tolist())
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
            if processes.several() and processes.tells_of_a_loss(error):
                raise
            text = str(error)
            full = "No space left on device"
            cause = full if full in text else text.split("\n")[0][:200]
            raise OSError(
                f"cannot save a checkpoint in {self._name}: {cause}. Those already there "
                f"({self._there()}) are as they were: mend it, and the same command goes "
                "on from the newest"
            ) from error

    def _there(self, but: int = -1) -> str:
        """The steps that this process finds, as a text."""
        steps = [step for step in orbax_files.listed(self._folder) if step != but]
        return ", ".join(map(str, steps)) or "none"

    def restore(
        self, mesh: Mesh, steps: list[int] | None = None
    ) -> tuple[TrainState, Record]:
        """The newest state that can be read (of `steps`), and what it is of.

        It lies on the mesh as `sharding.shared` says, whatever mesh it was saved from.

        A damaged checkpoint is passed over with a warning that names it and the next.

        Raises:
            ValueError: none can be read, or the newest is of another version of jaxdiff.
            OSError: the system does not let it be read.
        """
        steps = self.steps() if steps is None else steps
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
        if others := [step for step in self.steps() if step not in steps]:
            raise ValueError(
                f"checkpoint {'; '.join(reasons)} in {self._name}: choose another, it has "
                f"{', '.join(map(str, others))}"
            )
        raise ValueError(
            f"no checkpoint in {self._name} can be read: {'; '.join(reasons)}. Bring back "
            "a copy of the folder, or start over in another --workdir"
        )

    def record(self, step: int) -> Record:
        """What a checkpoint is of, compared with its digest.

        Raises:
            DamagedError: what is wrong with it.
            ValueError: another version of jaxdiff wrote it.
        """
        try:
            record = opened(processes.told(orbax_files.kept(self._folder, step)))
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
        _compare(state, _checksum(state).tolist(), record.checksum)
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
            if processes.told(orbax_files.kept(self._folder, step)) != saved:
                raise DamagedError("its record is not the one that was written")
            for part in _parts(target):
                done += self._sums(step, part, target)
            _compare(target, done, sums)
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
        size = sum(map(_bytes, _present(part)))
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
        found: list[int] = []
        try:
            found = _checksum(_present(read)).tolist()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
        if not processes.all_agree(bool(found)):
            raise MemoryError(text)
        return found

    def _misfit(self, step: int, target: PyTree) -> str:
        """Which array is not as the network wants it, as far as the file says."""
        if (listed := orbax_files.arrays(self._folder, step)) is None:
            return "its list of arrays cannot be read"
        there = _shapes(listed)
        here = _shapes(target)
        for name in sorted(there.keys() | here.keys()):
            held, wanted = (
                str(list(side[name])) if name in side else "missing"
                for side in (there, here)
            )
            if held != wanted:
                return f"{name} is {held} in it, and {wanted} in its network"
        return "its arrays cannot be read"


PART = 64 * 2**20
"""Bytes of a state that are read back at once, or one array that is larger."""


def _parts(target: TrainState) -> Iterator[TrainState]:
    """The state in parts of at most `PART` bytes, or one array: `...` for all others."""
    leaves, tree = jax.tree.flatten(target)
    first, size = 0, 0
    for i, leaf in enumerate(leaves):
        if i > first and size + _bytes(leaf) > PART:
            yield tree.unflatten(_only(leaves, first, i))
            first, size = i, 0
        size += _bytes(leaf)
    yield tree.unflatten(_only(leaves, first, len(leaves)))


def _only(leaves: Sequence[Any], start: int, stop: int) -> list[Any]:
    """The leaves with `...`, which Orbax does not read, outside of the range."""
    return [leaf if start <= i < stop else ... for i, leaf in enumerate(leaves)]


def _present(part: PyTree) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(part) if leaf is not ...]


def _bytes(leaf: Any) -> int:
    return leaf.size * leaf.dtype.itemsize


def _compare(state: PyTree, found: Sequence[int], kept: Sequence[int]) -> None:
    """Compares checksums.

    Raises:
        DamagedError: names the first array that has another.
    """
    if tuple(found) == tuple(kept):
        return
    named = [name for name, _ in _named(state)]
    pairs = itertools.zip_longest(named, found, kept)
    name = next((name for name, one, other in pairs if one != other), None)
    raise DamagedError(f"{name or 'a list of checksums'} does not fit its checksum")


def _named(tree: PyTree) -> list[tuple[str, Any]]:
    """Arrays by their names, as Orbax joins them, in the order of the tree."""
    part = lambda key: str(
        getattr(key, "name", getattr(key, "key", getattr(key, "idx", key)))
    )
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [("/".join(map(part, path)), leaf) for path, leaf in flat]


def _shapes(tree: PyTree) -> dict[str, tuple[int, ...]]:
    """Shapes by name; keys of generators are left out, which are saved as numbers."""
    return {
        name: tuple(leaf.shape)
        for name, leaf in _named(tree)
        if name != "key" and hasattr(leaf, "shape")
    }


@contextmanager
def checkpoints(workdir: PathLike, keep: int = 0, every: int = 0) -> Iterator[Checkpoints]:
    """The checkpoints of a run: to read with keep = 0, else to write.

    The latest `keep` stay, and those of every step that `every` divides, if it is not 0.

    Raises:
        ValueError: a bucket's folder whose name has characters that Orbax takes for others.
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


@contextmanager
def alone(workdir: PathLike) -> Iterator[None]:
    """Holds a run's folder for the processes of this run, until they end in whatever way.

    Raises:
        ValueError: another run trains in it, or not all processes see the same folder.
    """
    workdir = place(workdir)
    with _held(workdir) if processes.first() else nullcontext():
        if processes.several():
            _require_shared(workdir)
        yield


def _require_shared(workdir: Place) -> None:
    """Refuses a folder that is another one on each host.

    Raises:
        ValueError: a file that process 0 made in it is not seen by all.
    """
    mark = workdir / f".shared-{os.getpid()}"
    if processes.first():
        write_atomically(mark, lambda file: file.write(b""))
    seen = processes.all_agree((workdir / processes.told(mark.name)).exists())
    if processes.first():
        mark.unlink()
    if not seen:
        raise ValueError(
            f"not all processes see the same folder {workdir}: --workdir must lie on a "
            "file system that all hosts share"
        )


@contextmanager
def _held(workdir: Place) -> Iterator[None]:
    if not isinstance(workdir, Path):  # a bucket knows no locks, but says if it is there
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

    For people: a run's own record is in its checkpoints.
    """
    if classes:
        names = json.dumps(list(classes), indent=1, ensure_ascii=False) + "\n"
        content = names.encode(errors="backslashreplace")  # as JSON escapes surrogates
        path = place(workdir) / "classes.json"
        write_atomically(path, lambda file: file.write(content))
    text = json.dumps(to_dict(experiment), indent=2) + "\n"
    write_atomically(place(workdir) / "config.json", lambda file: file.write(text.encode()))


_checksum = jax.jit(checksum)


def _places(state: PyTree) -> PyTree:
    """Shapes, types and places of the arrays of a state.

    The key of a generator that was read lies as the numbers that it is made of, [2], do.
    """

    def one(a: jax.Array) -> jax.ShapeDtypeStruct:
        place = a.sharding
        if isinstance(place, NamedSharding) and len(place.spec) > a.ndim:
            place = NamedSharding(place.mesh, PartitionSpec(*place.spec[: a.ndim]))
        return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place)

    return jax.tree.map(one, state)


def _abstract(experiment: Experiment, mesh: Mesh) -> PyTree:
    """Shapes, types and places of the state's arrays, nothing computed."""
    state = jax.eval_shape(lambda: init_state(experiment))
    return jax.tree.map(
        lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
        state,
        sharding.shared(state, mesh),
    )
