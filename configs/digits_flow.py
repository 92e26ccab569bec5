"""Digits as a rectified flow: velocity prediction, t logit-normal, Heun in 18 steps.

    python launch/train.py --config=configs/digits_flow.py --workdir=runs/flow

For comparison with configs/digits.py by benchmarks/digits_quality.py. Not yet compared: no
quality is claimed.
"""

from ml_collections import ConfigDict

from jaxdiff import Flow, Heun, RectifiedFlow, UniformOnNetwork, WeightedError
from jaxdiff.config import Experiment, Sampling, to_config
from jaxdiff.data import Digits
from jaxdiff.networks import UNet
from jaxdiff.objectives.timesteps import LogitNormal
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.sampling.grids import Uniform


def get_config() -> ConfigDict:
    """The experiment, as flags can change it."""
    return to_config(
        Experiment(
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
            schedule=RectifiedFlow(),
            times=LogitNormal(),
            parameterization=Flow(),
            loss=WeightedError(UniformOnNetwork(Flow())),
            optimizer=EDM2Optimizer(
                learning_rate=0.02, ref_batches=1000.0, rampup_images=20_000.0, stds=(0.10,)
            ),
            sampling=Sampling(grid=Uniform(), steps=18, solver=Heun()),
            batch_size=128,
            steps=2000,
        )
    )
