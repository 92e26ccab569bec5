"""Edits images with an experiment's sampler: redraws them from a noise level, or parts."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from jaxdiff.config import Experiment
from jaxdiff.runs.generate import Draw, compiled
from jaxdiff.runs.guided_denoiser import Guides
from jaxdiff.sampling import editing, follow, normal
from jaxdiff.types import Condition, Denoiser


def editor(
    experiment: Experiment,
    strength: float = 1.0,
    resampling: tuple[int, int] = (1, 1),
    guides: Guides = Guides(),
) -> Draw:
    """The compiled editor of images, which takes two more arrays than a sampler.

    (variables, keys, labels, x0 [B, H, W, C], known [B, H, W, C] or None) -> x0. The
    last floor(N strength) of the grid's N steps start from the image, noised to their
    first level [SDEdit], or with strength 1 from pure noise. Known pixels are restored
    after each step, on a grid that goes up by `resampling[0]` levels and down again,
    `resampling[1]` times in all [RePaint]. `guides` are as for `sampler`.

    Raises:
        ValueError: a strength outside [0, 1], or a resampling below 1.
    """
    return compiled(_edit, experiment, guides, strength, resampling)


def _edit(
    experiment: Experiment, strength: float, resampling: tuple[int, int]
) -> Callable[..., Float[Array, "B H W C"]]:
    """(denoise, cond, keys, image, known) -> x0, for `compiled`."""
    s = experiment.sampling
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

    return edit
