"""Published models as runs: how DiT, SiT, ADM, Improved DDPM and EDM2 were trained, how
they are sampled, and the licence of their weights, as tables of values.

`experiment` reconstructs the training run of a network that `interop.published` read, from
its file and the papers; `training` makes the run for a model's name, to train from scratch.
`SAMPLING` has the published ways to sample, with the FID that each reached on 50,000
images. Guidance scales in the papers are 1 + w: 1.5 is w = 0.5.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType

from jaxdiff import data
from jaxdiff.config import edm2_presets
from jaxdiff.config.experiment import Experiment, Sampling
from jaxdiff.denoisers.parameterizations import EDM, Eps, Flow, TimeLabel
from jaxdiff.interop import published
from jaxdiff.interop.edm2_snapshot import Published
from jaxdiff.interop.published import Model
from jaxdiff.objectives.losses import (
    DensityDecoder,
    PixelDecoder,
    Total,
    Uncertain,
    VariationalBound,
    WeightedError,
)
from jaxdiff.objectives.timesteps import NormalLogSigma, Uniform, UniformEntries
from jaxdiff.objectives.weightings import UniformOnNetwork
from jaxdiff.optim import AdamW, EDM2Optimizer
from jaxdiff.sampling import grids
from jaxdiff.sampling.guidance import FirstChannels
from jaxdiff.sampling.solvers import Adaptive, Ancestral, EulerMaruyama, Heun, sde
from jaxdiff.schedules import CosineBetas, LinearBetas, LogSigma, RectifiedFlow, Table
from jaxdiff.schedules.posterior import LargeVariance, LearnedVariance
from jaxdiff.types import LossTerm, Source

LICENCES: Mapping[str, str] = MappingProxyType(
    {
        "edm2": "CC BY-NC-SA 4.0 (EDM2, NVIDIA): not for commercial use",
        "dit": "CC BY-NC 4.0 (DiT, Meta): not for commercial use",
        "sit": "MIT (SiT)",
        "adm": "MIT (ADM, OpenAI)",
        "iddpm": "MIT (Improved DDPM, OpenAI)",
    }
)
"""The licence of the published weights, by family."""
FLOW = Flow(TimeLabel(RectifiedFlow(), -1.0, 1.0))
"""SiT's prediction: its time runs from noise to data."""
DECAY = 0.9999
"""EMA decay per batch of DiT, SiT, ADM and Improved DDPM."""
STEPS: Mapping[str, int] = MappingProxyType(
    {
        "dit-xl2-256": 7_000_000,
        "sit-xl2-256": 7_000_000,
        "iddpm-cifar10": 500_000,
        "iddpm-64": 1_500_000,
    }
)
"""Batches that a published network was trained for, where known."""
BATCH, IDDPM_BATCH = 256, 128


def table(name: str) -> Table:
    """A table of betas by its name in `interop.published.SCHEDULES`.

    >>> table("cosine-4000").steps
    4000
    """
    kind, _, steps = name.partition("-")
    return Table({"linear": LinearBetas, "cosine": CosineBetas}[kind](int(steps)))


def index_label(path: Table, scaled: bool) -> TimeLabel:
    """The index 0 ... T - 1; `scaled`, as in Improved DDPM, 1000 / T times the index."""
    unit = 1000 / path.steps if scaled else 1.0
    return TimeLabel(path, unit * path.steps, -unit)


@dataclass(frozen=True)
class Way:
    """A published way to sample, and the FID that networks reached with it, by name.

    It is for networks that were trained on this kind of path. `make` makes the settings
    when they are used, since adaptive steps need diffrax.
    """

    make: Callable[[], Sampling]
    fid: Mapping[str, float] = field(default_factory=dict)
    path: type = Table

    @property
    def sampling(self) -> Sampling:
        """The settings.

        Raises:
            ImportError: they need a library that is not installed.
        """
        return self.make()


def _respaced(learned: bool = True, clip: bool = False, **fields: object) -> Sampling:
    """250 of a table's entries, evenly spaced from first to last [IDDPM sec. 4]."""
    solver = Ancestral(LearnedVariance() if learned else LargeVariance())
    return Sampling(grid=grids.Linspace(), steps=250, solver=solver, clip=clip, **fields)


_ODE = {"grid": grids.Uniform(), "steps": 125, "solver": Heun()}
_SDE = {
    "grid": grids.Uniform(last=0.04),
    "steps": 250,
    "solver": EulerMaruyama(
        sde.SigmaW(), RectifiedFlow(), tangent=True, limit=math.inf, last="mean"
    ),
}
_THREE = {"guidance": 0.5, "rule": FirstChannels()}


def _adaptive(**fields: object) -> Sampling:
    """From t = 1 to 0.001 within a tolerance, then one Euler step."""
    solver = Adaptive(rtol=1e-3, atol=1e-6, method="Dopri5")
    return Sampling(grid=grids.Uniform(last=0.001), steps=2, solver=solver, **fields)


_SIT: Mapping[str, Way] = {
    "sit-ode": Way(partial(Sampling, **_ODE)),
    "sit-ode-guided": Way(partial(Sampling, **_ODE, guidance=0.5)),
    "sit-ode-guided-3": Way(partial(Sampling, **_ODE, **_THREE)),
    "sit-adaptive-guided-3": Way(partial(_adaptive, **_THREE), {"sit-xl2-256": 2.15}),
    "sit-sde": Way(partial(Sampling, **_SDE), {"sit-xl2-256": 8.61}),
    "sit-sde-guided": Way(partial(Sampling, **_SDE, guidance=0.5)),
    "sit-sde-guided-3": Way(partial(Sampling, **_SDE, **_THREE), {"sit-xl2-256": 2.06}),
}
SAMPLING: Mapping[str, Way] = MappingProxyType(
    {
        "dit": Way(_respaced, {"dit-xl2-256": 9.62}),
        "dit-guided": Way(partial(_respaced, guidance=0.5)),
        "dit-guided-3": Way(
            partial(_respaced, **_THREE), {"dit-xl2-256": 2.27, "dit-xl2-512": 3.04}
        ),
        **{n: dataclasses.replace(way, path=RectifiedFlow) for n, way in _SIT.items()},
        "adm": Way(partial(_respaced, clip=True), {"adm-64": 2.07}),
        "iddpm": Way(partial(_respaced, clip=True)),
    }
)
"""The published ways to sample. With "-guided" the scale is 1.5 for all channels, with
"-guided-3" only for the first three, as the published samples of latents were drawn."""


def sampled_as(experiment: Experiment, name: str) -> Experiment:
    """The experiment sampled as in `SAMPLING`, with its own `std` and `images`.

    Raises:
        ValueError: it lacks the network, schedule or labels that this way needs.
    """
    own, path = experiment.sampling, SAMPLING[name].path
    if not isinstance(experiment.schedule, path):
        raise ValueError(
            f"{name!r} samples networks that were trained on a {path.__name__}, and this "
            f"one was on a {type(experiment.schedule).__name__}: choose another preset"
        )
    way = dataclasses.replace(SAMPLING[name].sampling, std=own.std, images=own.images)
    way.grid(experiment.schedule, way.steps)  # rejects tables without these entries
    return dataclasses.replace(experiment, sampling=way)


def training(name: str, path: str = "") -> Experiment:
    """The training of a published network by its name, such as dit-xl2-256 or iddpm-64.

    Transformers whose training length is not published get 400,000 batches, the length at
    which DiT's and SiT's papers compare sizes.

    Raises:
        ValueError: there is no such network.
    """
    run = experiment(published.named(name), path)
    return run if name in STEPS else dataclasses.replace(run, steps=400_000)


def experiment(
    model: Model, path: str = "", dtype: str = "float32", vae: str = ""
) -> Experiment:
    """The training that made a published network, as known from its file and the papers.

    `path` leads to the images or latents to train on; `dtype` is the type that the network
    computes in; `vae` is the folder of the VAE that decodes latents.

    Raises:
        ValueError: no data source has this number of channels, or a VAE for pixels.
    """
    network = model.network.clone(dtype=dtype)
    run = _EXPERIMENTS[model.family](dataclasses.replace(model, network=network), path)
    if not vae:
        return run
    if not isinstance(run.data, data.Latents):
        raise ValueError("this model draws pixels, no latents: leave out the VAE")
    encoder = dataclasses.replace(run.data.encoder, vae=vae)
    return dataclasses.replace(run, data=dataclasses.replace(run.data, encoder=encoder))


def _dit(model: Model, path: str) -> Experiment:
    schedule = table("linear-1000")
    prediction = Eps(index_label(schedule, scaled=False))
    latents = model.shape[-1] == 4
    return Experiment(
        data=_images(model, path),
        network=model.network,
        schedule=schedule,
        times=UniformEntries(),
        parameterization=prediction,
        loss=_hybrid(model, schedule, prediction, latents),
        sampling=_pictures(model, "dit-guided"),
        **_training(model),
    )


def _sit(model: Model, path: str) -> Experiment:
    return Experiment(
        data=_images(model, path),
        network=model.network,
        schedule=RectifiedFlow(),
        times=Uniform(),
        parameterization=FLOW,
        loss=WeightedError(UniformOnNetwork(FLOW)),
        sampling=_pictures(model, "sit-ode-guided"),
        **_training(model),
    )


def _adm(model: Model, path: str) -> Experiment:
    schedule = table(model.schedule)
    prediction = Eps(index_label(schedule, scaled=model.family == "iddpm"))
    return Experiment(
        data=_images(model, path),
        network=model.network,
        schedule=schedule,
        times=UniformEntries(),
        parameterization=prediction,
        loss=_hybrid(model, schedule, prediction),
        sampling=_pictures(model, model.family),
        **{**_training(model), "label_dropout": 0.0},
    )


def _hybrid(
    model: Model, schedule: Table, prediction: Eps, latents: bool = False
) -> LossTerm:
    """L_simple; with a learned variance, plus 0.001 times the bound [IDDPM eq. 16]."""
    simple = WeightedError(UniformOnNetwork(prediction))
    if not model.network.learned_variance:
        return simple
    decoder = DensityDecoder() if latents else PixelDecoder()
    bound = VariationalBound(schedule, decoder=decoder)
    return Total(((1.0, simple), (schedule.steps / 1000, bound)))


def _pictures(model: Model, name: str) -> Sampling:
    """A way of `SAMPLING`, without guidance or learned variance if the network has none."""
    way, net = SAMPLING[name].sampling, model.network
    if not net.label_dim:
        way = dataclasses.replace(way, guidance=0.0)
    if isinstance(way.solver, Ancestral) and not net.learned_variance:
        way = dataclasses.replace(way, solver=Ancestral(LargeVariance()))
    return dataclasses.replace(way, std=DECAY, images=64)


def _training(model: Model) -> dict:
    """Adam at 1e-4 without decay, on the loss averaged over an image; label dropout 0.1.

    Batches have 256 images [DiT], Improved DDPM's 128.
    """
    return {
        "optimizer": AdamW(learning_rate=1e-4, decays=(DECAY,)),
        "batch_size": IDDPM_BATCH if model.family == "iddpm" else BATCH,
        "steps": STEPS.get(model.name, 1),
        "loss_scale": 1 / math.prod(model.shape),
        "label_dropout": 0.1 if model.network.label_dim else 0.0,
    }


def _images(model: Model, path: str) -> Source:
    """Latents of 4 channels, or RGB images.

    Raises:
        ValueError: another number of channels.
    """
    side, _, channels = model.shape
    if channels == 4:
        encoder = data.VAELatents.ldm()
        return data.Latents(path or f"imagenet{8 * side}.npz", side, encoder)
    if channels == 3:
        return data.Folder(path or f"imagenet{side}", side)
    raise ValueError(
        f"the model has {channels} channels: jaxdiff has data for 3, RGB images, and for "
        "4, latents of Stable Diffusion's VAE"
    )


def _edm2(model: Model, path: str) -> Experiment:
    held, net = model.snapshot, model.network
    edm = EDM(sigma_data=held.sigma_data)
    family = {"StabilityVAEEncoder": "img512-", "StandardRGBEncoder": "img64-"}
    start = family.get(held.encoder, "?")
    known = [
        preset
        for name, preset in edm2_presets.TRAINING.items()
        if name.startswith(start)
        and (held.shape[0], preset.model_channels) == (64, net.model_channels)
    ]
    optimizer = EDM2Optimizer(stds=(0.05, 0.10))
    for preset in known:
        rates = {n: getattr(preset, n) for n in ("learning_rate", "ref_batches")}
        optimizer = dataclasses.replace(optimizer, **rates)
    return Experiment(
        data=_edm2_images(held, path),
        network=net,
        schedule=LogSigma(),
        times=NormalLogSigma(
            float(held.loss.get("P_mean", -0.4)), float(held.loss.get("P_std", 1.0))
        ),
        parameterization=edm,
        loss=Uncertain(WeightedError(UniformOnNetwork(edm))),
        optimizer=optimizer,
        sampling=Sampling(steps=32, std=0.10, images=64),
        batch_size=edm2_presets.BATCH,
        steps=max(held.images // edm2_presets.BATCH, 1),
    )


def _edm2_images(held: Published, path: str) -> Source:
    """The data that the model was trained on, from its encoder and its shape."""
    side, channels = held.shape[1:]
    if (held.encoder, channels) == ("StabilityVAEEncoder", 4):
        return data.Latents(path or "imagenet512.npz", side)
    if (held.encoder, channels) == ("StandardRGBEncoder", 3):
        return data.Folder(path or "imagenet64", side)
    raise ValueError(
        f"the model has {channels} channels and the encoder {held.encoder!r}: jaxdiff has "
        "data for StandardRGBEncoder with 3 and StabilityVAEEncoder with 4"
    )


_EXPERIMENTS: Mapping[str, Callable[[Model, str], Experiment]] = MappingProxyType(
    {"edm2": _edm2, "dit": _dit, "sit": _sit, "adm": _adm, "iddpm": _adm}
)
