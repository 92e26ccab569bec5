"""The denoiser that an experiment samples with: its network with the set guidance."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from jaxdiff.config import Experiment, Sampling
from jaxdiff.denoisers import Clipped, parameterizations
from jaxdiff.runs.state import run_denoiser
from jaxdiff.sampling.guidance import (
    Interval,
    PlusPlus,
    class_log_prob,
    less_likely,
    level_log_prob,
    thresholded,
    without,
)
from jaxdiff.sampling.guidance import guide as differences
from jaxdiff.types import Denoiser, NoiseLevel

GuidanceWeights = Mapping[str, Array | float]
"""The weights w: `guidance`, `noise_guidance` and `classifier_guidance` of `Sampling`."""


@dataclass(frozen=True)
class Guides:
    """Other networks that guide, and their weights.

    These weights are not in `Sampling`, whose weights are for guidance by the network
    itself: an experiment rejects those if its own network was not trained for it.

    Raises:
        ValueError: a weight that is not finite.
    """

    guide: Experiment | None = None
    guidance: float = 0.0
    """w of the guide, instead of `sampling.guidance`."""
    estimator: Experiment | None = None
    noise_guidance: float = 0.0
    """w of the estimator, instead of `sampling.noise_guidance`."""
    classifier: Experiment | None = None
    """The classifier's run; its w is `sampling.classifier_guidance`."""

    def __post_init__(self) -> None:
        for name in ("guidance", "noise_guidance"):
            if not math.isfinite(weight := getattr(self, name)):
                raise ValueError(f"{name} must be finite, got {weight}")

    @property
    def networks(self) -> tuple[Experiment | None, ...]:
        """Guide, estimator and classifier, as `guided` takes them."""
        return self.guide, self.estimator, self.classifier

    def weights(self, sampling: Sampling) -> GuidanceWeights:
        """The weights in use, under the names of the fields of `Sampling`."""
        return {
            "guidance": (self if self.guide else sampling).guidance,
            "noise_guidance": (self if self.estimator else sampling).noise_guidance,
            "classifier_guidance": sampling.classifier_guidance,
        }


def guided(
    experiment: Experiment,
    guide: Experiment | None = None,
    estimator: Experiment | None = None,
    classifier: Experiment | None = None,
) -> Callable[[PyTree, GuidanceWeights], Denoiser]:
    """(variables, weights) -> the denoiser that `experiment.sampling` describes.

    Weights are passed by their field names. With `guide`, the experiment of another
    network, `guidance` points away from that network: autoguidance [AG], or [CFG] with a
    separate unconditional network. `noise_guidance` uses the noise-level `estimator`
    [NAG] if there is one, and `classifier_guidance` the `classifier` [ADM]. Variables are
    the network's, or a tuple of those of the network and, where given, of the guide,
    estimator and classifier.

    Raises:
        ValueError: the network or the guide is not a denoiser, the estimator does not
            estimate noise levels or was trained on another path than the one sampled, the
            classifier has no classes or other ones than the run, or sizes differ.
    """
    s, others = experiment.sampling, [e for e in (guide, estimator, classifier) if e]
    _require_fit(experiment, guide, estimator, classifier)

    def make(variables: PyTree, weights: GuidanceWeights) -> Denoiser:
        network, *rest = variables if others else (variables,)
        denoise, weaker = run_denoiser(experiment, network), []
        w = weights["guidance"]
        w = PlusPlus(w) if s.plus_plus else w
        if guide:
            weaker += [(run_denoiser(guide, rest.pop(0)), within(s.interval, w))]
        elif s.guidance or s.plus_plus:
            weaker += [(without(denoise, "label"), within(s.interval, w))]
        aware = within(s.noise_interval, weights["noise_guidance"])
        if estimator:
            level = run_denoiser(estimator, rest.pop(0))
            estimate = lambda x: tuple(jnp.moveaxis(level(x, UNREAD).level, -1, 0))
            weaker += [(less_likely(level_log_prob(estimate)), aware)]
        elif s.noise_guidance:
            weaker += [(without(denoise, "noise"), aware)]
        if classifier:
            classify = run_denoiser(classifier, rest.pop(0))
            log_prob = class_log_prob(lambda x, at: classify(x, at).logits)
            variance = s.solver.variance if s.classifier_shift else None
            w = within(s.classifier_interval, weights["classifier_guidance"])
            weaker += [(less_likely(log_prob, variance), w)]
        if weaker:
            denoise = dataclasses.replace(differences(denoise, *weaker), rule=s.rule)
        denoise = thresholded(denoise, s.threshold) if s.threshold else denoise
        return Clipped(denoise) if s.clip else denoise

    return make


def _require_fit(
    experiment: Experiment,
    guide: Experiment | None,
    estimator: Experiment | None,
    classifier: Experiment | None,
) -> None:
    """Rejects guidance that does not fit this experiment; see `guided`."""
    for e in (experiment, *([guide] if guide else [])):
        if what := e.network.estimates:
            raise ValueError(
                f"this run estimates the {what} and draws no images: use the run that it "
                f"started from, {e.init_from or 'a denoiser'}"
            )
    for e in (e for e in (guide, estimator, classifier) if e):
        if e.data.shape != experiment.data.shape:
            raise ValueError(
                f"images of {experiment.data.shape} cannot be guided by a network of "
                f"{e.data.shape}: both must be of one size"
            )
    ours = experiment.network.label_dim
    if guide and guide.network.label_dim not in (0, ours):
        raise ValueError(
            f"the guide knows {guide.network.label_dim} classes, the run {ours}: guide by "
            "a run with as many, or with none"
        )
    s = experiment.sampling
    if s.classifier_guidance and not classifier:
        raise ValueError(
            f"sampling.classifier_guidance is {s.classifier_guidance}, which needs a "
            "classifier: name a run of --config=digits_classifier and the like, as "
            "--classifier"
        )
    if s.plus_plus and not (guide or experiment.label_dropout):
        raise ValueError(
            "sampling.plus_plus takes each step's noise from the network without labels, "
            "which needs one trained with and without them, but this run has label_dropout "
            "0: use another run's guide, or plus_plus = False"
        )
    if estimator and (what := estimator.network.estimates) != "noise level":
        raise ValueError(
            f"the estimator says {what and 'the '}{what or 'x0'} and no noise level: train "
            "one with --config=digits_nag:level"
        )
    if estimator:
        _require_path(experiment, estimator)
    if classifier:
        _require_classes(experiment, classifier)


def _require_classes(experiment: Experiment, classifier: Experiment) -> None:
    """Rejects a classifier that does not classify into the run's classes.

    It may be trained on any path: p(label | x) is a function on rays, as a denoiser is.

    Raises:
        ValueError: what the network predicts instead, or both numbers of classes.
    """
    if (what := classifier.network.estimates) != "class":
        raise ValueError(
            f"the classifier says {what and 'the '}{what or 'x0'} and no class: train one "
            "with --config=digits_classifier"
        )
    ours, theirs = experiment.network.label_dim, classifier.network.label_dim
    if not ours:
        raise ValueError(
            "the run knows no labels, so that none can be asked for: guide by the "
            f"classifier of {theirs} classes a run with network.label_dim = {theirs}"
        )
    if ours != theirs:
        raise ValueError(
            f"the classifier knows {theirs} classes, the run {ours}: train one on the data "
            "of the run"
        )
    if isinstance(classifier.parameterization, parameterizations.Unscaled):
        raise ValueError(
            "the classifier is not told the noise level, its parameterization is Unscaled: "
            "train one with another, such as EDM"
        )


def _require_path(experiment: Experiment, estimator: Experiment) -> None:
    """Rejects guided levels off the path that the estimator was trained on.

    On a path, a logSNR determines the level; off it, level and x are k times those.

    Raises:
        ValueError: k is not 1 somewhere; the message names a grid and path that fit.
    """
    s, path = experiment.sampling, estimator.schedule
    levels = s.grid(experiment.schedule, s.steps)[:-1]
    used = np.asarray(
        Interval(1.0, *s.noise_interval).contains(levels) & (levels.alpha > 0)
    )
    there = path(path.time(levels.logsnr))
    size = lambda at: np.hypot(np.asarray(at.alpha), np.asarray(at.sigma))[used]
    if not np.allclose(size(there), size(levels), rtol=1e-3):
        raise ValueError(
            f"the estimator was trained on {path}, and sampling.grid = {s.grid} on "
            f"{experiment.schedule} leads past states it never saw: sample with a grid on "
            "the estimator's path, or train an estimator on this one"
        )


UNREAD = NoiseLevel(1.0, 1.0)
"""A placeholder level for estimators, which do not read it."""


def within(interval: tuple[float, float], w: Any) -> Any:
    """The weight on the steps that start within an interval; w itself on all."""
    return w if interval == (0.0, math.inf) else Interval(w, *interval)
