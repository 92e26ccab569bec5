"""CIFAR-10 at 32x32, by class or not: EDM2's network and training, with mirrored images.

    jaxdiff train --config=cifar10 --workdir=runs/cifar10 \\
        --config.data.path=my/cifar-10-python.tar.gz

The archive is read as published, https://www.cs.toronto.edu/~kriz/cifar.html, or extracted;
nothing in its pickles is run. Batches have 512 images, 200 million images in all, as in
[EDM]; labels are withheld from a tenth, for guidance. The config is for GPUs: nobody has
trained it with jaxdiff yet, and no quality is claimed.
"""

from ml_collections import ConfigDict

from jaxdiff import EDM, LogSigma, Uncertain, UniformOnNetwork, WeightedError
from jaxdiff.config import Experiment, Sampling, to_config
from jaxdiff.data import CIFAR10
from jaxdiff.networks import UNet
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.optim import EDM2Optimizer


def get_config() -> ConfigDict:
    """The experiment, as flags can change it."""
    edm = EDM(sigma_data=0.5)
    return to_config(
        Experiment(
            data=CIFAR10(path="my/cifar-10-python.tar.gz", flip=True),
            network=UNet(
                label_dim=-1,
                model_channels=128,
                channel_mult=(1, 2, 2),
                num_blocks=3,
                dropout=0.13,
                dtype="bfloat16",
            ),
            schedule=LogSigma(),
            times=NormalLogSigma(mean=-1.2, std=1.2),
            parameterization=edm,
            loss=Uncertain(WeightedError(UniformOnNetwork(edm))),
            optimizer=EDM2Optimizer(ref_batches=35_000.0),
            sampling=Sampling(steps=18, images=100),
            batch_size=512,
            steps=200_000_000 // 512,
            label_dropout=0.1,
            log_every=100,
            sample_every=5000,
            checkpoint_every=2500,
        )
    )
