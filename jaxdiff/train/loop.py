"""The training loop, written to be read from top to bottom."""

import dataclasses
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import PyTree

from jaxdiff import data
from jaxdiff.config import Experiment, resolve, to_dict
from jaxdiff.runs import checkpoint, generate, run_folder
from jaxdiff.runs.state import TrainState
from jaxdiff.runtime import processes, provenance, sharding
from jaxdiff.runtime.files import PathLike, Place, place
from jaxdiff.runtime.progress import doing, say
from jaxdiff.train import magnitudes, setup, summary
from jaxdiff.train.goodput import Clock
from jaxdiff.train.periodic import examiner, save_averages, show, warning_if_not_finite
from jaxdiff.train.preemption import Stop, Stopped, stoppable
from jaxdiff.train.profiling import Profile
from jaxdiff.train.reporting import Reporter, reporting
from jaxdiff.train.step import Batch, Metrics, compiled_step

ROLL_BACKS = 3
"""Roll-backs to one checkpoint before a run gives up."""

PATIENCE = 50
"""Consecutive skipped steps before a run gives up."""


class NotFinite(ValueError):
    """A loss or a gradient was not finite; the message names the step."""


@dataclass(frozen=True, eq=False)
class Run:
    """The fixed parts of a run."""

    experiment: Experiment
    workdir: Place
    mesh: Mesh
    dataset: data.Dataset
    saved: checkpoint.Checkpoints
    step: Callable[[TrainState, Batch], tuple[TrainState, Metrics]]
    probe: Callable[..., magnitudes.Magnitudes]
    draw: generate.Draw | None
    examine: Callable[[TrainState], Mapping[str, float]] | None
    more_images: int
    """Seen beyond steps times the batch size, where earlier batches had another size."""
    verbose: bool
    """Whether this process prints progress."""

    def images(self, step: int) -> int:
        """Images seen until a step."""
        return step * self.experiment.batch_size + self.more_images


def fit(
    experiment: Experiment,
    workdir: PathLike,
    *,
    progress: bool = True,
    profile: tuple[int, int] = (0, 0),
    wandb: str = "",
    arguments: Sequence[str] = (),
) -> TrainState:
    """Trains or resumes in the run's folder; returns the last state.

    A finished run is returned as it is. A resumed one may have some fields changed,
    `config.FROM_HERE_ON` and `config.FREE`: it prints which, and starts.jsonl in its
    folder keeps the experiment from each start on. After a change of the batch size it
    reads on from the image where it was, and the learning rate follows the images seen.
    With `progress`, process 0 reports on stderr. `profile` are the
    first and the last step to trace, `wandb` a project of Weights & Biases, `arguments`
    those of `jaxdiff train`, for report.html to say how to go on. All processes make the
    same call; a call outside the main thread trains, but no signal stops it.

    Raises:
        Stopped: SIGINT or SIGTERM came, and the state was saved.
        NotFinite: a loss, a gradient or a weight was not finite, and `on_nonfinite` is
            "stop" or was tried often enough; the last checkpoint is before it.
        ValueError: the folder is another experiment's, or the batch does not split.

    >>> from tempfile import TemporaryDirectory
    >>> from jaxdiff.networks import DiT
    >>> other = Experiment(network=DiT(label_dim=7))  # with 0, 10 or -1 it would train
    >>> with TemporaryDirectory() as folder:
    ...     fit(other, folder, progress=False)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: network.label_dim is 7, but the data have 10 classes: use their number, ...
    """
    setup.require_alike(experiment)
    workdir, verbose = place(workdir), progress and processes.first()
    clock, traced = Clock(), Profile(workdir / "profile", *profile)
    with (
        run_folder.alone(workdir),
        checkpoint.checkpoints(workdir, experiment.keep, experiment.keep_every) as saved,
        stoppable() as stop,
        closing(traced),
    ):
        with clock("start"):
            run, state = prepared(experiment, workdir, saved, verbose, arguments)
        attempt, base, whole = 0, int(state.step), False
        traced.require_ahead(base, experiment.steps)
        while True:
            first = int(state.step)
            e = run.experiment
            more = run.more_images
            with reporting(e, workdir, first, clock, verbose, wandb, more) as report:
                try:
                    state = steps(run, state, report, clock, stop, traced)
                    with clock("checkpoints"), doing("writing the checkpoint", verbose):
                        saved.wait()
                    n = int(state.step)
                    there = report.reported(n) if first == n else (False, False)
                    whole = n >= e.steps and make_due(
                        run, n, state, report, clock, stop, there
                    )
                    break
                except NotFinite as error:
                    with clock("roll back"):
                        saved.wait()
                        newest = max(saved.steps(), default=0)
                        attempt, base = attempt + 1 if newest == base else 1, newest
                        run, state = rolled_back(run, error, attempt)
        if verbose and clock.is_meaningful:
            say(str(clock))
    if not whole:
        raise Stopped(int(state.step), stop.signal or signal.SIGTERM)
    return state


def prepared(
    experiment: Experiment,
    workdir: Place,
    saved: checkpoint.Checkpoints,
    verbose: bool,
    arguments: Sequence[str] = (),
) -> tuple[Run, TrainState]:
    """The run and the state that it starts from; prints both with `verbose`."""
    part = experiment.batch_size // experiment.accumulation
    mesh = sharding.mesh_for(part, experiment.fsdp)
    with doing("reading the data", verbose):
        dataset = experiment.data.load()
    e = resolve(experiment, dataset)
    if verbose:
        summary.say_all(summary.of_data(e, dataset))
    setup.require_path(e.schedule)
    setup.require_finite_objective(e)
    probe = magnitudes.probe(e)
    draw = generate.sampler(e) if e.sample_every or e.eval_every else None
    if draw:  # a VAE that cannot decode the pictures is refused now, not at the first
        data.encoder_of(e.data).image_shape(e.data.shape)
    making = "making the network, which compiles too the first time"
    with doing("restoring the run" if saved.steps() else making, verbose):
        at = setup.first_or_last(saved, mesh, workdir, e, dataset)
    first = int(at.state.step)
    if processes.first():
        run_folder.describe(workdir, e, dataset.classes)
        provenance.started(workdir, first, to_dict(e), at.lines, arguments)
    if verbose:
        summary.say_all(summary.of_run(e, workdir, mesh, at.state.params, first))
        summary.say_all(summary.of_start(at.lines))
    with doing("measuring the data", verbose):
        setup.save_statistics(e, workdir, dataset)
    examine = None
    if e.eval_every:
        with doing("preparing the scores", verbose):
            examine = examiner(e, workdir, dataset, draw, mesh)
    more = at.images - first * e.batch_size
    step = compiled_step(e, mesh, more)
    parts = workdir, mesh, dataset, saved, step, probe, draw, examine, more, verbose
    return Run(e, *parts), at.state


def steps(
    run: Run,
    state: TrainState,
    report: Reporter,
    clock: Clock,
    stop: Stop,
    profile: Profile,
) -> TrainState:
    """The remaining steps, or those until a stop is requested.

    Raises:
        NotFinite: as `fit`; what was saved is before it.
    """
    e, mesh, first = run.experiment, run.mesh, int(state.step)
    rows = sharding.rows(mesh, e.batch_size)
    more = run.more_images
    read = data.batches(run.dataset, e.batch_size, e.seed, first, rows, more)
    batches = sharding.ahead(read, mesh)
    for n in range(first + 1, e.steps + 1):
        with clock("data"):
            batch = next(batches)
        looking = bool(e.magnitudes_every) and n % e.magnitudes_every == 0
        with clock("magnitudes"):
            before = copied(state) if looking else None
        with (
            compiling(run, clock) if n == first + 1 else nullcontext(),
            profile.step(n, state),
            jax.transfer_guard("disallow"),
        ):
            state, metrics = run.step(state, batch)
            report.made(metrics, wait=n == first + 1)
            clock.made += 1
        with clock("tracing"):
            profile.after(n, state)
        stopping = stop.after(n)  # read once: only a step that is saved may stop the run
        last = n == e.steps or stopping
        if looking:
            with clock("magnitudes"):
                report.magnitudes(n, run.probe(before, state, batch))
        if last or n % e.log_every == 0:
            require_finite(state)
            report.numbers(n, data.skipped(run.dataset))
            require_some(n, report.skipped_in_a_row)
        if e.snapshot_every and (n == e.steps or n % e.snapshot_every == 0):
            require_finite(state)
            with clock("snapshots"):
                save_averages(run.workdir, e, state, run.images(n), run.dataset.classes)
        if (
            last or n % e.checkpoint_every == 0
        ):  # after everything that a restart would not repeat
            require_finite(state)
            with clock("checkpoints"):
                run.saved.save(n, state, e, run.images(n), data.identity(run.dataset))
        if stopping:
            break
        if n < e.steps:
            make_due(run, n, state, report, clock, stop)
    return state


@contextmanager
def compiling(run: Run, clock: Clock) -> Iterator[None]:
    """The first step of a start, which compiles it."""
    what = "compiling the training step, about a minute the first time"
    with clock("compiling"), doing(what, run.verbose):
        yield


def make_due(
    run: Run,
    n: int,
    state: TrainState,
    report: Reporter,
    clock: Clock,
    stop: Stop,
    there: tuple[bool, bool] = (False, False),
) -> bool:
    """Makes the pictures and scores that are due at step n; False if a stop is pending.

    Those that are `there` are not made again.
    """
    e, work = run.experiment, []

    def picture() -> None:
        what = doing(f"drawing samples of step {n}", run.verbose)
        with clock("pictures"), what, warning_if_not_finite(n, "picture"):
            images = show(e, run.draw, state, run.mesh)
            report.picture(n, images, run.dataset.classes)

    def scores() -> None:
        what = doing(f"scoring {e.eval_images} images of step {n}", run.verbose)
        with clock("scores"), what, warning_if_not_finite(n, "scores"):
            report.quality(n, run.examine(state))

    kinds = (e.sample_every, picture), (e.eval_every, scores)
    for (every, make), made in zip(kinds, there, strict=True):
        if every and (n == e.steps or n % every == 0) and not made:
            work.append(make)
    work += (
        [report.page] if work and n < e.steps else []
    )  # at the end, `reporting` writes it
    return all(stop.unless_stopped(make) for make in work)


def rolled_back(run: Run, error: NotFinite, attempt: int) -> tuple[Run, TrainState]:
    """The run at its newest checkpoint, to continue from there with new noise.

    The run's key is replaced at each attempt, as the same noise would fail again.

    Raises:
        NotFinite: `on_nonfinite` is not "roll_back", or it was tried often enough.
    """
    e = run.experiment
    if e.on_nonfinite != "roll_back":
        raise error
    if attempt > ROLL_BACKS:
        raise NotFinite(
            f"{error}. It was rolled back {ROLL_BACKS} times, with other noise each time"
        ) from error
    at = setup.first_or_last(run.saved, run.mesh, run.workdir, e, run.dataset)
    state, step = at.state, int(at.state.step)
    if (more := at.images - step * e.batch_size) != run.more_images:
        again = compiled_step(e, run.mesh, more)
        run = dataclasses.replace(run, more_images=more, step=again)
    warnings.warn(
        f"{str(error).split(';')[0]}: going back to step {step}, and on from "
        f"there with other noise ({attempt} of {ROLL_BACKS} times)",
        stacklevel=2,
    )
    other = jax.jit(jax.random.fold_in, out_shardings=sharding.replicated(run.mesh))
    key = other(state.key, jnp.uint32(ROLLED + attempt))
    return run, dataclasses.replace(state, key=key)


ROLLED = 0x0BADF10A
"""Separates the keys of rolled-back runs from those of steps."""


def require_finite(state: TrainState) -> None:
    """Checks the device's flag of values that are not finite.

    Raises:
        NotFinite: it is set.

    >>> from jaxdiff.runs.state import TrainState
    >>> state = TrainState(*6 * [None], first_bad=jax.numpy.int32(6))
    >>> require_finite(state)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jaxdiff.train.loop.NotFinite: ... not finite at step 7; nothing was saved since, ...
    """
    bad = int(jax.device_get(state.first_bad))
    if bad >= 0:
        raise NotFinite(
            f"the loss, a gradient or a weight was not finite at step {bad + 1}; nothing "
            "was saved since, and checkpoints before it are whole. Look at the data, or "
            "train in another --workdir with a lower optimizer.learning_rate"
        )


def require_some(step: int, skipped: int) -> None:
    """Limits the consecutive skipped steps to `PATIENCE`.

    Raises:
        NotFinite: the last `skipped` steps were all skipped, which is too many.
    """
    if skipped >= PATIENCE:
        raise NotFinite(
            f"the loss, a gradient or a weight was not finite at step {step}; all of the "
            f"{skipped} steps up to it were skipped for it. Look at the data, or train in "
            "another --workdir with a lower optimizer.learning_rate"
        )


def copied(state: TrainState) -> PyTree:
    """A copy of the parameters, before a step to which they are donated.

    Waits before and after: a CPU split into devices deadlocks when copies and a step's
    collectives share its few threads.
    """
    jax.block_until_ready(state)
    return jax.block_until_ready(jax.tree.map(jnp.copy, state.params))
