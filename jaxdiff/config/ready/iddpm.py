"""Improved DDPM as published: its own network, L_hybrid on the cosine table of 4000.

    jaxdiff train --config=iddpm:cifar10 --workdir=runs/iddpm-cifar10 \\
        --config.data.path=my/cifar-10-python.tar.gz
    jaxdiff train --config=iddpm:imagenet64 --workdir=runs/iddpm-64 \\
        --config.data.path=my/imagenet

Both are unconditional. Adam at 1e-4, batches of 128, EMA decay 0.9999, dropout 0.3 on
CIFAR-10; 500,000 and 1,500,000 batches. Pictures are drawn in 250 of the 4000 steps with
the learned variance. For GPUs: nobody has trained it with jaxdiff yet.
The config digits_iddpm trains with this objective on a CPU.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxdiff.config import Experiment, published, to_config
from jaxdiff.data import CIFAR10


def get_config(name: str = "cifar10") -> ConfigDict:
    """The experiment on "cifar10" or "imagenet64", as flags can change it."""
    kinds = {"cifar10": cifar10, "imagenet64": imagenet64}
    if name not in kinds:
        raise ValueError(f"{name!r} is none of {', '.join(kinds)}")
    return to_config(kinds[name]())


def cifar10() -> Experiment:
    """32 x 32 pixels, 52.5 million parameters."""
    e = published.training("iddpm-cifar10")
    data, network = CIFAR10("my/cifar-10-python.tar.gz"), e.network.clone(dropout=0.3)
    return dataclasses.replace(e, data=data, network=network)


def imagenet64() -> Experiment:
    """64 x 64 pixels, 121 million parameters."""
    return published.training("iddpm-64", path="my/imagenet")
