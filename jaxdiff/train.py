"""Training: one jit-compiled step, and a loop that is read from top to bottom once."""

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key, PyTree, UInt8
from tqdm import tqdm

from jaxdiff import (
    checkpoint,
    data,
    generate,
    losses,
    magnitudes,
    networks,
    pictures,
    quality,
    sharding,
    snapshots,
    writers,
)
from jaxdiff.config import Experiment, differences, parts, resolve
from jaxdiff.data import statistics
from jaxdiff.denoisers import denoiser
from jaxdiff.features.extractor import extractor
from jaxdiff.files import write_atomically
from jaxdiff.schedules import corrupt
from jaxdiff.state import TrainState, ema_variables, init_state, labelled
from jaxdiff.types import Condition
from jaxdiff.weightings import require_finite_mean

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]
METRICS = ("loss", "grad_norm", "learning_rate")


class NotFinite(ValueError):
    """A loss or a gradient was not finite; the message names the step."""


def make_step(
    experiment: Experiment,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The training step: (state, batch) -> (state, metrics), pure, to be jitted.

    The batch is {"image": what is stored, "label": [B] int32}. The way it takes: encode,
    draw t, corrupt, withhold conditions, denoise, loss, gradients, Optax chain.
    """
    e = experiment
    tx = e.optimizer.transformation(e.batch_size)
    rate = e.optimizer.schedule(e.batch_size)
    encoder = data.encoder_of(e.data)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), 5)
        t_key, noise_key, condition_key, dropout_key, data_key = keys
        x0 = encoder.encode(data_key, batch["image"])
        per_image = (x0.shape[0],) + (1,) * (x0.ndim - 1)
        t, importance = e.times.draw(state.times, t_key, per_image, e.schedule)
        noised = corrupt(noise_key, x0, t, e.schedule)
        cond = withhold(condition_key, batch["label"], e)

        def objective(
            params: PyTree, part: tuple, key: Key[Array, ""]
        ) -> tuple[Float[Array, ""], Float[Array, " b"]]:
            noised, cond, importance = part
            variables = {"params": params, "constants": state.constants}
            denoise = denoiser(training(e, key), variables, e.parameterization)
            losses = e.loss(denoise(noised.x, noised.at, cond), noised)
            scale = e.loss_scale * x0[0].size
            return scale * jnp.mean(importance.reshape(-1) * losses), losses

        gradient = jax.value_and_grad(objective, has_aux=True)
        whole = (noised, cond, importance)
        (loss, losses), grads = accumulated(
            gradient, state.params, whole, dropout_key, e.accumulation
        )
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        bad = ~all_finite((loss, grads, params, opt_state))
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            times=e.times.update(state.times, t, losses),
            first_bad=jnp.where((state.first_bad < 0) & bad, state.step, state.first_bad),
        )
        metrics = {
            "loss": jnp.mean(losses),
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": jnp.float32(rate(state.step - 1)),
        }
        return state, metrics

    return step


def accumulated(
    gradient: Callable, params: PyTree, whole: PyTree, key: Key[Array, ""], rounds: int
) -> tuple[tuple[Float[Array, ""], Float[Array, " B"]], PyTree]:
    """((loss, losses), gradient) of a batch, taken in so many equal parts in turn.

    Memory holds the activations of one part. The mean over parts is that over the batch;
    image i is in part i mod rounds, so that every device has its share of each.
    """
    if rounds == 1:
        return gradient(params, whole, key)
    parts = jax.tree.map(
        lambda a: jnp.swapaxes(a.reshape(-1, rounds, *a.shape[1:]), 0, 1), whole
    )

    def add(total: PyTree, numbered: tuple) -> tuple[PyTree, Float[Array, " b"]]:
        part, number = numbered
        (loss, losses), grads = gradient(params, part, jax.random.fold_in(key, number))
        return jax.tree.map(lambda t, g: t + g / rounds, total, (loss, grads)), losses

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (loss, grads), losses = jax.lax.scan(add, zero, (parts, jnp.arange(rounds)))
    return (loss, losses.T.reshape(-1)), grads


def training(experiment: Experiment, dropout_key: Key[Array, ""]) -> Callable:
    """The network as it is applied in training: with dropout."""

    def apply(variables: PyTree, x: Array, c_noise: Array, cond: Condition) -> PyTree:
        rngs = {"dropout": dropout_key}
        return experiment.network.apply(variables, x, c_noise, cond, train=True, rngs=rngs)

    return apply


def withhold(key: Key[Array, ""], label: Array, experiment: Experiment) -> Condition:
    """The condition of a batch, parts of it withheld from random images."""
    label_key, noise_key = jax.random.split(key)
    hidden = jax.random.bernoulli(label_key, experiment.label_dropout, label.shape)
    cond = labelled(experiment, jnp.where(hidden, -1, label))
    if experiment.noise_dropout:
        told = 1 - experiment.noise_dropout
        noise = jax.random.bernoulli(noise_key, told, label.shape)
        cond = dataclasses.replace(cond, noise=noise)
    return cond


def all_finite(tree: PyTree) -> Bool[Array, ""]:
    """Whether every number of a tree is finite."""
    return jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves(tree)]).all()


def fit(experiment: Experiment, workdir: Path, *, progress: bool = True) -> TrainState:
    """Trains, or goes on training, in the run's folder; returns the last state.

    SIGINT and SIGTERM end it early, after the state was saved. A run that has all its
    steps is returned as it is.

    Raises:
        NotFinite: a loss, a gradient or what came of them was not finite; the last
            checkpoint is before it.
        ValueError: the folder is another experiment's, or the batch does not split.
    """
    if jax.process_count() > 1:
        raise ValueError("training runs in one process yet, with all of its devices")
    part = experiment.batch_size // experiment.accumulation
    mesh = sharding.mesh_for(part, experiment.fsdp)
    dataset = experiment.data.load()
    experiment = resolve(experiment, dataset)
    for term in parts(experiment.loss, losses.WeightedError):
        e = experiment
        require_finite_mean(term.weighting, e.parameterization, e.schedule, e.times)
    step = compiled_step(experiment, mesh)
    looks, pictured = experiment.magnitudes_every, experiment.sample_every
    evaluates = experiment.eval_every
    draw = generate.sampler(experiment) if pictured or evaluates else None
    probe = magnitudes.probe(experiment)

    with (
        checkpoint.alone(workdir),
        checkpoint.checkpoints(workdir, experiment.keep) as saved,
        stoppable() as stop,
    ):
        if saved.steps():
            state, before = saved.restore(mesh)
            require_same(workdir, before, experiment)
        else:
            state = begun(experiment, mesh)
        checkpoint.describe(workdir, experiment)
        known = data_statistics(experiment, workdir, len(dataset))
        examine = examiner(experiment, workdir, dataset, draw, mesh) if evaluates else None
        first, every = int(state.step), experiment.snapshot_every
        batches = data.batches(dataset, experiment.batch_size, experiment.seed, first)
        with reporting(experiment, workdir, first, progress) as report:
            for n in range(first + 1, experiment.steps + 1):
                batch = sharding.put_batch(next(batches), mesh)
                looking = looks and n % looks == 0
                before = copied(state) if looking else None
                state, metrics = step(state, batch)
                report.made(metrics)
                if looking:
                    report.magnitudes(n, probe(before, state, batch))
                stopping = stop()  # asked once: what is not saved must not stop the run
                last = n == experiment.steps or stopping
                if last or n % experiment.log_every == 0:
                    require_finite(state)
                    report.numbers(n, data.skipped(dataset))
                if last or n % experiment.checkpoint_every == 0:
                    require_finite(state)
                    saved.save(n, state, experiment, known)
                if every and (n == experiment.steps or n % every == 0):
                    require_finite(state)
                    save_averages(workdir, experiment, state)
                if pictured and (n == experiment.steps or n % pictured == 0):
                    with report.aside():
                        report.picture(n, show(experiment, draw, state, mesh))
                if evaluates and (n == experiment.steps or n % evaluates == 0):
                    with report.aside():
                        report.quality(n, examine(state))
                if stopping:
                    break
        saved.wait()
    return state


def compiled_step(
    experiment: Experiment, mesh: Mesh
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The step, its state donated and left where it was, its metrics on every device."""
    state = jax.eval_shape(lambda: init_state(experiment))
    places = sharding.shared(state, mesh), sharding.replicated(mesh)
    return jax.jit(make_step(experiment), donate_argnums=0, out_shardings=places)


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


def data_statistics(
    experiment: Experiment, workdir: Path, images: int
) -> statistics.Statistics | None:
    """What is known of the data, kept in the run's folder too; few data are measured.

    launch/measure_data.py measures many.
    """
    few = images <= MEASURED
    found = (statistics.measured if few else statistics.stored)(experiment.data)
    if found:
        statistics.save(workdir / "statistics.json", found)
    return found


MEASURED = 10_000
"""Images that are measured when training starts, which takes a second or so."""


def require_same(workdir: Path, before: Experiment, now: Experiment) -> None:
    """Refuses to go on with a run as if it were another.

    Raises:
        ValueError: it is another; the message says in what.
    """
    if lines := differences(before, now):
        raise ValueError(
            f"{workdir} holds another experiment ({'; '.join(lines)}): choose another "
            "--workdir, or delete this one"
        )


def require_finite(state: TrainState) -> None:
    """Looks at the flag on the device.

    Raises:
        NotFinite: it was raised.
    """
    bad = int(state.first_bad)
    if bad >= 0:
        raise NotFinite(
            f"the loss, a gradient or a weight was not finite at step {bad + 1}; nothing "
            "was saved since, and checkpoints before it are whole. Look at the data, or "
            "train in another --workdir with a lower optimizer.learning_rate"
        )


def copied(state: TrainState) -> PyTree:
    """The parameters, before a step that is donated them.

    Waits before and after: a CPU split into devices locks up when copies and a step's sums
    share its few threads.
    """
    jax.block_until_ready(state)
    return jax.block_until_ready(jax.tree.map(jnp.copy, state.params))


def save_averages(workdir: Path, experiment: Experiment, state: TrainState) -> None:
    """Writes the tracked averages as snapshots; a step made again writes the same."""
    step = int(state.step)
    for std in experiment.optimizer.stds:
        variables = jax.device_get(ema_variables(experiment, state, std))
        images = step * experiment.batch_size
        snapshot = snapshots.Snapshot(experiment, variables, std, step, images)
        snapshots.write(
            workdir / snapshots.TRACKED, snapshot, dtype=experiment.snapshot_dtype
        )


def show(
    experiment: Experiment, draw: generate.Draw, state: TrainState, mesh: Mesh
) -> UInt8[np.ndarray, "N H W C"]:
    """The images of a run's picture: seeds 0, 1, …, and the classes in turn."""
    seeds = np.arange(experiment.sampling.images)
    label = seeds % max(experiment.network.label_dim, 1)
    variables = ema_variables(experiment, state, experiment.sampling.std)
    encoder = data.encoder_of(experiment.data)
    decoded = generate.images(draw, variables, encoder, seeds, label, mesh, len(seeds))
    return encoder.preview(decoded)


def examiner(
    experiment: Experiment,
    workdir: Path,
    dataset: data.Dataset,
    draw: generate.Draw,
    mesh: Mesh,
) -> Callable[[TrainState], Mapping[str, float]]:
    """What scores a run's images: always of the same seeds, and of labels like the data's.

    Raises:
        ValueError: the data are no pixels, or an extractor's weights are not there.
    """
    e, encoder = experiment, data.encoder_of(experiment.data)
    extractors = [extractor(name) for name in e.eval_extractors]
    judge = quality.judge_of(e.data, extractors, mesh, workdir / "quality")
    seeds, label = np.arange(e.eval_images), np.full(e.eval_images, -1)
    if e.network.label_dim:
        label = quality.labels_like(dataset, e.eval_images)

    def examine(state: TrainState) -> Mapping[str, float]:
        variables = ema_variables(e, state, e.sampling.std)
        batch = e.sampling.images  # that of pictures, whose program is compiled
        images = generate.images(draw, variables, encoder, seeds, label, mesh, batch)
        return judge(quality.in_memory(images))[0]

    return examine


class Reporter:
    """What a run tells the world: progress bar, metrics, pictures; made by `reporting`."""

    def __init__(
        self,
        experiment: Experiment,
        workdir: Path,
        bar: tqdm,
        log: writers.Writer,
        layers: writers.Writer,
    ) -> None:
        self._experiment, self._workdir = experiment, workdir
        self._bar, self._log, self._layers = bar, log, layers
        self._recent: list[Metrics] = []
        self._since: float | None = None

    def made(self, metrics: Metrics) -> None:
        """A step was made; its metrics stay on the device for now."""
        self._recent.append(metrics)
        self._bar.update(self._experiment.batch_size)

    def numbers(self, step: int, skipped: int = 0) -> None:
        """Writes the means since the last time, fetched in one transfer.

        And how many images were skipped as unreadable so far, where some were.
        """
        rows, self._recent = jax.device_get(self._recent), []
        values = {name: float(np.mean([row[name] for row in rows])) for name in METRICS}
        values |= {"skipped_images": float(skipped)} if skipped else {}
        now = time.perf_counter()
        if self._since is not None:  # the first steps wait for the compiler
            made = len(rows) * self._experiment.batch_size
            values["images_per_s"] = made / (now - self._since)
        self._since = now
        self._log.scalars(step, values)
        self._bar.set_postfix(loss=f"{values['loss']:.4f}")

    def magnitudes(self, step: int, values: magnitudes.Magnitudes) -> None:
        """Writes a line of magnitudes.jsonl."""
        self._layers.scalars(step, jax.tree.map(float, jax.device_get(values)))

    def picture(self, step: int, images: UInt8[np.ndarray, "N H W C"]) -> None:
        """Saves a picture; the latest is samples.png. One class a column, if few."""
        classes = self._experiment.network.label_dim
        columns = classes if 1 < classes <= 20 else 0
        path = self._workdir / f"samples/{step:07d}.png"
        self._log.image(step, "samples", pictures.save_grid(path, images, columns))
        png = path.read_bytes()
        write_atomically(self._workdir / "samples.png", lambda file: file.write(png))

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What is done inside is no training, and not counted as its time."""
        began = time.perf_counter()
        yield
        if self._since is not None:
            self._since += time.perf_counter() - began

    def quality(self, step: int, metrics: Mapping[str, float]) -> None:
        """Writes what images of this step score."""
        self._log.scalars(step, metrics)


@contextmanager
def reporting(
    experiment: Experiment, workdir: Path, first: int, progress: bool
) -> Iterator[Reporter]:
    """The reporter of a run that starts at a step, its files closed at the end.

    The bar shows on a terminal alone.
    """
    log = writers.open_all(workdir, first, progress)
    layers = writers.All([])
    if experiment.magnitudes_every:
        layers = writers.JSONL(workdir / "magnitudes.jsonl", first)
    size = experiment.batch_size
    with tqdm(
        total=experiment.steps * size,
        initial=first * size,
        unit="img",
        unit_scale=True,
        dynamic_ncols=True,
        disable=None if progress else True,
    ) as bar:
        try:
            yield Reporter(experiment, workdir, bar, log, layers)
        finally:
            log.close()
            layers.close()


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Makes SIGINT and SIGTERM ask for a stop; a second one stops at once."""
    asked = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
