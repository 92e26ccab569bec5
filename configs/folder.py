"""A folder of images of your own, one sub-folder a class, cropped and resized.

    python launch/train.py --config=configs/folder.py --workdir=runs/mine \\
        --config.data.path=my/images --config.data.size=64

Without sub-folders the model is unconditional. The network suits 64x64 on a GPU; for a
first try on a CPU take --config.data.size=16 --config.network.model_channels=32.
"""

from ml_collections import ConfigDict

from jaxdiff import EDM, LogSigma, Uncertain, UniformOnNetwork, WeightedError
from jaxdiff.config import Experiment, Sampling, to_config
from jaxdiff.data import Folder
from jaxdiff.networks import UNet
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.times import NormalLogSigma


def get_config() -> ConfigDict:
    """The experiment, as flags can change it."""
    edm = EDM(sigma_data=0.5)
    return to_config(
        Experiment(
            data=Folder(path="my/images", size=64),
            network=UNet(
                label_dim=-1,
                model_channels=64,
                channel_mult=(1, 2, 3),
                num_blocks=2,
                channels_per_head=64,
                dropout=0.1,
            ),
            schedule=LogSigma(),
            times=NormalLogSigma(mean=-0.8, std=1.6),
            parameterization=edm,
            loss=Uncertain(WeightedError(UniformOnNetwork(edm))),
            optimizer=EDM2Optimizer(ref_batches=10_000.0, rampup_images=500_000.0),
            sampling=Sampling(images=64),
            batch_size=64,
            steps=100_000,
            label_dropout=0.1,
            log_every=100,
            sample_every=5000,
            checkpoint_every=1000,
        )
    )
