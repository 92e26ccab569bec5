"""Noise awareness guidance on handwritten digits: a denoiser and a noise-level estimator.

    jaxdiff train --config=digits_nag --workdir=runs/nag
    jaxdiff train --config=digits_nag:level --workdir=runs/level \\
        --config.init_from=runs/nag

The first is `digits` with the noise level withheld from a tenth of the images, as
noise awareness guidance needs [NAG]; the second turns it into an estimator of an image's
noise level, for jaxdiff noise_shift. A denoiser that was trained without this dropout can
learn it in a short second training:

    jaxdiff train --config=digits_nag:finetune \\
        --config.init_from=runs/digits --workdir=runs/finetune

They take 10, 8 and 4 minutes on 2 CPU cores that have other work too (commit d8638c8). The
estimator's spread over forward states of one level, sigma from 0.3 up, is 0.09 to 0.13 in
ln sigma; 64 pixels of pure noise determine it to 1 / sqrt(128) = 0.09. For the effect of
the guidance see docs/results/nag.md.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxdiff.config import Experiment, from_file, to_config
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.networks import LevelEstimator
from jaxdiff.objectives.losses import LevelLikelihood
from jaxdiff.objectives.timesteps import LogUniformSigma

DIGITS = from_file("digits")


def get_config(name: str = "denoiser") -> ConfigDict:
    """The denoiser, "finetune" or "level", as flags can change it."""
    kinds = {"denoiser": denoiser, "finetune": finetune, "level": level}
    if name not in kinds:
        raise ValueError(f"{name!r} is none of {', '.join(kinds)}")
    return to_config(kinds[name]())


def denoiser() -> Experiment:
    """The denoiser, with independent noise and label dropout of 0.1."""
    optimizer = dataclasses.replace(DIGITS.optimizer, stds=(0.05, 0.10))
    return dataclasses.replace(DIGITS, optimizer=optimizer, noise_dropout=0.1)


def finetune() -> Experiment:
    """A further quarter of the training, from a denoiser trained without noise dropout."""
    e = denoiser()
    optimizer = dataclasses.replace(e.optimizer, learning_rate=0.005)
    return dataclasses.replace(
        e, optimizer=optimizer, steps=500, init_from="runs/digits", checkpoint_every=250
    )


def level() -> Experiment:
    """An estimator of ln sigma on a denoiser's backbone, conditioned only on the class."""
    e = denoiser()
    return dataclasses.replace(
        e,
        network=LevelEstimator(e.network),
        times=LogUniformSigma(DIGITS.schedule.sigma_min, DIGITS.schedule.sigma_max),
        parameterization=Unscaled(),
        loss=LevelLikelihood(),
        init_from="runs/nag",
        noise_dropout=0.0,
        sample_every=0,
    )
