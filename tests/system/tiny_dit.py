"""The smallest DiT that has everything of a published one, on latents of 8 x 8.

jaxdiff train --config=tests/system/tiny_dit.py --config.data.path=my/latents
"""

import dataclasses

from ml_collections import ConfigDict

from jaxdiff.config import from_config, published, to_config
from jaxdiff.data import LatentRecords
from jaxdiff.interop.published import Model
from jaxdiff.networks import DiT
from tests.system import tiny


def get_config() -> ConfigDict:
    """DiT's own training and sampling, with small numbers."""
    network = DiT(label_dim=2, width=16, depth=1, heads=2, learned_variance=True)
    dit = published.experiment(Model("dit", "", network, (8, 8, 4), {}, "float32"))
    sampling = dataclasses.replace(dit.sampling, steps=4, images=4, std=0.9)
    return to_config(
        dataclasses.replace(
            from_config(tiny.get_config()),
            data=LatentRecords("latents", 8, dit.data.encoder),
            network=network,
            schedule=dit.schedule,
            times=dit.times,
            parameterization=dit.parameterization,
            loss=dit.loss,
            optimizer=dataclasses.replace(dit.optimizer, decays=(0.9,)),
            sampling=sampling,
            steps=6,
            sample_every=6,
            eval_every=0,
            checkpoint_every=2,
        )
    )
