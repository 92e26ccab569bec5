"""From variables to images: `sample` as an experiment says, in batches, by seed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped
from tqdm import tqdm

from jaxdiff import data, sharding
from jaxdiff.config import Experiment
from jaxdiff.denoisers import Clipped
from jaxdiff.guidance import Interval, without
from jaxdiff.guidance import guide as guided
from jaxdiff.networks import LevelEstimator
from jaxdiff.sampling import sample
from jaxdiff.state import labelled, run_denoiser

Draw = Callable[[PyTree, Key[Array, " B"], Array], Float[Array, "B H W C"]]
"""(variables, keys, labels) -> x0."""


def sampler(experiment: Experiment, guide: Experiment | None = None, w: float = 0) -> Draw:
    """The compiled sampler that `experiment.sampling` describes.

    With `guide`, another network's experiment, variables are the pair (network's, guide's)
    and the weight is `w` in place of `sampling.guidance`: autoguidance [AG], or [CFG] by
    an unconditional network of its own.

    The guidance weight is an argument of the compiled program: another compiles nothing.
    The levels are not, so that solvers may compute their coefficients in float64.
    """
    s = experiment.sampling
    if isinstance(experiment.network, LevelEstimator):
        raise ValueError(
            "this run estimates noise levels and draws no images: use the run that it "
            f"started from, {experiment.init_from or 'a denoiser'}"
        )
    levels = s.grid(experiment.schedule, s.steps)

    @jax.jit
    def draw(
        variables: PyTree,
        keys: Key[Array, " B"],
        label: Array,
        w: Array,
    ) -> Float[Array, "B H W C"]:
        network, *others = variables if guide else (variables,)
        denoise = run_denoiser(experiment, network)
        if guide or s.guidance:
            weaker = [run_denoiser(guide, other) for other in others]
            weaker = weaker or [without(denoise, "label")]
            denoise = guided(denoise, *((d, Interval(w, *s.interval)) for d in weaker))
        denoise = Clipped(denoise) if s.clip else denoise
        cond = labelled(experiment, label)
        return sample(denoise, cond, keys, experiment.data.shape, levels, s.solver)

    w = w if guide else s.guidance
    return lambda variables, keys, label: draw(variables, keys, label, w)


def image_keys(seeds: Int[np.ndarray, " B"]) -> Key[Array, " B"]:
    """The key of each image, apart from all keys that training draws from.

    Raises:
        ValueError: a seed outside 0 ... 2^32 - 1, which would be another's alias.
    """
    if seeds.min() < 0 or seeds.max() >= 2**32:
        raise ValueError(
            f"seeds must lie in 0 ... 2^32 - 1, got {seeds.min()} ... {seeds.max()}"
        )
    key = lambda seed: jax.random.fold_in(jax.random.key(seed), SAMPLING)
    return jax.vmap(key)(jnp.asarray(seeds, jnp.uint32))


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
    progress: bool = False,
) -> Shaped[np.ndarray, "N H W C"]:
    """One image a seed, drawn `batch` at a time over the mesh, as the encoder decodes it.

    An image is a function of its seed and label alone: a batch that is not full, or does
    not split over the devices, is filled up with images that are thrown away.
    """
    size = min(batch, len(seeds))
    size += -size % mesh.size
    parts = []
    with tqdm(total=len(seeds), unit="img", disable=None if progress else True) as bar:
        for start in range(0, len(seeds), size):
            part = slice(start, start + size)
            count = len(seeds[part])
            filled = [np.resize(a[part], size) for a in (seeds, label)]
            asked = (image_keys(filled[0]), jnp.asarray(filled[1], jnp.int32))
            drawn = draw(variables, *jax.device_put(asked, sharding.split(mesh)))
            parts.append(encoder.decode(np.asarray(drawn))[:count])
            bar.update(count)
    return np.concatenate(parts)
