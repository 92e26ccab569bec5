"""The experiment as one value, and its checks."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from jaxdiff import data, networks, optim, schedules
from jaxdiff.config.fields import parts
from jaxdiff.denoisers import parameterizations
from jaxdiff.objectives import losses, timesteps, weightings
from jaxdiff.runtime.files import PathLike, keep_text
from jaxdiff.sampling import grids, solvers
from jaxdiff.sampling.guidance import Rule, Sum
from jaxdiff.schedules import posterior
from jaxdiff.types import (
    Grid,
    LossTerm,
    Network,
    Optimizer,
    Parameterization,
    Schedule,
    Solver,
    Source,
    Times,
    reprs,
)
from jaxdiff.types.ranges import (
    Choice,
    Finite,
    Fraction,
    Items,
    Limit,
    NonNegative,
    Positive,
    Whole,
    checked,
    quote,
)

SNAPSHOT_DTYPES = ("float16", "bfloat16", "float32")
"""Types that snapshots can be saved in."""

REMEDIES = ("stop", "skip", "roll_back")
"""What to do about a loss, gradient or weight that is not finite."""

Count = Annotated[int, Whole(1, 10**9)]
Every = Annotated[int, Whole(0, 10**9)]
"""A number of steps between two events; 0 = never."""
Bounds = tuple[NonNegative, Limit]
"""Low and high of sigma / alpha."""


@dataclass(frozen=True)
@checked
class Sampling:
    """How pictures are drawn, during training and by default after it.

    `guidance` w is classifier-free guidance D + w (D - D_unlabelled), scale 1 + w, on the
    steps that start within `interval`, low < sigma / alpha <= high; with `plus_plus` it is
    CFG++'s scale instead, from 0 to 1. `noise_guidance` is the weight of noise awareness
    guidance, within `noise_interval`, and `classifier_guidance` that of a classifier,
    which a command names, within `classifier_interval`. With `classifier_shift` the
    classifier shifts the mean of each step of `Ancestral` by its variance, as ADM's
    published samples were made. `rule` combines the differences.
    `clip` clips each x0 to [-1, 1], the range of the data, which eps-prediction on long
    tables needs, and `threshold` divides x0 by that quantile of its pixels, where above 1.
    `std` is the EMA that samples, one of `optimizer.lengths`; `images` is the number of
    images in a picture.

    Commands that draw have a flag for each field except `std` and `images`; its help is
    the text in the field's annotation.

    >>> Sampling(steps=18, solver=solvers.Euler()).grid == grids.Karras()
    True
    """

    grid: Annotated[Grid, "The noise levels between steps."] = grids.Karras()
    steps: Annotated[int, Whole(1, 10_000), "Solver steps."] = 32
    solver: Annotated[Solver, "What makes a step."] = solvers.Heun()
    guidance: Annotated[
        Finite, "w of D + w (D - guide's D), or D without label, where no guide is given."
    ] = 0.0
    interval: Annotated[
        Bounds, "guide the steps that start at sigma / alpha in between."
    ] = (0.0, math.inf)
    plus_plus: Annotated[bool, "Take guidance as CFG++'s scale, 0 to 1."] = False
    noise_guidance: Annotated[
        Finite, "w of D + w (D - D without noise level): noise awareness."
    ] = 0.0
    noise_interval: Annotated[Bounds, "the same for noise_guidance."] = (0.0, math.inf)
    classifier_guidance: Annotated[
        Finite, "w of D + w (sigma^2 / alpha) grad ln p(label | x), by the classifier."
    ] = 0.0
    classifier_interval: Annotated[Bounds, "the same for classifier_guidance."] = (
        0.0,
        math.inf,
    )
    classifier_shift: Annotated[
        bool, "Shift the mean of each Ancestral step by w variance grad ln p instead."
    ] = False
    rule: Annotated[Rule, "How guidance is added."] = Sum()
    threshold: Annotated[Fraction, "Dynamic thresholding's quantile; 0 is none."] = 0.0
    std: Positive = 0.10
    clip: Annotated[bool, "Hold each x0 to [-1, 1], where the data are."] = False
    images: Annotated[int, Whole(1, 10_000)] = 100

    def __post_init__(self) -> None:
        for name in ("interval", "noise_interval", "classifier_interval"):
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"{name} needs low < high, got {low}, {high}")
        if self.classifier_shift and not isinstance(self.solver, solvers.Ancestral):
            raise ValueError(
                f"classifier_shift moves the means of Ancestral, not of {self.solver}: use "
                "that solver, or classifier_guidance alone"
            )
        if self.plus_plus and not isinstance(self.solver, solvers.Euler | solvers.DDIM):
            raise ValueError(
                f"plus_plus is a step of Euler or DDIM, not of {self.solver}: use one of "
                "them, or guidance alone"
            )
        if self.plus_plus and not 0 <= self.guidance <= 1:
            raise ValueError(
                f"with plus_plus, guidance must lie in [0, 1], got {self.guidance}"
            )


@dataclass(frozen=True)
@checked
class Experiment:
    """One training run. Everything is frozen, prints, compares and can be saved.

    The objective is `loss_scale` times the loss summed over an image's elements, as in
    [EDM2]. Labels and noise levels are withheld from random images with probability
    `label_dropout` and `noise_dropout`, for guidance that needs a network without them.
    `accumulation` splits each batch into this many parts and adds up their gradients, to
    save memory; `fsdp` devices share one copy of the state, each holding a part of every
    large array, to save more.
    `init_from` names another run, and training starts from its averaged weights where the
    networks match (`train.finetuning`). The `_every` fields count steps, and 0 means never.
    `snapshot_every` also writes each average to a file of `snapshot_dtype`, from which
    averages of other widths are made after training; `magnitudes_every` logs the
    magnitudes of activations, weights and updates, layer by layer; `eval_every` scores
    `eval_images` images against the data with `eval_extractors`, as jaxdiff evaluate
    does. The latest `keep` checkpoints are kept, and those whose step is a multiple of
    `keep_every`.

    `on_nonfinite` applies to a step whose loss, gradient or resulting weights are not
    finite: "stop" the run; "skip" the update but count the step; or "roll_back" to the
    last checkpoint and go on from there with other noise, up to three times.

    >>> experiment = Experiment(batch_size=64, steps=10)
    >>> experiment.seed, experiment.data.shape
    (0, (8, 8, 1))
    """

    __repr__ = reprs.lines

    data: Source = data.Digits()
    network: Network = networks.UNet()
    schedule: Schedule = schedules.LogSigma()
    times: Times = timesteps.NormalLogSigma()
    parameterization: Parameterization = parameterizations.EDM()
    loss: LossTerm = losses.WeightedError(
        weightings.UniformOnNetwork(parameterizations.EDM())
    )
    optimizer: Optimizer = optim.EDM2Optimizer()
    sampling: Sampling = Sampling()
    batch_size: Annotated[int, Whole(1, 2**20)] = 128
    accumulation: Annotated[int, Whole(1, 2**20)] = 1
    steps: Count = 1000
    seed: Annotated[int, Whole(0, 2**32 - 1)] = 0
    init_from: PathLike = ""
    loss_scale: Positive = 1.0
    label_dropout: Fraction = 0.0
    noise_dropout: Fraction = 0.0
    log_every: Count = 50
    sample_every: Every = 1000
    checkpoint_every: Count = 500
    keep: Count = 2
    keep_every: Every = 0
    snapshot_every: Every = 0
    snapshot_dtype: Annotated[str, Choice(*SNAPSHOT_DTYPES)] = "float16"
    magnitudes_every: Every = 0
    fsdp: Annotated[int, Whole(1, 2**20)] = 1
    on_nonfinite: Annotated[str, Choice(*REMEDIES)] = "stop"
    eval_every: Every = 0
    eval_images: Annotated[int, Whole(10, 10**7)] = 500
    eval_extractors: Annotated[tuple[str, ...], Items(1, 20)] = ("lite0", "pixels8")

    def __post_init__(self) -> None:
        keep_text(self, "init_from")
        prediction, path = self.parameterization, self.schedule
        if prediction.has_pole_at_pure_noise and path.reaches_pure_noise:
            raise ValueError(
                f"{type(prediction).__name__} cannot be trained on {path}, which reaches "
                "alpha = 0, where the noise says nothing about the data: use V, X0, Flow "
                "or EDM there, or a schedule that keeps some signal"
            )
        _require_one_table(self)
        kinds = parameterizations.EDM, data.VAELatents
        stds = {part.sigma_data for kind in kinds for part in parts(self, kind)}
        if len(stds) > 1:
            raise ValueError(
                f"sigma_data is {sorted(stds)} in different places of the experiment: "
                "change parameterization.sigma_data and the loss's together"
            )
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"a batch of {self.batch_size} does not split into accumulation = "
                f"{self.accumulation} equal parts"
            )
        if self.sampling.guidance and not (self.label_dropout and self.network.label_dim):
            raise ValueError(
                f"sampling.guidance is {self.sampling.guidance}, which needs a network "
                f"trained with and without labels, but network.label_dim is "
                f"{self.network.label_dim} and label_dropout {self.label_dropout}"
            )
        if self.sampling.noise_guidance and not self.noise_dropout:
            raise ValueError(
                f"sampling.noise_guidance is {self.sampling.noise_guidance}, which needs a "
                "network trained with and without noise levels, but noise_dropout is 0: "
                "train on with --config=digits_nag:finetune as the model, or use an "
                "estimator of the level"
            )
        if self.sampling.noise_guidance and isinstance(prediction, parameterizations.X0):
            raise ValueError(
                "noise guidance of an X0 network has the wrong sign: what it expects of x0 "
                "without the level is no noisier. Train EDM, Eps, V or Flow instead"
            )
        if self.sampling.std not in self.optimizer.lengths:
            raise ValueError(
                f"sampling.std is {self.sampling.std}, but the EMAs tracked are "
                f"optimizer.lengths = {self.optimizer.lengths}: set it to one of them"
            )


def resolve(experiment: Experiment, dataset: Any) -> Experiment:
    """The experiment with network.label_dim = -1 replaced by the data's class count.

    >>> experiment = Experiment(network=networks.UNet(label_dim=-1))
    >>> resolve(experiment, experiment.data.load()).network.label_dim
    10

    Raises:
        ValueError: the network has classes, but not as many as the data, or the data do
            not match their source.
    """
    _require_data(experiment.data, dataset)
    network, classes = experiment.network, len(dataset.classes)
    if network.label_dim == -1:
        backbone = network.backbone.clone(label_dim=classes)
        whole = (
            backbone if network.backbone is network else network.clone(backbone=backbone)
        )
        return dataclasses.replace(experiment, network=whole)
    if network.label_dim not in (0, classes):
        raise ValueError(
            f"network.label_dim is {network.label_dim}, but the data have {classes} "
            "classes: use their number, -1 for the same, or 0 for no labels"
        )
    return experiment


def _require_data(source: Source, dataset: Any) -> None:
    """Rejects images whose shape differs from the source's, and labels out of range.

    Raises:
        ValueError: both shapes, or the label.
    """
    name = type(source).__name__
    if not isinstance(dataset, data.Dataset):
        raise ValueError(
            f"{name}.load() returned {quote(dataset)}: return jaxdiff.data.Dataset(images, "
            "classes), with images such as jaxdiff.data.Memory(image, label)"
        )
    stored = data.encoder_of(source).stored(source.shape)
    if dataset.shape != stored.shape:
        raise ValueError(
            f"{name}.shape is {source.shape}, so {stored.shape} is stored of an image, "
            f"but {name}.load() has images of {dataset.shape}: make both the same"
        )
    labels, classes = getattr(dataset.source, "label", None), len(dataset.classes)
    if labels is None:
        return
    shape, dtype = np.shape(labels), np.asarray(labels).dtype
    if shape != (len(dataset),) or dtype.kind not in "iu":
        raise ValueError(
            f"{name}.load() has labels of {dtype} {shape} for {len(dataset)} images: give "
            "each a whole number, -1 for none"
        )
    low, high = np.min(labels, initial=-1), np.max(labels, initial=-1)
    if low < -1 or (classes and high >= classes):
        raise ValueError(
            f"{name}.load() has the label {high if low >= -1 else low}, but {classes} "
            f"classes: labels are 0 to {classes - 1}, and -1 for none"
        )


def _require_one_table(experiment: Experiment) -> None:
    """Rejects laws, weightings and bounds made for another schedule than the run's.

    Raises:
        ValueError: the field, what it is made for, and what to use.
    """
    path, law = experiment.schedule, experiment.times
    entries = path.steps if isinstance(path, schedules.Table) else 0
    if isinstance(law, timesteps.UniformEntries) and not entries:
        raise ValueError(
            f"times.UniformEntries draws a table's entries, but {path} is none: use "
            "times.Uniform, or a schedules.Table"
        )
    if isinstance(law, timesteps.LossSecondMoment) and entries and law.steps != entries:
        raise ValueError(
            f"times.LossSecondMoment has {law.steps} steps, but the table has {entries}"
        )
    kinds = weightings.ELBO, weightings.DiscreteELBO, weightings.Sigmoid
    for weighting in (w for kind in kinds for w in parts(experiment.loss, kind)):
        if weighting.schedule != path:
            raise ValueError(f"{weighting} is made for another schedule than {path}")
    for bound in parts(experiment.loss, losses.VariationalBound):
        if bound.table != path:
            raise ValueError(f"the bound is of {bound.table}, but the schedule is {path}")
        if not isinstance(law, timesteps.UniformEntries | timesteps.LossSecondMoment):
            raise ValueError(
                f"losses.VariationalBound needs t on a table's entries, but {law} draws "
                "between them: use times.UniformEntries or times.LossSecondMoment"
            )
    learned = [*parts((experiment.loss, experiment.sampling), posterior.LearnedVariance)]
    if learned and not experiment.network.learned_variance:
        raise ValueError(
            "posterior.LearnedVariance needs network.learned_variance = True; without it "
            "use posterior.SmallVariance"
        )
