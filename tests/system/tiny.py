"""The smallest run that has everything: seconds on any machine.

jaxdiff train --config=tests/system/tiny.py --workdir=runs/tiny

With :linear after the name it has the network of tests/linear.py, which is traced and
compiled in a tenth of the time, where a test is about commands and processes.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxdiff import EDM, Heun, LogSigma, Uncertain, UniformOnNetwork, WeightedError
from jaxdiff.config import Experiment, Sampling, to_config
from jaxdiff.data import Digits
from jaxdiff.networks import UNet
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.sampling.grids import Karras
from tests.linear import Linear


def get_config(network: str = "unet") -> ConfigDict:
    """The experiment, as flags can change it."""
    edm = EDM(sigma_data=0.75)
    plain = WeightedError(UniformOnNetwork(edm))
    e = Experiment(
        data=Digits(),
        network=UNet(
            label_dim=10,
            model_channels=8,
            channel_mult=(1,),
            num_blocks=1,
            attn_resolutions=(),
            channels_per_head=8,
            logvar_channels=8,
            dropout=0.1,
        ),
        schedule=LogSigma(),
        times=NormalLogSigma(),
        parameterization=edm,
        loss=Uncertain(plain),
        optimizer=EDM2Optimizer(ref_batches=10.0, rampup_images=64.0, stds=(0.1,)),
        sampling=Sampling(grid=Karras(), steps=2, solver=Heun(), std=0.1, images=10),
        batch_size=16,
        steps=40,
        label_dropout=0.1,
        log_every=2,
        sample_every=40,
        eval_every=40,
        eval_images=20,
        eval_extractors=("pixels8",),
        checkpoint_every=4,
    )
    if network == "linear":
        e = dataclasses.replace(e, network=Linear(label_dim=10), loss=plain)
    return to_config(e)
