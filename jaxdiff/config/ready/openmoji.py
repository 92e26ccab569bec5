"""Colour emoji, 32x32, class-conditional: 2,175 images of OpenMoji (CC BY-SA 4.0).

    jaxdiff train --config=openmoji --workdir=runs/openmoji

Needs `pip install "jaxdiff[openmoji]"`; the SVG files are rendered once, in seconds. For
64x64 use --config.data.size=64. For a GPU. Not yet trained to the end: no quality is
claimed.
"""

from ml_collections import ConfigDict

from jaxdiff import EDM, LogSigma, Uncertain, UniformOnNetwork, WeightedError
from jaxdiff.config import Experiment, Sampling, to_config
from jaxdiff.data import OpenMoji
from jaxdiff.networks import UNet
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.optim import EDM2Optimizer


def get_config() -> ConfigDict:
    """The experiment, as flags can change it."""
    edm = EDM(sigma_data=0.6)
    return to_config(
        Experiment(
            data=OpenMoji(size=32),
            network=UNet(
                label_dim=-1,
                model_channels=64,
                channel_mult=(1, 2, 2),
                num_blocks=2,
                attn_resolutions=(16, 8),
                dropout=0.1,
            ),
            schedule=LogSigma(),
            times=NormalLogSigma(mean=-0.8, std=1.4),
            parameterization=edm,
            loss=Uncertain(WeightedError(UniformOnNetwork(edm))),
            optimizer=EDM2Optimizer(ref_batches=5000.0, rampup_images=200_000.0),
            sampling=Sampling(steps=18),
            batch_size=128,
            steps=40_000,
            label_dropout=0.1,
            log_every=100,
            sample_every=2000,
            checkpoint_every=1000,
        )
    )
