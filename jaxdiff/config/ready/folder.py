"""Your own images, in a folder or a ZIP file with one sub-folder per class; or records.

    jaxdiff train --config=folder --workdir=runs/mine \\
        --config.data.path=my/images --config.data.size=64

Labels may also be in a dataset.json, as EDM2 writes it; without either, the model is
unconditional. --config.data.flip=True mirrors images at random. With :records after the
config's name the path is a folder of shards from jaxdiff prepare_data. The network suits
64x64 on a GPU. For a first try, also on a CPU, use :try instead: 16x16, a small network,
2,000 steps, and a picture every 250.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxdiff import EDM, LogSigma, Uncertain, UniformOnNetwork, WeightedError
from jaxdiff.config import Experiment, Sampling, to_config
from jaxdiff.data import Folder, Records
from jaxdiff.networks import UNet
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.optim import EDM2Optimizer


def get_config(of: str = "images") -> ConfigDict:
    """The experiment, as flags can change it.

    Raises:
        ValueError: a word other than images, records and try.
    """
    if of not in ("images", "records", "try"):
        raise ValueError(f"{of!r} is none of images, records and try")
    e = experiment()
    if of == "records":
        e = dataclasses.replace(e, data=Records(path="my/records", size=64))
    return to_config(first_try(e) if of == "try" else e)


def experiment() -> Experiment:
    """Images in a folder, at 64x64."""
    edm = EDM(sigma_data=0.5)
    return Experiment(
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
        optimizer=EDM2Optimizer(ref_batches=10_000.0, rampup_images=64_000.0),
        sampling=Sampling(images=64),
        batch_size=64,
        steps=100_000,
        label_dropout=0.1,
        log_every=100,
        sample_every=1000,
        checkpoint_every=1000,
    )


def first_try(e: Experiment) -> Experiment:
    """The same, small enough to show in minutes whether it works."""
    optimizer = dataclasses.replace(
        e.optimizer, learning_rate=0.02, ref_batches=1000.0, rampup_images=6_400.0
    )
    return dataclasses.replace(
        e,
        data=dataclasses.replace(e.data, size=16),
        network=e.network.clone(
            model_channels=32, channel_mult=(1, 2), num_blocks=1, channels_per_head=32
        ),
        optimizer=optimizer,
        sampling=Sampling(steps=18, images=64),
        steps=2000,
        log_every=50,
        sample_every=250,
        checkpoint_every=250,
    )
