"""Restores a run: its denoiser, from the newest checkpoint or from a snapshot."""

from dataclasses import dataclass

import jax
from jaxtyping import PyTree

from jaxdiff.config import Experiment
from jaxdiff.runs import snapshots
from jaxdiff.runs.checkpoint import checkpoints
from jaxdiff.runs.snapshots import Snapshot
from jaxdiff.runs.state import ema_variables, run_denoiser
from jaxdiff.runtime import sharding
from jaxdiff.runtime.files import PathLike, place
from jaxdiff.types import Denoiser, NoiseLevel, reprs


@dataclass(frozen=True)
class Restored:
    """A restored run: its denoiser, experiment and progress.

    A second line samples:
        x0 = jd.sample(run.denoise, cond, keys, run.shape, run.levels, jd.Heun())
    """

    denoise: Denoiser
    experiment: Experiment
    variables: PyTree
    """The network's {"params", "constants"}, the parameters averaged."""
    step: int
    classes: tuple[str, ...] = ()
    """Names of the classes, in the order of their labels; () if none were saved."""

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
        """A summary in a few lines."""
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

    `std` chooses among the EMA widths that the run tracked or that were reconstructed
    after training, by default the one it samples with; `step` chooses a checkpoint or
    snapshot other than the newest. The path of a snapshot restores that file, whose width
    and step must match `std` and `step` if given.

    >>> restore("runs/not-there")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    FileNotFoundError: runs/not-there holds no run...

    Raises:
        FileNotFoundError: there is no such run, or it has no checkpoint.
        ValueError: no such EMA, no checkpoint can be read, or a snapshot has another width
            or step.
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
        if path := snapshots.find(folder, std, step):
            return of_snapshot(snapshots.read(path))
        raise FileNotFoundError(
            f"{folder} holds no run (no folder `checkpoints` in it) and no such snapshot: "
            "give the --workdir that jaxdiff train was given"
        )
    with checkpoints(folder) as saved:
        there = saved.steps()
        path = snapshots.find(folder, std, step) if step not in (None, *there) else None
        if path:
            return of_snapshot(snapshots.read(path))
        if step is None and not there:
            raise FileNotFoundError(
                f"{folder} has no checkpoint yet: the first is written after "
                "checkpoint_every steps"
            )
        steps = None if step is None else [step]
        state, record = saved.restore(sharding.data_mesh(), steps)
    experiment = record.experiment
    std = experiment.sampling.std if std is None else std
    path = snapshots.find(folder, std, step)
    if path and std not in experiment.optimizer.lengths:
        return of_snapshot(snapshots.read(path))
    variables = ema_variables(experiment, state, std)
    denoise = run_denoiser(experiment, variables)
    return Restored(denoise, experiment, variables, int(state.step), record.classes)


def of_snapshot(snapshot: Snapshot) -> Restored:
    """The denoiser of a snapshot, on all devices."""
    everywhere = sharding.replicated(sharding.data_mesh())
    variables = jax.device_put(snapshot.variables, everywhere)
    denoise = run_denoiser(snapshot.experiment, variables)
    return Restored(
        denoise, snapshot.experiment, variables, snapshot.step, snapshot.classes
    )
