"""The published models of EDM2 and how they are sampled, as tables of values.

`TRAINING` has a row for each network that was trained [EDM2; AG], `SAMPLING` one for
each published way to sample, with the value it reached. Networks differ from `UNet()` only
in width and dropout; batches have 2048 images, and Adam's betas are 0.9 and 0.99.
`experiment` turns a row into a run, which the configs edm2_img512 and edm2_img64 return.
"""

import math
import types
from collections.abc import Mapping
from dataclasses import dataclass

from jaxdiff.config import Experiment, Sampling
from jaxdiff.denoisers.parameterizations import EDM
from jaxdiff.networks import UNet
from jaxdiff.objectives.losses import Uncertain, WeightedError
from jaxdiff.objectives.timesteps import NormalLogSigma
from jaxdiff.objectives.weightings import UniformOnNetwork
from jaxdiff.optim import EDM2Optimizer
from jaxdiff.sampling.grids import Karras
from jaxdiff.sampling.guidance import Interval
from jaxdiff.sampling.solvers import Heun
from jaxdiff.schedules import LogSigma
from jaxdiff.types import Source

BATCH = 2048
"""Images in a batch."""

CLASSES = 1000
"""Classes of ImageNet."""

MI = 2**20
"""Durations are counted in 2^20 images."""


@dataclass(frozen=True)
class Preset:
    """One network and its training.

    `duration` is in images; `ref_batches` is the batch where the learning rate begins to
    decay; ln sigma is drawn from N(mean, deviation^2). `params` counts the conditional
    network's trainable parameters, gains and the uncertainty head included.
    """

    name: str
    model_channels: int
    duration: int
    learning_rate: float
    ref_batches: float
    dropout: float
    mean: float
    deviation: float
    params: int

    @property
    def steps(self) -> int:
        """Batches in the duration."""
        return self.duration // BATCH

    def parameters(self, label_dim: int = CLASSES) -> int:
        """Trainable parameters with this many classes, 0 = unconditional.

        The label embedding has 4 model_channels parameters per class.
        """
        return self.params - 4 * self.model_channels * (CLASSES - label_dim)


TRAINING: Mapping[str, Preset] = types.MappingProxyType(
    {
        row[0]: Preset(row[0], row[1], row[2] * MI, *row[3:])
        for row in (
            # name, channels, Mi images, rate, batches, dropout, mean, deviation, params
            ("img512-xxs", 64, 2048, 0.0170, 70000.0, 0.0, -0.4, 1.0, 31_309_029),
            ("img512-xs", 128, 2048, 0.0120, 70000.0, 0.0, -0.4, 1.0, 124_713_253),
            ("img512-s", 192, 2048, 0.0100, 70000.0, 0.0, -0.4, 1.0, 280_212_837),
            ("img512-m", 256, 2048, 0.0090, 70000.0, 0.1, -0.4, 1.0, 497_807_781),
            ("img512-l", 320, 1792, 0.0080, 70000.0, 0.1, -0.4, 1.0, 777_498_085),
            ("img512-xl", 384, 1280, 0.0070, 70000.0, 0.1, -0.4, 1.0, 1_119_283_749),
            ("img512-xxl", 448, 896, 0.0065, 70000.0, 0.1, -0.4, 1.0, 1_523_164_773),
            ("img64-xs", 128, 1024, 0.0120, 35000.0, 0.0, -0.8, 1.6, 124_710_949),
            ("img64-s", 192, 1024, 0.0100, 35000.0, 0.0, -0.8, 1.6, 280_209_381),
            ("img64-m", 256, 2048, 0.0090, 35000.0, 0.1, -0.8, 1.6, 497_803_173),
            ("img64-l", 320, 1024, 0.0080, 35000.0, 0.1, -0.8, 1.6, 777_492_325),
            ("img64-xl", 384, 640, 0.0070, 35000.0, 0.1, -0.8, 1.6, 1_119_276_837),
        )
    }
)
"""The networks, by name."""


@dataclass(frozen=True)
class Model:
    """A published model: a network of `TRAINING`, with the suffix "-uncond" if it is
    unconditional, after kimg thousands of images, averaged over the relative width std.

    >>> Model("img512-xs-uncond", 2147483, 0.045).file
    'edm2-img512-xs-uncond-2147483-0.045.pkl'
    """

    network: str
    kimg: int
    std: float

    @property
    def preset(self) -> Preset:
        """How it was trained."""
        return TRAINING[self.network.removesuffix("-uncond")]

    @property
    def label_dim(self) -> int:
        """Its number of classes."""
        return 0 if self.network.endswith("-uncond") else CLASSES

    @property
    def step(self) -> int:
        """Batches seen; kimg is the number of images, a multiple of 1024, // 1000."""
        return (1000 * self.kimg + 999) // 1024 * 1024 // BATCH

    @property
    def file(self) -> str:
        """The name of the published file, or of a reconstructed one."""
        return f"edm2-{self.network}-{self.kimg:07d}-{self.std:.3f}.pkl"


@dataclass(frozen=True)
class Guided:
    """A published way to sample: D = guide + scale (main - guide), and its value.

    The grid is `Karras()` with 32 steps of `Heun`. `metric` is "FID" or "FDD", the
    Frechet distance of DINOv2 features; `value` is for 50,000 images. With `steps`,
    (first, last) counted from 0, only these steps are guided [GI].
    """

    main: Model
    guide: Model | None
    scale: float
    metric: str
    value: float
    steps: tuple[int, int] | None = None

    @property
    def guidance(self) -> float:
        """The weight w of `Sampling`, D = main + w (main - guide): scale - 1."""
        return round(self.scale - 1, 6)

    @property
    def interval(self) -> tuple[float, float]:
        """The interval (low, high) of sigma / alpha that is guided, as in `Sampling`.

        >>> [round(end, 2) for end in SAMPLING["img512-s-interval-fid"].interval]
        [0.34, 3.33]
        """
        if self.steps is None:
            return (0.0, math.inf)
        interval = Interval.of_steps(self.guidance, Karras()(LogSigma(), 32), *self.steps)
        return (interval.low, interval.high)


SIZES = ("xs", "s", "m", "l", "xl", "xxl")
KIMG = (2147483, 2147483, 2147483, 1879048, 1342177, 939524)
"""The last snapshots of the networks for ImageNet-512."""


def _img512() -> dict[str, Guided]:
    """Unguided, and guided by the unconditional XS network at the main one's EMA width."""
    unguided = (1.0,) * len(SIZES)
    families = {
        "fid": (
            (0.135, 0.130, 0.100, 0.085, 0.085, 0.070),
            unguided,
            (3.53, 2.56, 2.25, 2.06, 1.96, 1.91),
        ),
        "dino": (
            (0.200, 0.190, 0.155, 0.155, 0.155, 0.150),
            unguided,
            (103.39, 68.64, 58.44, 52.25, 45.96, 42.84),
        ),
        "guid-fid": (
            (0.045, 0.025, 0.030, 0.015, 0.020, 0.015),
            (1.4, 1.4, 1.2, 1.2, 1.2, 1.2),
            (2.91, 2.23, 2.01, 1.88, 1.85, 1.81),
        ),
        "guid-dino": (
            (0.150, 0.085, 0.015, 0.035, 0.030, 0.015),
            (1.7, 1.9, 2.0, 1.7, 1.7, 1.7),
            (79.94, 52.32, 41.98, 38.20, 35.67, 33.09),
        ),
    }
    presets = {}
    for family, columns in families.items():
        metric = "FDD" if family.endswith("dino") else "FID"
        for size, kimg, std, w, value in zip(SIZES, KIMG, *columns, strict=True):
            guide = Model("img512-xs-uncond", 2147483, std) if w != 1 else None
            main = Model(f"img512-{size}", kimg, std)
            presets[f"img512-{size}-{family}"] = Guided(main, guide, w, metric, value)
    return presets


def _interval() -> dict[str, Guided]:
    """Guided by the unconditional XS network on some steps only [GI]."""
    rows = (
        # size, kimg, metric; EMA width of both, scale, first and last step, value
        ("s", 2147483, "fid", "FID", 0.025, 2.1, (15, 21), 1.68),
        ("s", 2147483, "dino", "FDD", 0.085, 3.2, (13, 19), 46.25),
        ("xxl", 939524, "fid", "FID", 0.015, 2.0, (17, 22), 1.40),
        ("xxl", 939524, "dino", "FDD", 0.015, 2.9, (13, 19), 29.16),
    )
    return {
        f"img512-{size}-interval-{suffix}": Guided(
            Model(f"img512-{size}", kimg, std),
            Model("img512-xs-uncond", 2147483, std),
            scale,
            metric,
            value,
            steps,
        )
        for size, kimg, suffix, metric, std, scale, steps, value in rows
    }


def _img64() -> dict[str, Guided]:
    """Unguided."""
    rows = (
        ("s", 1073741, 0.075, 1.58),
        ("m", 2147483, 0.060, 1.43),
        ("l", 1073741, 0.040, 1.33),
        ("xl", 671088, 0.040, 1.33),
    )
    return {
        f"img64-{size}-fid": Guided(
            Model(f"img64-{size}", kimg, std), None, 1.0, "FID", value
        )
        for size, kimg, std, value in rows
    }


def _autoguided() -> dict[str, Guided]:
    """Guided by a smaller network that was trained for less long [AG tab. 1]."""
    rows = (
        # main network and kimg, guide's; for each metric: stds, scale, value
        (("img512-s", 2147483), ("img512-xs", 134217),
         (0.070, 0.125, 2.10, 1.34), (0.120, 0.165, 2.45, 36.67)),
        (("img512-xxl", 939524), ("img512-m", 268435),
         (0.075, 0.155, 2.05, 1.25), (0.130, 0.205, 2.30, 24.18)),
        (("img512-s-uncond", 2147483), ("img512-xs-uncond", 134217),
         (0.070, 0.110, 2.85, 3.86), (0.090, 0.125, 2.90, 90.39)),
        (("img64-s", 1073741), ("img64-xs", 134217),
         (0.045, 0.110, 1.70, 1.01), (0.105, 0.175, 2.20, 31.85)),
    )  # fmt: skip
    presets = {}
    for main, guide, *metrics in rows:
        named = zip((("fid", "FID"), ("dino", "FDD")), metrics, strict=True)
        for (suffix, metric), (std, guide_std, scale, value) in named:
            presets[f"{main[0]}-autog-{suffix}"] = Guided(
                Model(*main, std), Model(*guide, guide_std), scale, metric, value
            )
    return presets


SAMPLING: Mapping[str, Guided] = types.MappingProxyType(
    {**_img512(), **_interval(), **_img64(), **_autoguided()}
)
"""The published ways to sample, by name."""


def of_size(family: str, size: str) -> str:
    """The name of a row of `TRAINING`, with "-uncond" if the size ends so.

    Raises:
        ValueError: the family, "img512" or "img64", has no such size.

    >>> of_size("img64", "s-uncond")
    'img64-s-uncond'
    """
    if f"{family}-{size.removesuffix('-uncond')}" not in TRAINING:
        names = (name.partition("-") for name in TRAINING)
        known = ", ".join(last for first, _, last in names if first == family)
        raise ValueError(f"{size!r} is not a size: use one of {known}, or one with -uncond")
    return f"{family}-{size}"


def experiment(name: str, data: Source) -> Experiment:
    """The training run of a row of `TRAINING`; the suffix "-uncond" drops the classes.

    Losses are logged every 2^17 images; checkpoints, snapshots of averages and pictures
    are written every 2^23.

    Raises:
        ValueError: an unknown name.
    """
    if (base := name.removesuffix("-uncond")) not in TRAINING:
        known = ", ".join(TRAINING)
        raise ValueError(
            f"{name!r} is not a preset: use one of {known}, or one with -uncond"
        )
    preset, edm = TRAINING[base], EDM(sigma_data=0.5)
    return Experiment(
        data=data,
        network=UNet(
            label_dim=CLASSES if name == base else 0,
            model_channels=preset.model_channels,
            dropout=preset.dropout,
            dtype="bfloat16",
        ),
        schedule=LogSigma(),
        times=NormalLogSigma(preset.mean, preset.deviation),
        parameterization=edm,
        loss=Uncertain(WeightedError(UniformOnNetwork(edm))),
        optimizer=EDM2Optimizer(
            learning_rate=preset.learning_rate,
            ref_batches=preset.ref_batches,
            stds=(0.05, 0.10),
        ),
        sampling=Sampling(grid=Karras(), steps=32, solver=Heun(), std=0.10, images=64),
        batch_size=BATCH,
        steps=preset.steps,
        log_every=64,
        sample_every=4096,
        checkpoint_every=4096,
        snapshot_every=4096,
    )
