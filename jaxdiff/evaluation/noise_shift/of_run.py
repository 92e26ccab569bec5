"""Noise shift of a run: what an estimator of the level says of the states that its sampler
passes, and of forward states of data, told the same classes [NAG].

Both run on one path: an estimator knows the marginals of the path that it was trained on.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree

from jaxdiff.config import Experiment
from jaxdiff.data import Dataset, encoder_of
from jaxdiff.evaluation import noise_shift
from jaxdiff.evaluation.noise_shift import Mean
from jaxdiff.runs import generate
from jaxdiff.runs.generate import image_keys, require_seeds
from jaxdiff.runs.guided_denoiser import Guides
from jaxdiff.runs.programs import kept
from jaxdiff.runs.state import labelled, run_denoiser
from jaxdiff.runtime.equal_batches import equal_batches
from jaxdiff.runtime.finite import MODEL_ADVICE, require_finite
from jaxdiff.runtime.progress import bar
from jaxdiff.sampling import normal, trajectory
from jaxdiff.types import Condition, Denoiser, NoiseLevel

Watch = Callable[[PyTree, PyTree, Key[Array, " B"], Array], tuple[Array, Array]]
"""(variables, the estimator's, keys, labels) -> x0 and estimates [N - 1, B]."""


def check(experiment: Experiment, estimator: Experiment, aware: bool) -> None:
    """Rejects runs and estimators without a shift to measure.

    Raises:
        ValueError: the one draws no images, the other says no level or knows other data or
            another path; or guidance without the noise level, of a network that always
            knew it.
    """
    train = "jaxdiff train --config=digits_nag"
    if what := experiment.network.estimates:
        raise ValueError(
            f"this run estimates the {what} and draws no images: measure the run that it "
            f"started from, {experiment.init_from or 'a denoiser'}"
        )
    if (other := estimator.network.estimates) != "noise level":
        raise ValueError(
            f"the estimator says {other and 'the '}{other or 'x0'} and no noise level; "
            "train one from the run: "
            f"{train}:level --config.init_from=RUN --workdir=runs/level"
        )
    for field in ("data.shape", "schedule"):
        ours, theirs = (_field(e, field) for e in (experiment, estimator))
        if ours != theirs:
            raise ValueError(
                f"the run's {field} is {ours}, the estimator's {theirs}: an estimator "
                "knows the states that it was trained on; train one for this run"
            )
    if aware and not experiment.noise_dropout:
        raise ValueError(
            "noise awareness guidance needs a network trained with noise_dropout, and this "
            f"run has 0; train the branch: {train}:finetune --config.init_from=RUN "
            "--workdir=runs/finetune"
        )


def inner_levels(experiment: Experiment) -> NoiseLevel:
    """The levels [N - 1] between the first of the run's grid and the last."""
    s = experiment.sampling
    return s.grid(experiment.schedule, s.steps)[1:-1]


def watcher(experiment: Experiment, estimator: Experiment) -> Watch:
    """The compiled sampler of `experiment.sampling`, watched by an estimator."""
    program = generate.compiled(_watched, experiment, Guides(), estimator)
    return lambda variables, estimating, keys, label: program(
        variables, keys, label, estimating, label
    )


def _watched(
    experiment: Experiment, estimator: Experiment
) -> Callable[..., tuple[Array, Array]]:
    """(denoise, cond, keys, the estimator's variables, labels) -> x0 and estimates."""
    s = experiment.sampling
    levels = s.grid(experiment.schedule, s.steps)

    def watch(
        denoise: Denoiser, cond: Condition, keys: Array, estimating: PyTree, label: Array
    ) -> tuple[Array, Array]:
        x = levels.sigma[0] * normal(keys, experiment.data.shape)
        way = trajectory(denoise, cond, keys, x, levels, s.solver)
        mean = level_mean(estimator, estimating, label)
        return way.x[-1], jax.lax.map(mean, way.x[1:-1])

    return watch


def level_mean(estimator: Experiment, variables: PyTree, label: Array) -> Mean:
    """x -> the mean of ln(sigma / alpha), which the estimator says of states of a class."""
    denoise = run_denoiser(estimator, variables)
    unread = NoiseLevel(jnp.ones(()), jnp.ones(()))
    cond = labelled(estimator, label)
    return lambda x: denoise(x, unread, cond).level[:, 0]


def sampled(
    watch: Watch,
    variables: tuple[PyTree, PyTree],
    seeds: Int[np.ndarray, " n"],
    label: Int[np.ndarray, " n"],
    mesh: Mesh,
    batch: int = 250,
    *,
    progress: bool = False,
) -> tuple[Float[np.ndarray, "n H W C"], Float[np.ndarray, "N n"]]:
    """x0 of n images, and the estimates of the N states before it; one image a seed.

    `variables` are the run's and the estimator's.

    Raises:
        ValueError: a seed outside 0 ... 2^32 - 1.
        NotFiniteError: some x0 or estimates are NaN or infinite.
    """
    require_seeds(seeds)
    x0, estimates = [], []
    parts = list(equal_batches(len(seeds), batch, mesh))
    for part in bar(parts, unit="batches", desc="watching", show=progress):
        keys, classes = image_keys(seeds[part.numbers]), label[part.numbers]
        placed = part.put((keys, classes.astype(np.int32)))
        drawn, level = watch(*variables, *placed)
        x0.append(part.fetch(drawn))
        estimates.append(part.fetch(level.T).T)
        require_finite(x0[-1], "samples", seeds[part.items])
        _require_estimates(estimates[-1], seeds[part.items], "seed")
    return np.concatenate(x0), np.concatenate(estimates, axis=1)


def forward(
    estimator: Experiment,
    variables: PyTree,
    dataset: Dataset,
    number: int,
    levels: NoiseLevel,
    mesh: Mesh,
    seed: int = 0,
    batch: int = 250,
    *,
    progress: bool = False,
) -> tuple[Float[np.ndarray, "N n"], Int[np.ndarray, " n"]]:
    """The estimates of forward states at N levels, and the classes of their images.

    The images are the data set's, in turn and again, each time under fresh noise; that
    of state i depends on `seed` and i alone.
    """
    rows = dataset.take(np.arange(number) % len(dataset))
    image, label = rows["image"], rows["label"]
    root = jax.random.key(seed)

    estimate, estimates = _forward(estimator, levels), []
    parts = list(equal_batches(number, batch, mesh))
    for part in bar(parts, unit="batches", desc="noising data", show=progress):
        placed = part.put((part.numbers, image[part.numbers], label[part.numbers]))
        level = estimate(variables, root, *placed)
        estimates.append(part.fetch(level.T).T)
        _require_estimates(estimates[-1], part.items, "image")
    return np.concatenate(estimates, axis=1), label


@kept(4)
def _forward(estimator: Experiment, levels: NoiseLevel) -> Callable[..., Array]:
    """(variables, key, numbers, images, labels) -> the estimates [N, B] of their states."""

    @jax.jit
    def estimate(
        variables: PyTree, root: Key[Array, ""], numbers: Array, image: Array, label: Array
    ) -> Array:
        def noisy(number: Array, image: Array) -> Array:
            first, second = jax.random.split(jax.random.fold_in(root, number))
            x0 = encoder_of(estimator.data).encode(first, image[None])
            keys = jax.random.split(second, levels.sigma.shape[0])
            return noise_shift.forward(keys, x0, levels)[:, 0]

        states = jax.vmap(noisy, out_axes=1)(numbers, image)
        return jax.lax.map(level_mean(estimator, variables, label), states)

    return estimate


def _require_estimates(
    levels: Float[np.ndarray, "N n"], numbers: Int[np.ndarray, " n"], unit: str
) -> None:
    """Refuses estimates of n states that are not finite at one of the N levels."""
    require_finite(
        levels.T, "estimates of the level", numbers, unit=unit, advice=MODEL_ADVICE
    )


def _field(experiment: Experiment, path: str) -> object:
    value: object = experiment
    for name in path.split("."):
        value = getattr(value, name)
    return value
