"""How noisy a minibatch gradient is, from K of them at the same parameters.

A minibatch gives g_k = G + noise, with noise of covariance C. As the noises of two batches
are independent, the Gram matrix g_j . g_k of K gradients holds unbiased estimates of

    |G|^2           the mean of its entries off the diagonal
    |G|^2 + tr C    the mean of its diagonal

and tr C / |G|^2 is the relative variance of a gradient. Times the batch it is the gradient
noise scale, the batch at which noise and signal are equal in power.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Float64, Int, Key, PyTree, UInt8

from jaxdiff.config import Experiment
from jaxdiff.data import Dataset
from jaxdiff.runs.state import TrainState, labelled, run_denoiser
from jaxdiff.schedules import corrupt
from jaxdiff.types import LossTerm, Noised, Times

BATCH = 128


@dataclass(frozen=True)
class Noise:
    """Signal and noise of a minibatch gradient."""

    mean2: float
    """|G|^2; the estimate may be negative where noise drowns it."""
    trace: float
    """tr C."""
    ratio: float
    """tr C / |G|^2."""
    error: float
    """Standard error of the ratio, by leaving out one gradient at a time."""


def noise(gram: Float64[np.ndarray, "K K"]) -> Noise:
    """The noise of K >= 3 gradients with these inner products.

    >>> noise(np.array([[3.0, 1.0, 1.0], [1.0, 3.0, 1.0], [1.0, 1.0, 3.0]]))
    Noise(mean2=1.0, trace=2.0, ratio=2.0, error=0.0)
    """
    mean2, trace = _moments(gram)
    count = len(gram)
    kept = (np.delete(np.delete(gram, k, 0), k, 1) for k in range(count))
    ratios = np.array([b / a for a, b in map(_moments, kept)])
    error = np.sqrt((count - 1) * np.mean((ratios - ratios.mean()) ** 2))
    return Noise(mean2, trace, trace / mean2, float(error))


def _moments(gram: Float64[np.ndarray, "K K"]) -> tuple[float, float]:
    count, diagonal = len(gram), np.trace(gram)
    mean2 = (gram.sum() - diagonal) / (count * (count - 1))
    return float(mean2), float(diagonal / count - mean2)


def gram(
    experiment: Experiment,
    state: TrainState,
    loss: LossTerm,
    law: Times,
    memory: PyTree,
    data: Dataset,
    batches: int,
    seed: int = 0,
) -> Float64[np.ndarray, "K K"]:
    """Inner products of the gradients of a mean loss at a state's own parameters.

    Images are drawn anew for every batch, with t from the law and its importance weights;
    without dropout, so that every law and batch is of one and the same function.
    """

    @jax.jit
    def gradient(
        params: PyTree, memory: PyTree, key: Key[Array, ""], image: Array, label: Array
    ) -> Float[Array, " P"]:
        t_key, noise_key = jax.random.split(key)
        shape = (len(image), 1, 1, 1)
        t, importance = law.draw(memory, t_key, shape, experiment.schedule)
        noised = corrupt(noise_key, _pixels(image), t, experiment.schedule)

        def objective(params: PyTree) -> Float[Array, ""]:
            losses = _losses(experiment, state.constants, loss, params, noised, label)
            return jnp.mean(importance.reshape(-1) * losses)

        return ravel_pytree(jax.grad(objective)(params))[0]

    key, rows = jax.random.key(seed), []
    for k in range(batches):
        image, label = _drawn(data, np.random.default_rng([seed, k]))
        inputs = (state.params, memory, jax.random.fold_in(key, k), image, label)
        rows.append(np.asarray(gradient(*inputs)))
    columns = np.array_split(np.stack(rows), 32, axis=1)
    wide = (np.float64(part) for part in columns)
    return sum(part @ part.T for part in wide)


def filled(
    experiment: Experiment,
    state: TrainState,
    loss: LossTerm,
    law: Times,
    data: Dataset,
    seed: int = 1,
) -> PyTree:
    """A memory of the law in which every entry has `law.length` losses at the state."""

    @jax.jit
    def update(
        memory: PyTree, key: Key[Array, ""], entry: Array, image: Array, label: Array
    ) -> PyTree:
        t = ((entry + 1) / law.steps).reshape(-1, 1, 1, 1)
        noised = corrupt(key, _pixels(image), t, experiment.schedule)
        losses = _losses(experiment, state.constants, loss, state.params, noised, label)
        return law.update(memory, t, losses)

    memory, key, rng = law.init(), jax.random.key(seed), np.random.default_rng(seed)
    batches = -(-law.steps * law.length // BATCH)
    entries = np.arange(batches * BATCH) % law.steps
    for k, entry in enumerate(entries.reshape(batches, BATCH)):
        image, label = _drawn(data, rng)
        memory = update(memory, jax.random.fold_in(key, k), entry, image, label)
    return memory


def _losses(
    experiment: Experiment,
    constants: PyTree,
    loss: LossTerm,
    params: PyTree,
    noised: Noised,
    label: Array,
) -> Float[Array, " B"]:
    variables = {"params": params, "constants": constants}
    denoise = run_denoiser(experiment, variables)
    return loss(denoise(noised.x, noised.at, labelled(experiment, label)), noised)


def _drawn(
    data: Dataset, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "B H W C"], Int[np.ndarray, " B"]]:
    """A batch of images, drawn with replacement."""
    rows = data.source.take(rng.integers(len(data), size=BATCH))
    return rows["image"], rows["label"]


def _pixels(image: Array) -> Float[Array, "B H W C"]:
    return image.astype(jnp.float32) / 127.5 - 1
