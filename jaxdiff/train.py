"""Training: one jit-compiled step, and a loop that is read from top to bottom once."""

import dataclasses
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Key, PyTree, UInt8
from tqdm import tqdm

from jaxdiff import checkpoint, data, pictures, sharding, writers
from jaxdiff.config import Experiment
from jaxdiff.denoisers import denoiser
from jaxdiff.guidance import guide, without
from jaxdiff.sampling import sample
from jaxdiff.schedules import corrupt
from jaxdiff.state import (
    TrainState,
    ema_denoiser,
    init_state,
    labelled,
    learning_rate,
    optimizer,
)
from jaxdiff.types import Condition

Batch = dict[str, Array]
Metrics = dict[str, Float[Array, ""]]


class NotFinite(ValueError):
    """A loss or a gradient was not finite; the message names the step."""


def make_step(
    experiment: Experiment,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The training step: (state, batch) -> (state, metrics), pure, to be jitted.

    The batch is {"image": [B, H, W, C] uint8, "label": [B] int32}. The way it takes:
    draw t, corrupt, withhold conditions, denoise, loss, gradients, Optax chain.
    """
    e, tx, rate = experiment, optimizer(experiment), learning_rate(experiment)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        keys = jax.random.split(jax.random.fold_in(state.key, state.step), 4)
        t_key, noise_key, condition_key, dropout_key = keys
        x0 = batch["image"].astype(jnp.float32) / 127.5 - 1
        per_image = (x0.shape[0],) + (1,) * (x0.ndim - 1)
        t, importance = e.times.draw(state.times, t_key, per_image, e.schedule)
        noised = corrupt(noise_key, x0, t, e.schedule)
        cond = withhold(condition_key, batch["label"], e)

        def objective(params: PyTree) -> tuple[Float[Array, ""], Float[Array, " B"]]:
            variables = {"params": params, "constants": state.constants}
            denoise = denoiser(training(e, dropout_key), variables, e.parameterization)
            losses = e.loss(denoise(noised.x, noised.at, cond), noised)
            return e.loss_scale * jnp.mean(importance.reshape(-1) * losses), losses

        (loss, losses), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        bad = ~(jnp.isfinite(loss) & all_finite(grads))
        state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
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
    return jnp.all(jnp.stack([jnp.isfinite(a).all() for a in jax.tree.leaves(tree)]))


def make_sampler(
    experiment: Experiment, std: float
) -> Callable[[TrainState, Key[Array, " B"], Array], Float[Array, "B H W C"]]:
    """(state, keys [B], labels [B]) -> images in [-1, 1], as `experiment.sampling` says.

    To be jitted; the weights are those of the EMA of width `std`.
    """
    s = experiment.sampling
    levels = s.grid(experiment.schedule, s.steps)

    def draw(
        state: TrainState, keys: Key[Array, " B"], label: Array
    ) -> Float[Array, "B H W C"]:
        denoise = ema_denoiser(experiment, state, std)
        if s.guidance:
            denoise = guide(denoise, (without(denoise, "label"), s.guidance))
        cond = labelled(experiment, label)
        return sample(denoise, cond, keys, experiment.data.shape, levels, s.solver)

    return draw


def draw_images(
    draw: Callable, state: TrainState, seeds: np.ndarray, label: np.ndarray, mesh: Mesh
) -> UInt8[np.ndarray, "N H W C"]:
    """Images by seed, computed in one batch that is filled up to split over the mesh."""
    extra = -len(seeds) % mesh.size
    seeds, label = (np.pad(a, (0, extra), mode="edge") for a in (seeds, label))
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds))
    batch = jax.device_put((keys, label.astype(np.int32)), sharding.split(mesh))
    images = pictures.to_uint8(np.asarray(draw(state, *batch)))
    return images[: len(seeds) - extra]


def fit(experiment: Experiment, workdir: Path, *, progress: bool = True) -> TrainState:
    """Trains, or goes on training, in the run's folder; returns the last state.

    Raises:
        NotFinite: a loss or gradient was not finite; the last checkpoint is before it.
        KeyboardInterrupt: SIGINT or SIGTERM, after the state was saved.
        ValueError: the folder is another experiment's, or the batch does not split.
    """
    mesh = sharding.data_mesh()
    sharding.require_divisible(experiment.batch_size, mesh)
    checkpoint.claim(workdir, experiment)
    everywhere, over_batch = sharding.replicated(mesh), sharding.split(mesh)
    step = jax.jit(
        make_step(experiment),
        in_shardings=(everywhere, over_batch),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )
    draw = jax.jit(make_sampler(experiment, experiment.sampling.std))

    with checkpoint.checkpoints(workdir, experiment.keep) as saved, stoppable() as stop:
        if saved.steps():
            state, _ = saved.restore(sharding=everywhere)
        else:
            state = jax.jit(lambda: init_state(experiment), out_shardings=everywhere)()
        first = int(state.step)
        batches = data.batches(
            experiment.data.load(), experiment.batch_size, experiment.seed, first
        )
        log = open_writers(workdir, first, progress)
        bar = tqdm(
            total=experiment.steps * experiment.batch_size,
            initial=first * experiment.batch_size,
            unit="img",
            unit_scale=True,
            disable=not progress,
            dynamic_ncols=True,
        )
        clock, recent = time.perf_counter(), []
        for n in range(first + 1, experiment.steps + 1):
            state, metrics = step(state, sharding.put_batch(next(batches), mesh))
            recent.append(metrics)
            bar.update(experiment.batch_size)
            last = n == experiment.steps or stop()
            if n % experiment.log_every == 0 or last:
                require_finite(state)
                values = means(recent)
                took = time.perf_counter() - clock
                values["images_per_s"] = len(recent) * experiment.batch_size / took
                log.scalars(n, values)
                bar.set_postfix(loss=f"{values['loss']:.4f}")
                clock, recent = time.perf_counter(), []
            if n % experiment.checkpoint_every == 0 or last:
                require_finite(state)
                saved.save(n, state, experiment)
            if n % experiment.sample_every == 0 or n == experiment.steps:
                picture = show(experiment, draw, state, mesh, workdir / "samples", n)
                log.image(n, "samples", picture)
                clock = time.perf_counter()
            if stop():
                break
        bar.close()
        log.close()
        saved.wait()
    if stop():
        raise KeyboardInterrupt
    return state


def require_finite(state: TrainState) -> None:
    """Looks at the flag on the device.

    Raises:
        NotFinite: it was raised.
    """
    bad = int(state.first_bad)
    if bad >= 0:
        raise NotFinite(
            f"the loss or a gradient was not finite at step {bad + 1}; nothing was saved "
            "since. Lower optimizer.learning_rate, lengthen optimizer.rampup_images, or "
            "look at the data; the same command goes on from the last checkpoint"
        )


def means(recent: list[Metrics]) -> dict[str, float]:
    """The mean of each metric, in one transfer."""
    rows = jax.device_get(recent)
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def open_writers(workdir: Path, start: int, progress: bool) -> writers.All:
    """Terminal, JSONL and TensorBoard, on the first process alone."""
    if jax.process_index() > 0:
        return writers.All([])
    terminal = [writers.Terminal()] if progress else []
    files = [
        writers.JSONL(workdir / "metrics.jsonl", start),
        writers.TensorBoard(workdir / "tensorboard", start),
    ]
    return writers.All([*terminal, *files])


def show(
    experiment: Experiment,
    draw: Callable,
    state: TrainState,
    mesh: Mesh,
    folder: Path,
    step: int,
) -> UInt8[np.ndarray, "H W C"]:
    """Draws and saves the picture of a step: one class a column, seeds 0, 1, …"""
    count, classes = experiment.sampling.images, max(experiment.network.label_dim, 1)
    columns = classes if 1 < classes <= 20 else 0
    seeds, label = np.arange(count), np.arange(count) % classes
    images = draw_images(draw, state, seeds, label, mesh)
    return pictures.save_grid(folder / f"{step:07d}.png", images, columns)


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
