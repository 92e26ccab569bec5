"""Noise shift: sampled states are noisier, or cleaner, than the level says [NAG].

`theory` has the shift that a given error makes, exactly and to first order, `shift`
the shift of a sampler's states against forward ones, `mixture` what states say of their
own level, in closed form for mixtures of blobs.
"""

from jaxdiff.evaluation.noise_shift.densities import draw_densities
from jaxdiff.evaluation.noise_shift.mixture import Blobs, LevelPosterior, Unaware
from jaxdiff.evaluation.noise_shift.shift import (
    Estimates,
    Mean,
    Shift,
    estimates,
    forward,
    measure,
)
from jaxdiff.evaluation.noise_shift.theory import (
    first_order_shift,
    snr_shift,
    variance_shift,
)

__all__ = [
    "Blobs",
    "Estimates",
    "LevelPosterior",
    "Mean",
    "Shift",
    "Unaware",
    "draw_densities",
    "estimates",
    "first_order_shift",
    "forward",
    "measure",
    "snr_shift",
    "variance_shift",
]
