"""Checkpoints of a run: Orbax behind one small module.

A run's folder holds

    config.json           the experiment, for people
    checkpoints/<step>/   the whole TrainState, the experiment and the data's statistics
    statistics.json       mean and std of the data, where they were measured
    metrics.jsonl, tensorboard/, samples/, samples.png, curves.png

A checkpoint gets its name once it is whole: a kill during a save leaves the one before.
Several processes write one together, each the arrays that its devices hold, and it is read
on as many processes and devices as there are then. What one finds damaged, all pass over.
"""

import dataclasses
import fcntl
import itertools
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxdiff import processes, reprs, sharding, snapshots
from jaxdiff.config import Experiment, from_dict, to_dict
from jaxdiff.data.statistics import Statistics
from jaxdiff.files import PathLike, Place, place, write_atomically
from jaxdiff.snapshots import Snapshot
from jaxdiff.state import TrainState, checksum, ema_variables, init_state, run_denoiser
from jaxdiff.types import Denoiser, NoiseLevel


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
        state, experiment = saved.restore(sharding.data_mesh(), steps)
    std = experiment.sampling.std if std is None else std
    found = snapshots.find(folder, std, step)
    if found and std not in experiment.optimizer.lengths:
        return of_snapshot(snapshots.read(found))
    variables = ema_variables(experiment, state, std)
    denoise = run_denoiser(experiment, variables)
    return Restored(denoise, experiment, variables, int(state.step))


def of_snapshot(snapshot: Snapshot) -> Restored:
    """The denoiser that a snapshot is, on all devices."""
    everywhere = sharding.replicated(sharding.data_mesh())
    variables = jax.device_put(snapshot.variables, everywhere)
    denoise = run_denoiser(snapshot.experiment, variables)
    return Restored(denoise, snapshot.experiment, variables, snapshot.step)


class Checkpoints:
    """The checkpoints of one run; made by `checkpoints`."""

    def __init__(self, orbax: Any) -> None:
        self._orbax = orbax
        self._damaged: set[int] = set()

    def steps(self) -> list[int]:
        """The steps that have one, newest first, as process 0 finds them."""
        listed = (checkpoint.step for checkpoint in self._orbax.checkpoints)
        return processes.told(sorted(listed, reverse=True))

    def save(
        self,
        step: int,
        state: TrainState,
        experiment: Experiment,
        statistics: Statistics | None = None,
        images: int | None = None,
    ) -> None:
        """Starts to save, and returns once the state may be donated.

        `images` are those seen so far, by default as many as steps of the batch size.
        A checkpoint that this step already has is kept, unless it could not be read.
        """
        if step in self.steps() and step not in self._damaged:
            return
        with self._one_line_errors():
            self._orbax.save_async(
                step,
                state,
                force=True,
                overwrite=step in self._damaged,
                custom_metadata={
                    "experiment": to_dict(experiment),
                    "checksum": _checksum(state).tolist(),
                    "statistics": statistics and dataclasses.asdict(statistics),
                    "images": step * experiment.batch_size if images is None else images,
                },
            )

    def wait(self) -> None:
        """Returns once all that was saved is on disk.

        Raises:
            OSError: it could not be written; the checkpoints before it are whole.
        """
        with self._one_line_errors():
            self._orbax.wait()

    def close(self) -> None:
        """Waits, and lets go of the folder."""
        with self._one_line_errors():
            self._orbax.close()

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
            names = [path.name for path in self._orbax.directory.glob("*")]
            steps = sorted(int(name) for name in names if name.isdigit())
            there = ", ".join(map(str, steps)) or "none"
            raise OSError(
                f"cannot save a checkpoint in {self._orbax.directory}: {cause}. Those "
                f"already there ({there}) are whole: "
                "mend it, and the same command goes on from the newest"
            ) from error

    def restore(
        self, mesh: Mesh, steps: list[int] | None = None
    ) -> tuple[TrainState, Experiment]:
        """The newest state that can be read (of `steps`), and its experiment.

        It lies on the mesh as `sharding.shared` says, whatever mesh it was saved from.

        A damaged checkpoint is passed over with a warning that names it and the next.

        Raises:
            ValueError: none can be read.
        """
        steps = self.steps() if steps is None else steps
        for step, after in itertools.zip_longest(steps, steps[1:]):
            saved = processes.told(self._metadata(step))
            if saved is not None:
                experiment = from_dict(saved["experiment"])
                state = self._state(step, _abstract(experiment, mesh))
                read = processes.all_agree(state is not None)
                if read and _checksum(state).tolist() == saved["checksum"]:
                    return state, experiment
            self._damaged.add(step)
            if after is not None:
                warnings.warn(
                    f"checkpoint {step} of {self._orbax.directory} is damaged and was "
                    f"passed over; going back to checkpoint {after}",
                    stacklevel=2,
                )
        raise ValueError(
            f"no checkpoint in {self._orbax.directory} can be read: "
            f"{', '.join(map(str, steps))} are damaged. Bring back a copy, or delete the "
            "run's folder to start over"
        )

    def images(self, step: int, experiment: Experiment) -> int:
        """How many images the run of a saved step, and of its experiment, had seen."""
        saved = processes.told(self._metadata(step)) or {}
        return int(saved.get("images", step * experiment.batch_size))

    # Orbax has no exception of its own for damage, and raises almost any other.

    def _metadata(self, step: int) -> dict[str, Any] | None:
        """The experiment and checksum saved beside a state; None if they are lost."""
        try:
            saved = self._orbax.metadata(step).custom_metadata
        except Exception:
            return None
        return saved if saved and {"experiment", "checksum"} <= saved.keys() else None

    def _state(self, step: int, target: PyTree) -> TrainState | None:
        """A saved state, as the target says; None if it cannot be read."""
        try:
            return self._orbax.load(step, target)
        except Exception:
            return None


@contextmanager
def checkpoints(workdir: PathLike, keep: int = 0, every: int = 0) -> Iterator[Checkpoints]:
    """The checkpoints of a run: to read with keep = 0, else to write.

    The latest `keep` stay, and those of every step that `every` divides, if it is not 0.
    """
    from orbax.checkpoint import v1 as ocp

    policies = ocp.training.preservation_policies
    kept = [policies.LatestN(keep) if keep else policies.PreserveAll()]
    kept += [policies.EveryNSteps(every)] if every else []
    workdir = place(workdir)
    local = isinstance(workdir, Path)  # what a bucket calls absolute is none
    orbax = ocp.training.Checkpointer(
        (workdir.absolute() if local else workdir) / "checkpoints",
        preservation_policy=policies.AnyPreservationPolicy(kept),
        cleanup_tmp_directories=keep > 0,
    )
    saved = Checkpoints(orbax)
    try:
        yield saved
    except BaseException:
        if not processes.several():  # to wait for a process that was lost may take minutes
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


def describe(workdir: PathLike, experiment: Experiment) -> None:
    """Writes config.json, for people: a run's own record is in its checkpoints."""
    text = json.dumps(to_dict(experiment), indent=2) + "\n"
    write_atomically(place(workdir) / "config.json", lambda file: file.write(text.encode()))


_checksum = jax.jit(checksum)


def _abstract(experiment: Experiment, mesh: Mesh) -> PyTree:
    """Shapes, types and places of the state's arrays, nothing computed."""
    state = jax.eval_shape(lambda: init_state(experiment))
    return jax.tree.map(
        lambda a, place: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place),
        state,
        sharding.shared(state, mesh),
    )
