"""How a run starts or resumes: its first state, and checks of its settings."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxdiff import data
from jaxdiff.analysis import curves
from jaxdiff.config import (
    PLACES,
    Experiment,
    changes,
    differences,
    from_dict,
    parts,
    to_dict,
)
from jaxdiff.data import Dataset, statistics
from jaxdiff.objectives import losses
from jaxdiff.objectives.weightings import require_finite_mean, warn_of_vanishing_weight
from jaxdiff.runs import checkpoint, restoring
from jaxdiff.runs.state import TrainState, initializer
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.files import Place
from jaxdiff.train import finetuning
from jaxdiff.types import NoiseLevel, Schedule
from jaxdiff.types.ranges import quote


@dataclass(frozen=True, eq=False)
class Start:
    """The state that a run starts or resumes with, and lines about it for the log."""

    state: TrainState
    images: int
    """Images seen so far."""
    lines: list[str]
    """What was loaded from another run's network, or which fields change from now on."""


def first_or_last(
    saved: checkpoint.Checkpoints,
    mesh: Mesh,
    workdir: Place,
    experiment: Experiment,
    dataset: Dataset,
) -> Start:
    """The newest saved state of a run, or the state before its first step.

    Raises:
        ValueError: the folder holds another experiment or a run on other data, or
            `init_from` does not fit.
    """
    if not saved.steps():
        fitted = loaded(experiment)
        state = initial_state(experiment, mesh, fitted)
        return Start(state, 0, fitted.lines if fitted else [])
    state, record = saved.restore(mesh)
    before, step = record.experiment, int(state.step)
    # Checked first: other data may imply another network through their number of classes.
    if not any(line.startswith("data.") for line in differences(before, experiment)):
        require_same_data(workdir, record.data, data.identity(dataset))
    require_same(workdir, before, experiment)
    changed = [f"from step {step} on: {line}" for line in changes(before, experiment)]
    return Start(state, record.images(step), changed)


def loaded(experiment: Experiment) -> finetuning.Fitted | None:
    """The averages of `init_from` that fit; None if it is empty.

    Raises:
        ValueError: that run's network differs in meaning or size.
    """
    if not experiment.init_from:
        return None
    run = restoring.restore(experiment.init_from)
    fitted = finetuning.fitted(run.variables, run.experiment, experiment)
    what = f"init_from: {experiment.init_from}, step {run.step}"
    return dataclasses.replace(fitted, lines=[what, *fitted.lines])


def initial_state(
    experiment: Experiment, mesh: Mesh, fitted: finetuning.Fitted | None = None
) -> TrainState:
    """The state before the first step, with the variables that fit from another run.

    By default, these are `loaded` from `init_from`.

    Raises:
        ValueError: as `loaded`.

    >>> from jaxdiff.networks import DiT
    >>> tiny = Experiment(network=DiT(width=8, depth=1, heads=2), batch_size=16)
    >>> state = initial_state(tiny, sharding.data_mesh())
    >>> int(state.step), int(state.first_bad)
    (0, -1)
    """
    start_from = None
    if fitted := fitted or loaded(experiment):
        start_from = jax.device_put(fitted.variables, sharding.replicated(mesh))
    return initializer(experiment, mesh)(start_from)


def require_same(workdir: Place, before: Experiment, now: Experiment) -> None:
    """Rejects resuming a run with another experiment.

    Raises:
        ValueError: the differences, and what to do.
    """
    if lines := differences(before, now):
        raise ValueError(
            f"{workdir} holds another experiment ({'; '.join(lines)}): set these back to "
            f"go on with it, or choose another --workdir for a new run, which may start "
            f"from this one's network with --config.init_from={workdir}"
        )


def require_same_data(
    workdir: Place, before: Mapping[str, Any] | None, now: Mapping[str, Any]
) -> None:
    """Rejects data that differ from those a run began with; the path may differ.

    Runs that recorded nothing about their data are not checked.

    Raises:
        ValueError: the difference, and what to do.
    """
    if before and (line := data.differences(before, now)):
        raise ValueError(
            f"{workdir} was trained on other data ({line}): give it those, wherever they "
            "lie now, or choose another --workdir for a new run, which may start from this "
            f"one's network with --config.init_from={workdir}"
        )


def save_statistics(experiment: Experiment, workdir: Place, dataset: Dataset) -> None:
    """Writes statistics.json if the statistics are known; small data sets are measured.

    jaxdiff measure_data measures large ones.
    """
    few = len(dataset) <= MEASURED
    look = statistics.measured if few else statistics.stored
    measured = look(experiment.data, dataset)
    if measured and processes.first():
        statistics.save(workdir / "statistics.json", measured)


MEASURED = 10_000
"""Data sets up to this size are measured when training starts, in about a second."""


def require_alike(experiment: Experiment) -> None:
    """Rejects processes with different experiments.

    Raises:
        ValueError: this process' experiment differs from process 0's.
    """
    known = differences(
        from_dict(processes.from_first(to_dict(experiment))), experiment, PLACES
    )
    if known:
        raise ValueError(
            f"process {jax.process_index()} was given another experiment than process 0 "
            f"({'; '.join(known)}): give all hosts the same command"
        )


def require_path(path: Schedule) -> None:
    """Rejects a schedule that is not a path from data to noise, or has a wrong `time`.

    Checks t = 0, 1/4, ..., 1, on the device.

    Raises:
        ValueError: the value at which t, and what it should be.
    """
    t = np.linspace(0, 1, 5, dtype=np.float32)
    levels = path(jnp.asarray(t))
    if not isinstance(levels, NoiseLevel):
        raise ValueError(
            f"{path} returned {quote(levels)}: return jaxdiff.NoiseLevel(alpha, sigma)"
        )
    alpha, sigma = np.asarray(levels.alpha), np.asarray(levels.sigma)
    if not alpha.shape == sigma.shape == t.shape:
        raise ValueError(
            f"{path} has alpha of shape {alpha.shape} and sigma of {sigma.shape} for t of "
            f"{t.shape}: both must be shaped as t"
        )
    ends = f"alpha goes from {alpha[0]:.3g} to {alpha[-1]:.3g}, sigma from {sigma[0]:.3g} "
    ends += f"to {sigma[-1]:.3g}"
    if not (np.isfinite([alpha, sigma]).all() and min(alpha.min(), sigma.min()) >= 0):
        raise ValueError(
            f"on {path} {ends}: both must be 0 or more and finite, as sin(pi / 2 (1 - t)) "
            "is in place of cos(pi / 2 t)"
        )
    angles = np.arctan2(sigma, alpha)
    if not (angles[0] < angles[-1] and np.all(np.diff(angles) >= 0)):
        raise ValueError(
            f"on {path} {ends}: sigma / alpha must grow with t, 0 = data and 1 = noise"
        )
    if alpha[-1] > 1e-6 * sigma[-1] if path.reaches_pure_noise else alpha[-1] == 0:
        raise ValueError(
            f"on {path} {ends}, but reaches_pure_noise is {path.reaches_pure_noise}: it is "
            "whether alpha = 0 at t = 1"
        )
    back = np.asarray(path.time(levels.logsnr))[1:-1]
    if not np.allclose(back, t[1:-1], atol=1e-2):
        raise ValueError(
            f"{path}.time(logsnr) is {np.round(back, 3)} where t = {t[1:-1]}: it must be "
            "the t at which the path has that logsnr"
        )


def require_finite_objective(experiment: Experiment) -> None:
    """Rejects a weighting whose mean over the law of t diverges; warns if it vanishes.

    Raises:
        ValueError: the weighting and the law, and what to use.
    """
    e = experiment
    for term in parts(e.loss, losses.WeightedError):
        require_finite_mean(term.weighting, e.parameterization, e.schedule, e.times)
    learned = parts(e.loss, losses.Uncertain)  # learns its own weighting
    if (weightings := curves.weightings(e.loss)) and not any(learned):
        warn_of_vanishing_weight(weightings, e.parameterization, e.schedule)
