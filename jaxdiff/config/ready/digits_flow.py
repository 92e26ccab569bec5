"""Digits as a rectified flow: velocity prediction, t logit-normal, Heun in 18 steps.

    jaxdiff train --config=digits_flow --workdir=runs/flow

For comparison with `digits` by benchmarks/digits_quality.py, which has not been
done yet: no quality is claimed.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxdiff import Flow, Heun, RectifiedFlow, UniformOnNetwork, WeightedError
from jaxdiff.config import Sampling, from_file, to_config
from jaxdiff.objectives.timesteps import LogitNormal
from jaxdiff.sampling.grids import Uniform

DIGITS = from_file("digits")


def get_config() -> ConfigDict:
    """The experiment, as flags can change it."""
    return to_config(
        dataclasses.replace(
            DIGITS,
            schedule=RectifiedFlow(),
            times=LogitNormal(),
            parameterization=Flow(),
            loss=WeightedError(UniformOnNetwork(Flow())),
            optimizer=dataclasses.replace(DIGITS.optimizer, stds=(0.10,)),
            sampling=Sampling(grid=Uniform(), steps=18, solver=Heun()),
            label_dropout=0.0,
        )
    )
