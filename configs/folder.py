"""Images of your own, in a folder or a ZIP file, one sub-folder a class; or records.

    python launch/train.py --config=configs/folder.py --workdir=runs/mine \\
        --config.data.path=my/images --config.data.size=64

Labels may also stand in a dataset.json, as EDM2 writes it; without either, the model is
unconditional. --config.data.flip=True mirrors images at random. With :records behind the
config's name the path is that of shards that launch/prepare_data.py wrote. The network
suits 64x64 on a GPU; for a first try on a CPU take --config.data.size=16
--config.network.model_channels=32.
"""

from ml_collections import ConfigDict

from jaxdiff import EDM, LogSigma, Uncertain, UniformOnNetwork, WeightedError
from jaxdiff.config import Experiment, Sampling, to_config
from jaxdiff.data import Folder, Records
from jaxdiff.networks import UNet
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.times import NormalLogSigma


def get_config(of: str = "images") -> ConfigDict:
    """The experiment, as flags can change it.

    Raises:
        ValueError: another word than images and records.
    """
    if of not in ("images", "records"):
        raise ValueError(f"{of!r} is none of images and records")
    edm = EDM(sigma_data=0.5)
    return to_config(
        Experiment(
            data=(
                Folder(path="my/images", size=64)
                if of == "images"
                else Records(path="my/records", size=64)
            ),
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
