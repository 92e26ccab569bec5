"""The loss by noise level: what a step sums on its devices, and what a run records."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdiff.types import NoiseLevel

BINS, SPAN = 20, 20.0
"""Bins of equal width on -SPAN ... SPAN nats of log SNR; levels beyond are in the outer."""

MIDDLES = tuple(((np.arange(BINS) + 0.5) * 2 * SPAN / BINS - SPAN).tolist())
"""The log SNR in the middle of each bin, in nats."""


def by_logsnr(losses: Float[Array, " B"], at: NoiseLevel) -> Float[Array, "2 bins"]:
    """The sum of the losses in each bin of log SNR, and the number of images there.

    >>> at = NoiseLevel(jnp.ones(3), jnp.exp(jnp.array([-0.5, -0.6, 30.0])))
    >>> sums, counts = by_logsnr(jnp.array([1.0, 2.0, 5.0]), at)
    >>> MIDDLES[10], sums[10].item(), counts[10].item(), MIDDLES[0], sums[0].item()
    (1.0, 3.0, 2.0, -19.0, 5.0)
    """
    scaled = (at.logsnr.reshape(-1) + SPAN) * BINS / (2 * SPAN)
    inside = jnp.clip(jnp.floor(scaled), 0, BINS - 1)[:, None] == jnp.arange(BINS)
    sums = jnp.where(inside, losses[:, None], 0).sum(0)
    return jnp.stack([sums, inside.sum(0).astype(sums.dtype)])


def means(totals: Float[np.ndarray, "2 bins"]) -> dict[str, dict[str, float]]:
    """A line of loss_by_logsnr.jsonl: mean loss and images, by the middle of the bin.

    Bins without an image are left out.

    >>> means(np.pad([[6.0], [2.0]], ((0, 0), (0, 19))))
    {'loss': {'-19': 3.0}, 'images': {'-19': 2.0}}
    """
    seen = [
        (f"{m:g}", s, n) for m, s, n in zip(MIDDLES, *totals.tolist(), strict=True) if n
    ]
    loss = {middle: total / count for middle, total, count in seen}
    return {"loss": loss, "images": {middle: count for middle, _, count in seen}}
