"""From variables to images: `sample` with an experiment's settings, in batches, by seed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from jaxdiff import data
from jaxdiff.config import Experiment
from jaxdiff.networks import require_labels
from jaxdiff.runs.guided_denoiser import GuidanceWeights, Guides, guided
from jaxdiff.runs.programs import kept
from jaxdiff.runs.state import labelled
from jaxdiff.runtime.equal_batches import equal_batches
from jaxdiff.runtime.finite import require_finite
from jaxdiff.runtime.progress import bar, compiling
from jaxdiff.sampling import sample

Draw = Callable[..., Float[Array, "B H W C"]]
"""(variables, keys, labels) -> x0; an editor's also takes the image and the known mask."""


def sampler(
    experiment: Experiment,
    guides: Guides = Guides(),
) -> Draw:
    """The compiled sampler that `experiment.sampling` describes, guided as in `guided`.

    (variables, keys, labels) -> x0. The levels are constants of the program, so that
    solvers can compute their coefficients in float64.
    """
    return compiled(from_noise, experiment, guides)


def from_noise(experiment: Experiment) -> Callable[..., Float[Array, "B H W C"]]:
    """(denoise, cond, keys) -> x0 from pure noise, for `compiled`."""
    s, shape = experiment.sampling, experiment.data.shape
    levels = s.grid(experiment.schedule, s.steps)
    return lambda denoise, cond, keys: sample(denoise, cond, keys, shape, levels, s.solver)


def compiled(
    make: Callable[..., Callable[..., PyTree[Array]]],
    experiment: Experiment,
    guides: Guides = Guides(),
    *options: Any,
) -> Callable[..., PyTree[Array]]:
    """Compiles make(experiment, *options), a function (denoise, cond, keys, …) -> results.

    The compiled function takes (variables, keys, labels, …). Guidance weights are
    arguments of the program, and the last programs are `kept`: a new weight, or the same
    call again, compiles nothing.
    """
    s, weights = experiment.sampling, guides.weights(experiment.sampling)
    on = {
        "guidance": float(bool(s.guidance or s.plus_plus)),
        "noise_guidance": float(bool(s.noise_guidance)),
        "classifier_guidance": float(bool(s.classifier_guidance)),
    }
    alike = dataclasses.replace(experiment, sampling=dataclasses.replace(s, **on))
    program = _program(make, alike, guides.networks, *options)

    def call(
        variables: PyTree,
        keys: Key[Array, " B"],
        label: Int[Array | np.ndarray, " B"],
        *more: PyTree,
    ) -> PyTree[Array]:
        require_labels(label, experiment.network.label_dim)
        return program(variables, keys, label, weights, *more)

    return call


@kept(16)
def _program(
    make: Callable[..., Callable[..., PyTree[Array]]],
    experiment: Experiment,
    guides: tuple[Experiment | None, ...],
    *options: Any,
) -> Callable[..., PyTree[Array]]:
    """The compiled program for any nonzero values of the weights in use."""
    denoiser = guided(experiment, *guides)
    run = make(experiment, *options)

    @jax.jit
    def program(
        variables: PyTree,
        keys: Array,
        label: Array,
        weights: GuidanceWeights,
        *more: PyTree,
    ) -> PyTree[Array]:
        denoise, cond = denoiser(variables, weights), labelled(experiment, label)
        return run(denoise, cond, keys, *more)

    return program


def image_keys(seeds: Int[np.ndarray, " B"]) -> Key[Array, " B"]:
    """The key of each image, distinct from all keys of training.

    Raises:
        ValueError: a seed outside 0 ... 2^32 - 1, which would alias another.
    """
    require_seeds(seeds)
    key = lambda seed: jax.random.fold_in(jax.random.key(seed), SAMPLING)
    return jax.vmap(key)(jnp.asarray(seeds, jnp.uint32))


def require_seeds(seeds: Int[np.ndarray, " N"]) -> None:
    """Rejects seeds outside 0 ... 2^32 - 1.

    Raises:
        ValueError: the smallest and the largest of them.
    """
    if seeds.min() < 0 or seeds.max() >= 2**32:
        raise ValueError(
            f"seeds must lie in 0 ... 2^32 - 1, got {seeds.min()} ... {seeds.max()}: "
            "start from a smaller one, or draw fewer images"
        )


SAMPLING = 0x5A3B1E
"""Folded into image keys, so that they differ from those of a run with the same seed."""


def images(
    draw: Draw,
    variables: PyTree,
    encoder: data.Encoder,
    seeds: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
    mesh: Mesh,
    batch: int,
    *,
    more: tuple[Shaped[np.ndarray, "N ..."] | None, ...] = (),
    what: str = "samples",
    progress: bool = False,
) -> Shaped[np.ndarray, "N H W C"]:
    """One image per seed, drawn `batch` at a time over the mesh and decoded.

    `more` are further arguments of `draw` for each image, after key and label. An image
    depends only on these: a batch that is not full, or does not split over the devices, is
    padded with images that are discarded. `what` names the results in messages.

    Raises:
        NotFiniteError: some x0 is NaN or infinite; the message names their seeds.
        ValueError: a seed outside 0 ... 2^32 - 1.
    """
    require_seeds(seeds)
    parts, arrays = [], (seeds, label.astype(np.int32), *more)
    with bar(total=len(seeds), unit="images", desc="drawing", show=progress) as done:
        for some in equal_batches(len(seeds), batch, mesh):
            rows = jax.tree.map(lambda a, some=some: a[some.numbers], arrays)
            placed = some.put((image_keys(rows[0]), *rows[1:]))
            with compiling(done, first=some.first):
                x0 = some.fetch(draw(variables, *placed))
            require_finite(x0, what, seeds[some.items])
            parts.append(encoder.decode(x0, mesh))
            done.update(some.count)
    return np.concatenate(parts)
