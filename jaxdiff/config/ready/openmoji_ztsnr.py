"""Why samples are neither black nor white: the signal that a schedule leaves at its end.

    jaxdiff train --config=openmoji_ztsnr:eps --workdir=runs/eps
    jaxdiff train --config=openmoji_ztsnr:v --workdir=runs/v

Emoji on white. `eps` predicts the noise on Stable Diffusion's table, whose last entry
still holds 6.8 % of the image; `v` predicts v on the same table with zero terminal SNR.
All else is equal. Needs `pip install -e ".[openmoji]"`. Small, for a CPU: some 20
minutes a run on one core. Mean brightness of 512 images in 50 steps: eps 0.40 with Stable
Diffusion's leading steps and 0.42 with trailing ones, v 0.66, the data 0.65. Measured by

    python benchmarks/zero_terminal_snr.py --runs=runs/ztsnr --out=docs/results

at commit 9513b03; see docs/results/zero_terminal_snr.md.
"""

from ml_collections import ConfigDict

from jaxdiff import (
    Eps,
    Euler,
    ScaledLinearBetas,
    Table,
    UniformOnNetwork,
    V,
    WeightedError,
    zero_terminal_snr,
)
from jaxdiff.config import Experiment, Sampling, to_config
from jaxdiff.data import OpenMoji
from jaxdiff.networks import UNet
from jaxdiff.objectives.timesteps import UniformEntries
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.sampling.grids import Trailing

RECIPES = {
    "eps": (Table(ScaledLinearBetas()), Eps()),
    "v": (zero_terminal_snr(Table(ScaledLinearBetas())), V()),
}


def get_config(prediction: str = "v") -> ConfigDict:
    """The experiment, as flags can change it."""
    if prediction not in RECIPES:
        raise ValueError(f"prediction {prediction!r} is none of {', '.join(RECIPES)}")
    table, parameterization = RECIPES[prediction]
    return to_config(
        Experiment(
            data=OpenMoji(size=32),
            network=UNet(
                label_dim=-1,
                model_channels=16,
                channel_mult=(1, 2, 4),
                num_blocks=1,
                attn_resolutions=(8,),
                channels_per_head=32,
            ),
            schedule=table,
            times=UniformEntries(),
            parameterization=parameterization,
            loss=WeightedError(UniformOnNetwork(parameterization)),
            optimizer=EDM2Optimizer(
                learning_rate=0.02, ref_batches=1000.0, rampup_images=10_000.0, stds=(0.10,)
            ),
            sampling=Sampling(grid=Trailing(), steps=50, solver=Euler()),
            batch_size=32,
            steps=1500,
            checkpoint_every=500,
        )
    )
