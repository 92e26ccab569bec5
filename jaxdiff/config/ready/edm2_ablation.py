"""EDM2's ablation from the ADM baseline to its final network, each step a config to train.

    jaxdiff train --config=edm2_ablation:c --workdir=runs/c \\
        --config.data.path=my/imagenet512.npz
    jaxdiff train --config=edm2_ablation:c-digits --workdir=runs/c

After the colon: the rung, a to g; with the suffix -digits, a tiny network on 8x8 digits for
a CPU. The paper's results on ImageNet-512 after 2^31 images, without guidance, each at its
best EMA length [EDM2 tab. 1]:

    rung                                     FID   10^6 params    10^9 op.   EMA std
    a  EDM's training of the ADM network    8.00         295.9       110.4     0.034
    b  + minor improvements                 7.24         291.8       100.4     0.090
    c  + architectural streamlining         6.96         277.8       100.3     0.075
    d  + magnitude-preserving layers        3.75         277.8       101.2     0.225
    e  + control of the learning rate       3.02         277.8       101.2     0.145
    f  + no group norm                      2.71         280.2       102.1     0.100
    g  + magnitude-preserving functions     2.56         280.2       102.2     0.130

benchmarks/macs.py counts parameters and operations of ours. The paper's rung a has an EMA
half-life of 50e6 images; ours tracks it and two widths from which others can be made. The
paper computed in float16; these use bfloat16. Nobody has trained them with jaxdiff yet, and
the digits' learning rates follow the paper's ratios without tuning: in 600 steps of a small
network all rungs were better at 4 times these rates or more, and even then the ladder did
not climb. In 3000 steps weights of g kept an rms of 0.99990: docs/results/edm2_ladder.md.
"""

import dataclasses

from ml_collections import ConfigDict

from jaxdiff import EDM, LogSigma, Uncertain, UniformOnNetwork, WeightedError
from jaxdiff.config import Experiment, Sampling, edm2_presets, to_config
from jaxdiff.data import Digits, Latents
from jaxdiff.networks import ADM, UNet
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.sampling.grids import Karras


def get_config(name: str = "g") -> ConfigDict:
    """The experiment of a rung, as flags can change it."""
    return to_config(experiment(name))


def experiment(name: str) -> Experiment:
    """The experiment of a rung, such as "c" or "c-digits".

    Raises:
        ValueError: there is no such rung or size.
    """
    rung, _, size = name.partition("-")
    if rung not in tuple("abcdefg") or size not in ("", "digits"):
        raise ValueError(
            f"{name!r} is not a rung of the ladder: use a letter from a to g, and -digits "
            "behind it for the small data"
        )
    if size:
        return down(digits(), rung)
    latents = Latents(path="my/imagenet512.npz", size=64)
    return down(edm2_presets.experiment("img512-s", latents), rung)


def down(g: Experiment, rung: str) -> Experiment:
    """The rung a ... g with the data, size and number of images of config G."""
    e, network, optimizer = g, g.network, g.optimizer
    if rung <= "f":
        network = network.clone(fixed_magnitudes=False, dropout=0.1)
    if rung <= "e":
        network = network.clone(group_norm=True)
    if rung <= "d":
        optimizer = dataclasses.replace(optimizer, forced_norm=False, ref_batches=0.0)
    if rung <= "c":
        network = network.clone(weight_norm=False)
        rate = optimizer.learning_rate / 50
        optimizer = dataclasses.replace(optimizer, learning_rate=rate)
        e = dataclasses.replace(e, loss_scale=100.0)
    if rung <= "b":
        same = ("label_dim", "model_channels", "channel_mult", "num_blocks", "dtype")
        same += ("attn_resolutions", "channels_per_head", "dropout")
        network = ADM(**{name: getattr(network, name) for name in same})
    if rung <= "a":
        resolutions = network.attn_resolutions
        resolutions = (2 * max(resolutions), *resolutions)
        network = network.clone(attn_resolutions=resolutions, uncertainty=False)
        optimizer = dataclasses.replace(
            optimizer,
            learning_rate=optimizer.learning_rate / 2,
            b2=0.999,
            halflives=(50e6 * e.steps * e.batch_size / 2**31,),
        )
        e = dataclasses.replace(
            e,
            times=NormalLogSigma(mean=-1.2, std=1.2),
            loss=e.loss.of,
            batch_size=2 * e.batch_size,
            steps=e.steps // 2,
        )
    return dataclasses.replace(e, network=network, optimizer=optimizer)


def digits() -> Experiment:
    """Config G on the handwritten digits, as the config `digits` but without dropouts."""
    edm = EDM(sigma_data=0.75)
    return Experiment(
        data=Digits(split="train"),
        network=UNet(
            label_dim=10,
            model_channels=32,
            channel_mult=(1, 2),
            num_blocks=1,
            attn_resolutions=(4,),
            channels_per_head=32,
        ),
        schedule=LogSigma(sigma_min=0.02, sigma_max=40.0),
        times=NormalLogSigma(mean=-0.6, std=1.2),
        parameterization=edm,
        loss=Uncertain(WeightedError(UniformOnNetwork(edm))),
        optimizer=EDM2Optimizer(
            learning_rate=0.02, ref_batches=1000.0, rampup_images=20_000.0
        ),
        sampling=Sampling(grid=Karras(sigma_min=0.02, sigma_max=40.0), steps=18),
        batch_size=128,
        steps=2000,
    )
