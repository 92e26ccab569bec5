"""From a train state to images: `sample` as an experiment says, in batches, by seed."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key, UInt8
from tqdm import tqdm

from jaxdiff import pictures, sharding
from jaxdiff.config import Experiment
from jaxdiff.guidance import guide, without
from jaxdiff.sampling import sample
from jaxdiff.state import TrainState, ema_denoiser, labelled

Draw = Callable[[TrainState, Key[Array, " B"], Array], Float[Array, "B H W C"]]
"""(state, keys, labels) -> images in [-1, 1]."""


def sampler(experiment: Experiment, std: float) -> Draw:
    """The compiled sampler that `experiment.sampling` describes, of one EMA."""
    s = experiment.sampling
    levels = s.grid(experiment.schedule, s.steps)

    @jax.jit
    def draw(
        state: TrainState, keys: Key[Array, " B"], label: Array
    ) -> Float[Array, "B H W C"]:
        denoise = ema_denoiser(experiment, state, std)
        if s.guidance:
            denoise = guide(denoise, (without(denoise, "label"), s.guidance))
        cond = labelled(experiment, label)
        return sample(denoise, cond, keys, experiment.data.shape, levels, s.solver)

    return draw


def images(
    draw: Draw,
    state: TrainState,
    seeds: Int[np.ndarray, " N"],
    label: Int[np.ndarray, " N"],
    mesh: Mesh,
    batch: int,
    *,
    progress: bool = False,
) -> UInt8[np.ndarray, "N H W C"]:
    """One image a seed, drawn `batch` at a time over the mesh.

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
            keys = jax.vmap(jax.random.key)(jnp.asarray(filled[0], jnp.uint32))
            asked = (keys, jnp.asarray(filled[1], jnp.int32))
            drawn = draw(state, *jax.device_put(asked, sharding.split(mesh)))
            parts.append(pictures.to_uint8(np.asarray(drawn))[:count])
            bar.update(count)
    return np.concatenate(parts)
