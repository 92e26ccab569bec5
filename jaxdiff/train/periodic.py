"""What a run makes from its averages during training: snapshots, pictures, scores."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import UInt8

from jaxdiff import data, evaluation
from jaxdiff.config import Experiment
from jaxdiff.evaluation.extractors.extractor import extractor
from jaxdiff.runs import generate, snapshots
from jaxdiff.runs.state import TrainState, ema_variables
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.files import PathLike, place
from jaxdiff.runtime.finite import NotFiniteError


def save_averages(
    workdir: PathLike,
    experiment: Experiment,
    state: TrainState,
    images: int,
    classes: tuple[str, ...] = (),
) -> None:
    """Writes the tracked averages as snapshots; a repeated step writes the same files.

    `images` is the number seen so far, `classes` the names of the data's classes.
    """
    step = int(state.step)
    for std in experiment.optimizer.lengths:
        variables = processes.on_host(ema_variables(experiment, state, std))
        if not processes.first():
            continue
        snapshot = snapshots.Snapshot(experiment, variables, std, step, images, classes)
        snapshots.write(
            place(workdir) / snapshots.TRACKED, snapshot, dtype=experiment.snapshot_dtype
        )


@contextmanager
def warning_if_not_finite(step: int, what: str) -> Iterator[None]:
    """Turns NotFiniteError into a warning that `what` is missing at this step."""
    try:
        yield
    except NotFiniteError as error:
        warnings.warn(f"no {what} at step {step}: {error}", stacklevel=3)


def show(
    experiment: Experiment, draw: generate.Draw, state: TrainState, mesh: Mesh
) -> UInt8[np.ndarray, "N H W C"]:
    """The images of a run's picture, with seeds 0, 1, … and the classes in turn."""
    seeds = np.arange(experiment.sampling.images)
    label = seeds % max(experiment.network.label_dim, 1)
    variables = ema_variables(experiment, state, experiment.sampling.std)
    encoder = data.encoder_of(experiment.data)
    decoded = generate.images(draw, variables, encoder, seeds, label, mesh, len(seeds))
    return encoder.preview(decoded)


def examiner(
    experiment: Experiment,
    workdir: PathLike,
    dataset: data.Dataset,
    draw: generate.Draw,
    mesh: Mesh,
) -> Callable[[TrainState], Mapping[str, float]]:
    """A function that scores a run's images, with fixed seeds and the data's label shares.

    Every process scores all images, since the others could only wait.

    Raises:
        ValueError: the data are not pixels, or an extractor's weights are missing.

    >>> from tempfile import TemporaryDirectory
    >>> from jaxdiff.networks import DiT
    >>> from jaxdiff.train import initial_state
    >>> settings = {"batch_size": 16, "eval_images": 20, "eval_extractors": ("pixels8",)}
    >>> e = Experiment(network=DiT(width=8, depth=1, heads=2), **settings)
    >>> black = lambda variables, keys, label: -jax.numpy.ones((len(keys), 8, 8, 1))
    >>> mesh = sharding.data_mesh()
    >>> with TemporaryDirectory() as folder:
    ...     examine = examiner(e, folder, e.data.load(), black, mesh)
    ...     metrics = examine(initial_state(e, mesh))
    >>> metrics["recall_pixels8"], metrics["brightness"] < 0
    (0.0, True)
    """
    e, encoder = experiment, data.encoder_of(experiment.data)
    here = sharding.data_mesh(jax.local_devices())
    extractors = [extractor(name) for name in e.eval_extractors]
    judge = evaluation.judge_of(e.data, extractors, here, place(workdir) / "quality")
    seeds, label = np.arange(e.eval_images), np.full(e.eval_images, -1)
    if e.network.label_dim:
        label = evaluation.labels_like(dataset, e.eval_images)

    def examine(state: TrainState) -> Mapping[str, float]:
        variables = ema_variables(e, state, e.sampling.std)
        batch = e.sampling.images  # as for pictures, to reuse their compiled program
        images = generate.images(draw, variables, encoder, seeds, label, mesh, batch)
        return judge(evaluation.in_memory(images))[0]

    return examine
