"""From variables to images: `sample` as an experiment says, in batches, by seed."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, PyTree, Shaped

from jaxdiff import data
from jaxdiff.config import Experiment
from jaxdiff.denoisers import Clipped
from jaxdiff.networks import LevelEstimator, require_labels
from jaxdiff.runs.state import labelled, run_denoiser
from jaxdiff.runtime import processes, sharding
from jaxdiff.runtime.finite import require_finite
from jaxdiff.runtime.progress import bar, compiling
from jaxdiff.sampling import editing, follow, normal, sample
from jaxdiff.sampling.guidance import Interval, PlusPlus, noise_aware, thresholded, without
from jaxdiff.sampling.guidance import guide as differences
from jaxdiff.types import Condition, Denoiser, NoiseLevel

Draw = Callable[..., Float[Array, "B H W C"]]
"""(variables, keys, labels) -> x0; an editor's takes an image and what is known too."""


Weights = Mapping[str, Array | float]
"""The w of each guidance, "label" and "noise"."""


def guided(
    experiment: Experiment,
    guide: Experiment | None = None,
    estimator: Experiment | None = None,
) -> Callable[[PyTree, Weights], Denoiser]:
    """What makes the denoiser that `experiment.sampling` describes: (variables, weights).

    With `guide`, another network's experiment, the weight "label" is that of guidance away
    from it: autoguidance [AG], or [CFG] by an unconditional network of its own. With
    `estimator`, of the noise level, "noise" is the weight of guidance by it [NAG].
    Variables are the network's, or a tuple of the network's, guide's and estimator's.

    Raises:
        ValueError: the network, or the guide, estimates noise levels, the estimator does
            not or knows another path than the one that is sampled, or sizes differ.
    """
    s, others = experiment.sampling, [e for e in (guide, estimator) if e]
    _require_fit(experiment, guide, estimator)

    def make(variables: PyTree, weights: Weights) -> Denoiser:
        network, *rest = variables if others else (variables,)
        denoise, weaker = run_denoiser(experiment, network), []
        w = PlusPlus(weights["label"]) if s.plus_plus else weights["label"]
        if guide:
            weaker += [(run_denoiser(guide, rest.pop(0)), within(s.interval, w))]
        elif s.guidance or s.plus_plus:
            weaker += [(without(denoise, "label"), within(s.interval, w))]
        aware = within(s.noise_interval, weights["noise"])
        if s.noise_guidance and not estimator:
            weaker += [(without(denoise, "noise"), aware)]
        if weaker:
            denoise = dataclasses.replace(differences(denoise, *weaker), rule=s.rule)
        if estimator:
            level = run_denoiser(estimator, rest.pop())
            says = lambda x: tuple(jnp.moveaxis(level(x, UNREAD).level, -1, 0))
            denoise = noise_aware(denoise, says, aware)
        denoise = thresholded(denoise, s.threshold) if s.threshold else denoise
        return Clipped(denoise) if s.clip else denoise

    return make


def _require_fit(
    experiment: Experiment, guide: Experiment | None, estimator: Experiment | None
) -> None:
    """Refuses guidance that has no meaning for this experiment; see `guided`."""
    for e in (experiment, *([guide] if guide else [])):
        if isinstance(e.network, LevelEstimator):
            raise ValueError(
                "this run estimates noise levels and draws no images: use the run that it "
                f"started from, {e.init_from or 'a denoiser'}"
            )
    for e in (e for e in (guide, estimator) if e):
        if e.data.shape != experiment.data.shape:
            raise ValueError(
                f"images of {experiment.data.shape} cannot be guided by a network of "
                f"{e.data.shape}: both must be of one size"
            )
    ours = experiment.network.label_dim
    if guide and guide.network.label_dim not in (0, ours):
        raise ValueError(
            f"the guide knows {guide.network.label_dim} classes, the run {ours}: guide by "
            "a run with as many, or with none"
        )
    s = experiment.sampling
    if s.plus_plus and not (guide or experiment.label_dropout):
        raise ValueError(
            "sampling.plus_plus takes each step's noise from the network without labels, "
            "which needs one trained with and without them, but this run has label_dropout "
            "0: use another run's guide, or plus_plus = False"
        )
    if estimator and not isinstance(estimator.network, LevelEstimator):
        raise ValueError(
            "the estimator is a denoiser: train one with configs/digits_nag.py:level"
        )
    if estimator:
        _require_path(experiment, estimator)


def _require_path(experiment: Experiment, estimator: Experiment) -> None:
    """Refuses guided levels that are not on the path where the estimator saw its states.

    A path and a logSNR give one level; off the path it is k times that, and so is x.

    Raises:
        ValueError: k is not 1 somewhere; says which grid goes with which path.
    """
    s, path = experiment.sampling, estimator.schedule
    levels = s.grid(experiment.schedule, s.steps)[:-1]
    asked = np.asarray(
        Interval(1.0, *s.noise_interval).contains(levels) & (levels.alpha > 0)
    )
    there = path(path.time(levels.logsnr))
    size = lambda at: np.hypot(np.asarray(at.alpha), np.asarray(at.sigma))[asked]
    if not np.allclose(size(there), size(levels), rtol=1e-3):
        raise ValueError(
            f"the estimator was trained on {path}, and sampling.grid = {s.grid} on "
            f"{experiment.schedule} leads past states it never saw: sample with a grid on "
            "the estimator's path, or train an estimator on this one"
        )


UNREAD = NoiseLevel(1.0, 1.0)
"""A level for estimators, which read none."""


def within(interval: tuple[float, float], w: Any) -> Any:
    """The weight on the steps that start within an interval; w itself on all."""
    return w if interval == (0.0, math.inf) else Interval(w, *interval)


def sampler(
    experiment: Experiment,
    guide: Experiment | None = None,
    w: float = 0.0,
    estimator: Experiment | None = None,
    noise_w: float = 0.0,
) -> Draw:
    """The compiled sampler that `experiment.sampling` describes, guided as `guided` says.

    `w` is the weight of a `guide`, in place of `sampling.guidance`, and `noise_w` that of
    an `estimator`, in place of `sampling.noise_guidance`. Weights are arguments
    of the compiled program: others compile nothing. The levels are not, so that solvers
    may compute their coefficients in float64.
    """
    s, shape = experiment.sampling, experiment.data.shape
    levels = s.grid(experiment.schedule, s.steps)
    from_noise = lambda denoise, cond, keys: sample(
        denoise, cond, keys, shape, levels, s.solver
    )
    return _compiled(from_noise, experiment, guide, w, estimator, noise_w)


def editor(
    experiment: Experiment,
    strength: float = 1.0,
    resampling: tuple[int, int] = (1, 1),
    **guides: Any,
) -> Draw:
    """The compiled editor of images; it takes two arrays an image more than a sampler.

    (variables, keys, labels, image [B, H, W, C], known [B, H, W, C] or None) -> x0. The
    last floor(N strength) of the grid's N steps start from the image, noised to their
    first level [SDEdit]; with strength 1 from noise alone, and what is known is put back
    after each step, on a grid that goes up by `resampling[0]` levels and down again,
    `resampling[1]` times in all [RePaint]. `guides` are as `sampler` takes them.

    Raises:
        ValueError: the data are no pixels, a strength outside [0, 1], or a resampling
            below 1.
    """
    s = experiment.sampling
    if data.encoder_of(experiment.data) != data.Pixels():
        raise ValueError(f"only pixels can be edited, and {experiment.data} has latents")
    levels = s.grid(experiment.schedule, s.steps)
    levels = levels[editing.first_step(levels, strength) :]
    grid = editing.resampled(levels, *resampling)

    def edit(
        denoise: Denoiser,
        cond: Condition,
        keys: Key[Array, " B"],
        image: Float[Array, "B H W C"],
        known: Bool[Array, "B H W C"] | None,
    ) -> Float[Array, "B H W C"]:
        if levels.sigma.shape[0] == 1:
            return image
        start = image if strength < 1 else jnp.zeros_like(image)
        x = levels.alpha[0] * start + levels.sigma[0] * normal(keys, image.shape[1:])
        if known is None:
            return follow(denoise, cond, keys, x, levels, s.solver)
        solver = editing.Inpaint(s.solver, image, known)
        return follow(denoise, cond, keys, x, grid, solver)

    return _compiled(edit, experiment, **guides)


def _compiled(
    draw: Callable[..., Float[Array, "B H W C"]],
    experiment: Experiment,
    guide: Experiment | None = None,
    w: float = 0.0,
    estimator: Experiment | None = None,
    noise_w: float = 0.0,
) -> Draw:
    """(denoise, cond, keys, …) -> x0, as a program of (variables, keys, labels, …)."""
    s, denoiser = experiment.sampling, guided(experiment, guide, estimator)
    weights = {
        "label": w if guide else s.guidance,
        "noise": noise_w if estimator else s.noise_guidance,
    }
    for name, weight in weights.items():
        if not math.isfinite(weight):
            raise ValueError(f"the {name} guidance's weight must be finite, got {weight}")

    @jax.jit
    def compiled(
        variables: PyTree, keys: Array, label: Array, weights: Weights, *given: Array | None
    ) -> Float[Array, "B H W C"]:
        denoise, cond = denoiser(variables, weights), labelled(experiment, label)
        return draw(denoise, cond, keys, *given)

    def checked(
        variables: PyTree,
        keys: Array,
        label: Int[Array | np.ndarray, " B"],
        *given: Shaped[Array | np.ndarray, "B ..."] | None,
    ) -> Float[Array, "B H W C"]:
        require_labels(label, experiment.network.label_dim)
        return compiled(variables, keys, label, weights, *given)

    return checked


def image_keys(seeds: Int[np.ndarray, " B"]) -> Key[Array, " B"]:
    """The key of each image, apart from all keys that training draws from.

    Raises:
        ValueError: a seed outside 0 ... 2^32 - 1, which would be another's alias.
    """
    require_seeds(seeds)
    key = lambda seed: jax.random.fold_in(jax.random.key(seed), SAMPLING)
    return jax.vmap(key)(jnp.asarray(seeds, jnp.uint32))


def require_seeds(seeds: Int[np.ndarray, " N"]) -> None:
    """Refuses seeds outside 0 ... 2^32 - 1.

    Raises:
        ValueError: the smallest and the largest of them.
    """
    if seeds.min() < 0 or seeds.max() >= 2**32:
        raise ValueError(
            f"seeds must lie in 0 ... 2^32 - 1, got {seeds.min()} ... {seeds.max()}: "
            "start from a smaller one, or draw fewer images"
        )


SAMPLING = 0x5A3B1E
"""Sets image seeds apart from a run's seed: of one number, both make other keys."""


def images(
    draw: Draw,
    variables: PyTree,
    encoder: data.Encoder,
    seeds: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
    mesh: Mesh,
    batch: int,
    *,
    given: tuple[Shaped[np.ndarray, "N ..."] | None, ...] = (),
    what: str = "samples",
    progress: bool = False,
) -> Shaped[np.ndarray, "N H W C"]:
    """One image a seed, drawn `batch` at a time over the mesh, as the encoder decodes it.

    `given` is what `draw` takes of each image beside key and label. An image is a function
    of these alone: a batch that is not full, or does not split over the devices, is filled
    up with images that are thrown away. `what` names the results in messages.

    Raises:
        NotFiniteError: some x0 is NaN or infinite; says of which seeds.
        ValueError: a seed outside 0 ... 2^32 - 1.
    """
    require_seeds(seeds)
    size = min(batch, len(seeds))
    size += -size % mesh.size
    rows = sharding.rows(mesh, size)
    parts = []
    with bar(total=len(seeds), unit="images", desc="drawing", show=progress) as done:
        for start in range(0, len(seeds), size):
            part = slice(start, start + size)
            count = len(seeds[part])
            filled = [
                a if a is None else np.take(a[part], np.arange(size) % count, axis=0)
                for a in (seeds, label, *given)
            ]
            keys = np.asarray(jax.random.key_data(image_keys(filled[0])))
            asked = keys, filled[1].astype(np.int32), *filled[2:]
            ours = jax.tree.map(lambda a: a[rows], asked)
            keys, *rest = sharding.put_batch(ours, mesh)
            with compiling(done, first=start == 0):
                drawn = draw(variables, jax.random.wrap_key_data(keys), *rest)
            x0 = processes.on_host(drawn)[:count]
            require_finite(x0, what, seeds[part])
            parts.append(encoder.decode(x0))
            done.update(count)
    return np.concatenate(parts)
