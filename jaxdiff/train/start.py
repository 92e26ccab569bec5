"""How a run begins, or goes on: its first state, and what it must agree with."""

import jax
from jax.sharding import Mesh

from jaxdiff import checkpoint, losses, networks, processes, sharding
from jaxdiff.config import PLACES, Experiment, differences, from_dict, parts, to_dict
from jaxdiff.data import Dataset, statistics
from jaxdiff.files import Place
from jaxdiff.state import TrainState, init_state
from jaxdiff.weightings import require_finite_mean


def restored(
    saved: checkpoint.Checkpoints, mesh: Mesh, workdir: Place, experiment: Experiment
) -> TrainState | None:
    """The state that a run goes on from; None if it has not begun.

    Raises:
        ValueError: the folder is another experiment's.
    """
    if not saved.steps():
        return None
    state, before = saved.restore(mesh)
    require_same(workdir, before, experiment)
    return state


def begun(experiment: Experiment, mesh: Mesh) -> TrainState:
    """The state before the first step, from `init_from`'s averages if one is named.

    Raises:
        ValueError: that run's network means something else, or is of another size.
    """
    given = None
    if experiment.init_from:
        run = checkpoint.restore(experiment.init_from)
        require_same_meaning(run.experiment, experiment)
        given = jax.device_put(run.variables, sharding.replicated(mesh))
    state = jax.eval_shape(lambda: init_state(experiment))
    place = sharding.shared(state, mesh)
    return jax.jit(init_state, static_argnums=0, out_shardings=place)(experiment, given)


def require_same_meaning(there: Experiment, here: Experiment) -> None:
    """Refuses to start from a network whose inputs or outputs mean something else.

    The schedule may be another: a denoiser is a function on rays. An estimator of the
    level takes features alone, so what they were trained to predict is free as well.

    Raises:
        ValueError: what differs, there and here.
    """
    estimates = isinstance(here.network, networks.LevelEstimator)
    found = [("data.shape", there.data.shape, here.data.shape)]
    if not estimates:
        found += [("parameterization", there.parameterization, here.parameterization)]
    for name, theirs, ours in found:
        if theirs != ours:
            raise ValueError(
                f"init_from: {here.init_from} holds a network whose numbers mean something "
                f"else, its {name} is {theirs}, here {ours}: set it to the same"
            )


def require_same(workdir: Place, before: Experiment, now: Experiment) -> None:
    """Refuses to go on with a run as if it were another.

    Raises:
        ValueError: it is another; the message says in what.
    """
    if lines := differences(before, now):
        raise ValueError(
            f"{workdir} holds another experiment ({'; '.join(lines)}): choose another "
            "--workdir, or delete this one"
        )


def data_statistics(
    experiment: Experiment, workdir: Place, dataset: Dataset
) -> statistics.Statistics | None:
    """What is known of the data, kept in the run's folder too; few data are measured.

    launch/measure_data.py measures many.
    """
    few = len(dataset) <= MEASURED
    look = statistics.measured if few else statistics.stored
    found = look(experiment.data, dataset)
    if found and processes.first():
        statistics.save(workdir / "statistics.json", found)
    return found


MEASURED = 10_000
"""Images that are measured when training starts, which takes a second or so."""


def require_alike(experiment: Experiment) -> None:
    """Refuses processes that were given different experiments.

    Raises:
        ValueError: this one's is not process 0's.
    """
    known = differences(from_dict(processes.told(to_dict(experiment))), experiment, PLACES)
    if known:
        raise ValueError(
            f"process {jax.process_index()} was given another experiment than process 0 "
            f"({'; '.join(known)}): give all hosts the same command"
        )


def require_finite_objective(experiment: Experiment) -> None:
    """Refuses a weighting whose mean over the law of t diverges.

    Raises:
        ValueError: which, and what to use.
    """
    e = experiment
    for term in parts(e.loss, losses.WeightedError):
        require_finite_mean(term.weighting, e.parameterization, e.schedule, e.times)
