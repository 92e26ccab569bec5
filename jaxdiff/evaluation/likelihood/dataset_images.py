"""Images with keys of their own, batch by batch over the mesh."""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Int, Key

from jaxdiff.config import Experiment
from jaxdiff.data import Dataset, Pixels, encoder_of
from jaxdiff.runtime.equal_batches import equal_batches


@dataclass(frozen=True)
class Part:
    """B images, of which the first `count`, `numbers`, were asked for; others fill up."""

    count: int
    numbers: Int[np.ndarray, " n"]
    keys: Key[Array, " B"]
    image: Array
    label: Int[Array, " B"]


def check(experiment: Experiment) -> None:
    """Refuses what has no bits/dim.

    Raises:
        ValueError: the data are not pixels, or the network denoises nothing.
    """
    if encoder_of(experiment.data) != Pixels():
        raise ValueError(
            f"bits/dim are of pixels of 256 levels, but {experiment.data} has none: "
            "measure a run on pixels"
        )
    if what := experiment.network.estimates:
        raise ValueError(
            f"this run estimates the {what} and gives images no likelihood: measure the "
            f"run that it started from, {experiment.init_from or 'a denoiser'}"
        )


def count_of(dataset: Dataset, number: int) -> int:
    """How many images the first `number` are; 0 is all.

    Raises:
        ValueError: fewer than two, which have no standard error.
    """
    count = min(number or len(dataset), len(dataset))
    if count < 2:
        raise ValueError(f"a standard error needs at least 2 images, got {count}")
    return count


def parts(
    dataset: Dataset, mesh: Mesh, number: int, batch: int, seed: int
) -> Iterator[Part]:
    """The first `number` images (0: all), `batch` at a time, split over the mesh.

    Image i has key fold_in(seed, i), whatever the batch and the devices.
    """
    count = count_of(dataset, number)
    root = jax.random.key(seed)
    for some in equal_batches(count, batch, mesh):
        rows = dataset.take(some.numbers)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(root, some.numbers)
        placed = some.put((keys, rows["image"], rows["label"]))
        yield Part(some.count, some.items, *placed)
