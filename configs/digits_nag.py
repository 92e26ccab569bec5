"""Noise awareness guidance on handwritten digits: a denoiser, and its instrument.

    python launch/train.py --config=configs/digits_nag.py --workdir=runs/nag
    python launch/train.py --config=configs/digits_nag.py:level --workdir=runs/level \\
        --config.init_from=runs/nag

The first is configs/digits.py with the noise level withheld from a tenth of the images,
which guidance by it needs [NAG]; the second turns it into an estimator of the noise level
that images hold, for launch/noise_shift.py. A denoiser that was trained without gains the
branch in a short second training:

    python launch/train.py --config=configs/digits_nag.py:finetune \\
        --config.init_from=runs/digits --workdir=runs/finetune

They take 10, 8 and 4 minutes on 2 CPU cores that have other work too (commit d8638c8). The
estimator's spread over forward states of one level, sigma from 0.3 up, is 0.09 to 0.13 in
ln sigma, where 64 pixels of pure noise tell it to 1 / sqrt(128) = 0.09. What the guidance
does, and does not, is in docs/results/nag.md.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxdiff import EDM, LogSigma, Uncertain, UniformOnNetwork, WeightedError
from jaxdiff.config import Experiment, Sampling, to_config
from jaxdiff.data import Digits
from jaxdiff.denoisers.parameterizations import Unscaled
from jaxdiff.networks import LevelEstimator, UNet
from jaxdiff.objectives.losses import LevelLikelihood
from jaxdiff.objectives.timesteps import LogUniformSigma, NormalLogSigma
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.sampling.grids import Karras

SIGMA_MIN, SIGMA_MAX = 0.02, 40.0


def get_config(name: str = "denoiser") -> ConfigDict:
    """The denoiser, "finetune" or "level", as flags can change it."""
    kinds = {"denoiser": denoiser, "finetune": finetune, "level": level}
    if name not in kinds:
        raise ValueError(f"{name!r} is none of {', '.join(kinds)}")
    return to_config(kinds[name]())


def denoiser() -> Experiment:
    """Told the noise level nine times in ten, the class likewise and apart from that."""
    edm = EDM(sigma_data=0.75)
    return Experiment(
        data=Digits(split="train"),
        network=UNet(
            label_dim=10,
            model_channels=32,
            channel_mult=(1, 2),
            num_blocks=1,
            attn_resolutions=(4,),
            channels_per_head=32,
            dropout=0.1,
        ),
        schedule=LogSigma(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX),
        times=NormalLogSigma(mean=-0.6, std=1.2),
        parameterization=edm,
        loss=Uncertain(WeightedError(UniformOnNetwork(edm))),
        optimizer=EDM2Optimizer(
            learning_rate=0.02, ref_batches=1000.0, rampup_images=20_000.0
        ),
        sampling=Sampling(
            grid=Karras(sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX), steps=18, std=0.10
        ),
        batch_size=128,
        steps=2000,
        label_dropout=0.1,
        noise_dropout=0.1,
        sample_every=1000,
        checkpoint_every=500,
    )


def finetune() -> Experiment:
    """A quarter of the training more, from a denoiser that always knew the level."""
    e = denoiser()
    optimizer = dataclasses.replace(e.optimizer, learning_rate=0.005)
    return dataclasses.replace(
        e, optimizer=optimizer, steps=500, init_from="runs/digits", checkpoint_every=250
    )


def level() -> Experiment:
    """An estimator of ln sigma on a denoiser's backbone, told the class and no level."""
    e = denoiser()
    return dataclasses.replace(
        e,
        network=LevelEstimator(e.network),
        times=LogUniformSigma(SIGMA_MIN, SIGMA_MAX),
        parameterization=Unscaled(),
        loss=LevelLikelihood(),
        init_from="runs/nag",
        noise_dropout=0.0,
        sample_every=0,
    )
